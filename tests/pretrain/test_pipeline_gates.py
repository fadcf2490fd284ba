"""Gates: each bound against arithmetic written out, and what is not measured does not pass."""

import math

import pytest

from pretrain.pipeline.gate_tables import read_gates
from pretrain.pipeline.gates import Gate, Measured, check_gates
from recokit.errors import ConfigError
from recokit.report import Report, Result
from recokit.toml_file import TomlFile

PROTOCOL = {"task": "links", "kind": "link", "filter": "10 pairs are not searched for"}


def row(name, value, half=0.01, **others):
    return Result(name, "recall@10", value, value - half, value + half, n=100, protocol=PROTOCOL, **others)


def measured(*rows, published=None, **others):
    return Measured(
        "v2", "v1", Report(list(rows), {}), None if published is None else Report([published], {}), **others
    )


def only(gate, found):
    (checked,) = check_gates([gate], found)
    return checked


NOISE = Gate("benchmark", "links", noise=1.0, against="parent")


class TestNoise:
    @pytest.mark.parametrize(("value", "status"), [(0.4501, "passed"), (0.4499, "failed")])
    def test_a_fall_of_the_half_widths_added_in_squares_is_allowed(self, value, status):
        # 0.5 - sqrt(0.03² + 0.04²) = 0.45
        checked = only(NOISE, measured(row("v2", value, 0.03), row("v1", 0.5, 0.04)))
        assert checked.status == status
        assert checked.noise == pytest.approx(0.05)

    def test_twice_the_noise_is_twice_as_much(self):
        gate = Gate("benchmark", "links", noise=2.0, against="parent")
        assert only(gate, measured(row("v2", 0.401, 0.03), row("v1", 0.5, 0.04))).status == "passed"
        assert only(gate, measured(row("v2", 0.399, 0.03), row("v1", 0.5, 0.04))).status == "failed"

    def test_a_number_is_taken_as_it_is(self):
        gate = Gate("benchmark", "links", max_drop=0.125, against="parent")
        assert only(gate, measured(row("v2", 0.375, 0.5), row("v1", 0.5, 0.5))).status == "passed"
        assert only(gate, measured(row("v2", 0.374, 0.5), row("v1", 0.5, 0.5))).status == "failed"

    def test_where_all_questions_agree_three_in_n_may_still_not(self):
        checked = only(NOISE, measured(row("v2", 0.96, 0.0), row("v1", 1.0, 0.0)))
        assert checked.noise == pytest.approx(math.hypot(3 / 100, 3 / 100))
        assert checked.status == "passed"

    def test_a_figure_without_an_interval_has_no_noise_and_fails(self):
        bare = Result("v2", "recall@10", 0.9, protocol=PROTOCOL)
        checked = only(NOISE, measured(bare, row("v1", 0.5)))
        assert checked.status == "failed"
        assert "give max_drop as a number" in checked.reason


class TestAgainst:
    def test_held_out_benchmarks_are_compared_in_both_ways_and_others_in_one(self):
        gate = Gate("benchmark", "links", noise=1.0)
        found = {"published": row("v1", 0.9)}
        both = check_gates([gate], measured(row("v2", 0.2), row("v1", 0.2), held_out=frozenset({"links"}), **found))
        assert [(each.status, each.reference) for each in both] == [("passed", 0.2), ("failed", 0.9)]
        one = check_gates([gate], measured(row("v2", 0.2), row("v1", 0.2), **found))
        assert [(each.status, each.reference) for each in one] == [("passed", 0.2)]

    def test_a_parent_that_has_seen_the_answers_is_no_yardstick(self):
        seen = {"links": "97% of tonight's held-out edges were training edges"}
        checked = only(NOISE, measured(row("v2", 0.5), row("v1", 0.99), published=row("v1", 0.51, 0.02), seen=seen))
        assert (checked.status, checked.reference) == ("passed", 0.51)
        assert "as it was published" in checked.reason

    def test_what_was_measured_otherwise_is_not_compared(self):
        other = Result("v1", "recall@10", 0.9, 0.8, 1.0, protocol={**PROTOCOL, "kind": "topic"})
        gate = Gate("benchmark", "links", noise=1.0, against="published")
        checked = only(gate, measured(row("v2", 0.1), published=other))
        assert checked.status == "skipped"
        assert "measured otherwise (kind)" in checked.reason

    def test_how_many_pairs_a_filter_has_may_differ(self):
        other = Result(
            "v1", "recall@10", 0.9, 0.8, 1.0, protocol={**PROTOCOL, "filter": "99 pairs are not searched for"}
        )
        gate = Gate("benchmark", "links", noise=1.0, against="published")
        assert only(gate, measured(row("v2", 0.1), published=other)).status == "failed"

    def test_the_first_night_passes_and_says_so(self):
        first = Measured("v1", None, Report([row("v1", 0.5)], {}))
        gates = [NOISE, Gate("drift", "user", "l2", max=1.0), Gate("edges", "clicks", max_drop=0.1)]
        found = check_gates(gates, Measured("v1", None, first.tonight, counts={"edges": {"clicks": 5}}))
        assert [each.status for each in found] == ["skipped"] * 3
        assert all("no previous version" in each.reason for each in found)


class TestBounds:
    def test_min_and_max_are_two_bounds_of_one_gate(self):
        gate = Gate("benchmark", "links", min=0.4, max=0.6)
        assert [each.status for each in check_gates([gate], measured(row("v2", 0.4)))] == ["passed", "passed"]
        assert [each.status for each in check_gates([gate], measured(row("v2", 0.61)))] == ["passed", "failed"]

    def test_nan_passes_nothing(self):
        gate = Gate("benchmark", "links", min=-1.0, max=2.0)
        found = check_gates([gate], measured(Result("v2", "recall@10", math.nan, protocol=PROTOCOL)))
        assert [each.status for each in found] == ["failed", "failed"]

    def test_what_is_not_there_fails(self):
        assert only(Gate("benchmark", "other", min=0.0), measured(row("v2", 0.4))).status == "failed"
        checked = only(Gate("benchmark", "links", "recall@1", min=0.0), measured(row("v2", 0.4)))
        assert checked.status == "failed"
        assert "did you mean 'recall@10'?" in checked.reason
        assert only(Gate("drift", "user", "l2", max=1.0), measured(drift=Report([], {}))).status == "failed"

    def test_a_baseline_is_not_taken_for_the_version(self):
        assert (
            only(Gate("benchmark", "links", min=0.3), measured(row("v2", 0.2), row("random", 0.9))).status == "failed"
        )

    def test_a_group_is_asked_for_by_name_and_is_found_alone(self):
        rows = [row("v2", 0.5), row("v2", 0.1, group="likes")]
        assert only(Gate("benchmark", "links", min=0.3), measured(*rows)).value == 0.5
        assert only(Gate("benchmark", "links", group="likes", min=0.3), measured(*rows)).status == "failed"
        assert only(Gate("benchmark", "links", min=0.3), measured(row("v2", 0.4, group="likes"))).status == "passed"

    @pytest.mark.parametrize(("now", "status"), [(90, "passed"), (89, "failed"), (200, "passed")])
    def test_a_network_may_shrink_by_a_share(self, now, status):
        counts = {"entities": {"user": now}, "edges": {}}
        found = measured(counts=counts, parent_counts={"entities": {"user": 100}})
        assert only(Gate("entities", "user", max_drop=0.1), found).status == status


GOOD = '[[benchmark]]\nname = "links"\n\n[[gate]]\nbenchmark = "links"\n'


class TestReading:
    def read(self, tmp_path, text):
        path = tmp_path / "pipeline.toml"
        path.write_text(text)
        return read_gates(TomlFile.read(path))

    def test_a_multiple_of_the_noise(self, tmp_path):
        (gate,) = self.read(tmp_path, GOOD + 'max_drop = "2.5 noise"\nagainst = "published"\n')
        assert (gate.noise, gate.max_drop, gate.against) == (2.5, None, "published")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (GOOD, r":4: a gate needs a bound: min, max or max_drop"),
            (GOOD + 'max_drop = "a lot"', r":6: max_drop is 'a lot', expected a number, \"noise\""),
            (GOOD + "max_drop = -1", r":6: max_drop is -1, expected a number of at least 0"),
            (GOOD + "minimum = 1", r":6: unknown key 'minimum'; did you mean 'min'"),
            (GOOD.replace('benchmark = "links"', 'benchmark = "lins"') + "min = 1", r":5: .*did you mean 'links'"),
            (GOOD + 'drift = "user"\nmax = 1', r":4: a gate is about one of .*, got 2"),
            ('[[gate]]\nedges = "clicks"\nmax_drop = "noise"', r":3: max_drop is 'noise'"),
            ('[[gate]]\nedges = "clicks"\nmax_drop = 20', r":3: max_drop is 20, expected a share between 0 and 1"),
            ('[[gate]]\nedges = "clicks"\nmax_drop = 0.1\ngroup = "x"', r":4: a gate about edges has no 'group'"),
            ('[[gate]]\ndrift = "user"\nmax = 1', r":1: 'metric' is missing"),
            (GOOD + 'min = 1\nagainst = "parent"', r":7: against is 'parent'"),
        ],
    )
    def test_what_is_wrong_is_named_with_its_line(self, tmp_path, text, message):
        with pytest.raises(ConfigError, match=message):
            self.read(tmp_path, text)
