"""Gates: each bound against arithmetic written out, and what is not measured does not pass."""

import math

import numpy as np
import pytest

from pretrain.pipeline.gate_tables import read_gates
from pretrain.pipeline.gates import Gate, Measured, check_gates
from pretrain.pipeline.parent import shares_of
from recokit import EmbeddingTable, write_version
from recokit.errors import ConfigError
from recokit.report import Report, Result
from recokit.table import RelationParameters
from recokit.toml_file import TomlFile

RELATIONS = {"rates": "movie", "sees": "movie", "follows": "user"}
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


class TestShares:
    @pytest.mark.parametrize(("share", "statuses"), [(0.02, ["passed", "passed"]), (0.031, ["failed", "failed"])])
    def test_one_entity_may_have_so_much_and_rise_so_far(self, share, statuses):
        gate = Gate("share", "movie", max=0.03, max_rise=0.01)
        found = check_gates([gate], measured(shares={"movie": share}, parent_shares={"movie": 0.02}))
        assert [checked.status for checked in found] == statuses
        assert (found[1].value, found[1].reference) == (share, 0.02)

    def test_without_a_yardstick_a_rise_is_skipped_and_without_degrees_it_fails(self):
        gate = Gate("share", "movie", max_rise=0.01)
        assert only(gate, measured(shares={"movie": 0.5})).status == "skipped"
        assert only(gate, Measured("v2", None, Report([]), shares={"movie": 0.5})).status == "skipped"
        assert only(gate, measured(shares={"user": 0.5})).status == "failed"

    def test_the_largest_is_of_the_edges_of_its_relations(self, tmp_path):
        table = EmbeddingTable.from_arrays(["a", "b", "c"], np.ones((3, 2), np.float32), entity="movie", version="v")
        other = EmbeddingTable.from_arrays(["x"], np.ones((1, 2), np.float32), entity="user", version="v")
        empty = np.zeros(0, np.float32)
        relations = [RelationParameters(name, "user", end, "identity", empty) for name, end in RELATIONS.items()]
        state = {"degrees-movie": np.array([5, 30, 15]), "degrees-user": np.array([90])}
        edges = {"rates": 40, "sees": 10, "follows": 60}
        version = write_version(
            tmp_path / "v", {"movie": table, "user": other}, relations=relations, meta={"edges": edges}, state=state
        )
        assert shares_of(version) == {"movie": 30 / (40 + 10), "user": 90 / (40 + 10 + 60)}


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


class TestStability:
    def test_on_the_first_night_there_is_nothing_to_be_stable_against(self):
        skipped = Result("v1", "stab@10", math.nan, group="user", protocol={"task": "stab", "kind": "stability"})
        gate = Gate("benchmark", "stab", min=0.5)
        assert only(gate, Measured("v1", None, Report([skipped], {}))).status == "skipped"
        assert only(gate, Measured("v1", "v0", Report([skipped], {}))).status == "failed"


GOOD = '[[benchmark]]\nname = "links"\n\n[[gate]]\nbenchmark = "links"\n'


class TestReading:
    def read(self, tmp_path, text):
        path = tmp_path / "pipeline.toml"
        path.write_text(text)
        names = {"entities": ["user", "ad"], "tables": ["user", "ad", "user-a"], "relations": ["clicks"]}
        return read_gates(TomlFile.read(path), **names)

    def test_a_share_and_its_rise(self, tmp_path):
        (gate,) = self.read(tmp_path, '[[gate]]\nshare = "user"\nmax = 0.02\nmax_rise = 0.01')
        assert gate == Gate("share", "user", max=0.02, max_rise=0.01)

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
            ('[[gate]]\nedges = "clocks"\nmin = 1', r":2: there is no relation 'clocks'; did you mean 'clicks'"),
            ('[[gate]]\nentities = "user-a"\nmin = 1', r":2: there is no entity type 'user-a'; did you mean 'user'"),
            ('[[gate]]\ndrift = "usr"\nmetric = "l2"\nmax = 1', r":2: there is no table 'usr'; did you mean 'user'"),
            ('[[gate]]\ndrift = "user"\nmetric = "l3"\nmax = 1', r":3: drift has no metric 'l3'; known: .*cosine"),
            ('[[gate]]\nshare = "user"', r":1: a gate needs a bound: max or max_rise"),
            ('[[gate]]\nshare = "user"\nmax = 2', r":3: max is 2, expected a share between 0 and 1"),
            ('[[gate]]\nshare = "user"\nmax_rise = -0.1', r":3: max_rise is -0.1, expected a share between 0 and 1"),
            ('[[gate]]\nshare = "usr"\nmax = 1', r":2: there is no entity type 'usr'; did you mean 'user'"),
            ('[[gate]]\nshare = "user"\nmin = 1', r":3: a gate about share has no 'min'"),
            (GOOD + "max_rise = 0.1", r":6: a gate about benchmark has no 'max_rise'"),
            (GOOD.replace('name = "links"', ""), r":5: there is no \[\[benchmark\]\] 'links'"),
        ],
    )
    def test_what_is_wrong_is_named_with_its_line(self, tmp_path, text, message):
        with pytest.raises(ConfigError, match=message):
            self.read(tmp_path, text)
