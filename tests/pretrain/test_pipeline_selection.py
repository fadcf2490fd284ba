"""What gets a vector, and what is held out: against loops over the edges."""

import numpy as np
import pandas as pd
import pytest

from pretrain import Graph, Relation
from pretrain.pipeline.preparation import prepare_edges, stable_split
from pretrain.pipeline.selection import select_edges
from pretrain.pipeline.settings import load_pipeline
from recokit.errors import ConfigError, DataError

TOML = """
version = "v1"
output = "store"

[[relation]]
name = "clicks"
source = "user"
target = "item"
path = "clicks.csv"
columns = { time = "at" }

[[relation]]
name = "follows"
source = "user"
target = "user"
path = "follows.parquet"

[train]
dim = 4
"""


@pytest.fixture
def select(tmp_path):
    """Select edges by rules, and return the rows of each relation with the counts."""
    rng = np.random.default_rng(0)
    clicks = pd.DataFrame(
        {
            "source": [f"u{user}" for user in rng.integers(0, 12, 300)],
            "target": rng.integers(0, 30, 300),
            "at": pd.Timestamp("2026-06-01") + pd.to_timedelta(rng.permutation(300), "h"),
            "weight": rng.integers(1, 5, 300) / 2,
        }
    )
    clicks.loc[[3, 77], "source"] = None
    clicks.to_csv(tmp_path / "clicks.csv", index=False)
    follows = pd.DataFrame({"source": [f"u{n}" for n in range(10)], "target": [f"u{n + 1}" for n in range(10)]})
    follows.to_parquet(tmp_path / "follows.parquet")

    def run(rules="", *, columns='columns = { time = "at" }', **files):
        for name, content in files.items():
            (tmp_path / name.replace("_", ".")).write_text(content)
        (tmp_path / "p.toml").write_text(TOML.replace('columns = { time = "at" }', columns) + rules)
        settings = load_pipeline(tmp_path / "p.toml")
        folder = tmp_path / f"selected-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        counts = {row["relation"]: row for row in select_edges(settings.training, settings.selection, folder)}
        frames = {name: pd.read_parquet(folder / f"{name}.parquet") for name in counts}
        return frames, counts, folder, settings

    run.clicks, run.follows, run.folder = clicks, follows, tmp_path
    return run


def ends(frame):
    return list(zip(frame["source"], frame["target"], strict=True))


class TestSelection:
    def test_without_rules_all_edges_with_both_ends_stay_in_their_order(self, select):
        frames, counts, _, _ = select()
        whole = select.clicks.dropna()
        assert ends(frames["clicks"]) == ends(whole)
        assert frames["clicks"]["weight"].tolist() == whole["weight"].tolist()
        micros = [round(at.timestamp() * 1e6) for at in whole["at"]]
        assert frames["clicks"]["time"].tolist() == micros
        assert counts["clicks"]["without an end"] == 2
        assert (counts["clicks"]["read"], counts["clicks"]["selected"]) == (300, 298)

    def test_since_and_until_are_of_relations_with_times(self, select):
        rules = '[selection]\nsince = "2026-06-03"\nuntil = 2026-06-10\n'
        frames, counts, _, _ = select(rules)
        whole = select.clicks.dropna()
        kept = whole[(whole["at"] >= "2026-06-03") & (whole["at"] < "2026-06-10")]
        assert ends(frames["clicks"]) == ends(kept)
        assert counts["clicks"]["before since"] == (whole["at"] < "2026-06-03").sum()
        assert counts["clicks"]["at or after until"] == (whole["at"] >= "2026-06-10").sum()
        assert len(frames["follows"]) == 10

    def test_a_relation_without_times_refuses_rules_of_its_own_about_them(self, select):
        with pytest.raises(DataError, match="'follows' has no times"):
            select('[selection.relation.follows]\nsince = "2026-06-03"\n')

    def test_a_rule_for_all_is_not_its_own(self, select):
        rules = '[selection]\nsince = "2026-06-03"\n\n[selection.relation.follows]\nmax_edges = 1\n'
        frames, _, _, _ = select(rules)
        assert len(frames["follows"]) == 10

    def test_rules_about_times_that_nothing_has_are_refused(self, select):
        (select.folder / "clicks.csv").write_text("source,target\nu1,2\n")
        with pytest.raises(DataError, match=r"no relation has times, which the since and until of \[selection\]"):
            select('[selection]\nsince = "2026-06-03"\n', columns="")

    @pytest.mark.parametrize(
        ("at", "times", "kind"),
        [('"2026-06-03"', "1780272000", "numbers"), ("1780272000", "2026-06-01 10:00:00", "dates")],
    )
    def test_dates_and_numbers_are_not_compared(self, select, at, times, kind):
        # As microseconds, "until" would keep all edges of seconds, and a number of seconds drop all dates: in silence.
        (select.folder / "clicks.csv").write_text(f"source,target,at\nu1,2,{times}\nu2,3,{times}\n")
        with pytest.raises(DataError, match=f"until of relation 'clicks' is .*, and its file has {kind} as times"):
            select(f"[selection]\nuntil = {at}\n")

    def test_ids_are_kept_and_dropped_by_files(self, select):
        rules = '[selection.entity.user]\nkeep = "users.txt"\n\n[selection.entity.item]\ndrop = "items.csv"\n'
        frames, counts, _, _ = select(rules, users_txt="u1\nu2\n\nu3\n", items_csv="id,why\n7,spam\n8,spam\n")
        users, items = {"u1", "u2", "u3"}, {7, 8}
        whole = select.clicks.dropna()
        assert ends(frames["clicks"]) == [(s, t) for s, t in ends(whole) if s in users and t not in items]
        assert counts["clicks"]["source not kept"] == (~whole["source"].isin(users)).sum()
        assert counts["clicks"]["target not kept"] == (whole["source"].isin(users) & whole["target"].isin(items)).sum()
        assert ends(frames["follows"]) == [("u1", "u2"), ("u2", "u3")]

    def test_the_newest_edges_of_a_source_stay_in_their_order(self, select):
        frames, counts, _, _ = select("[selection.relation.clicks]\nmax_edges = 5\n")
        whole = select.clicks.dropna()
        newest = {index for _, part in whole.groupby("source") for index in part.nlargest(5, "at").index}
        assert ends(frames["clicks"]) == ends(whole[whole.index.isin(newest)])
        assert counts["clicks"]["beyond max"] == 298 - len(newest)

    def test_a_relation_that_loses_all_its_edges_says_why(self, select):
        with pytest.raises(DataError, match="'clicks' has no edge left: 300 read, 2 without an end, 298 before since"):
            select('[selection]\nsince = "2027-01-01"\n')

    def test_integers_are_asked_for_where_ids_are_integers(self, select):
        with pytest.raises(DataError, match=r"items\.txt: ids of this entity type are integers"):
            select('[selection.entity.item]\nkeep = "items.txt"\n', items_txt="seven\n")

    def test_triples_come_apart_by_relation(self, tmp_path):
        rows = [("u1", "likes", "i1"), ("u1", "follows", "u2"), ("u2", "likes", "i2"), ("u2", "follows", "u1")]
        pd.DataFrame(rows, columns=["source", "relation", "target"]).to_csv(tmp_path / "t.csv", index=False)
        head = 'version = "v"\noutput = "s"\n[triples]\npath = "t.csv"\n[train]\ndim = 2\n'
        (tmp_path / "p.toml").write_text(head)
        settings = load_pipeline(tmp_path / "p.toml")
        (tmp_path / "out").mkdir()
        counts = select_edges(settings.training, settings.selection, tmp_path / "out")
        assert [(row["relation"], row["selected"]) for row in counts] == [("follows", 2), ("likes", 2)]
        assert ends(pd.read_parquet(tmp_path / "out/likes.parquet")) == [("u1", "i1"), ("u2", "i2")]


class TestPreparation:
    def test_parts_are_all_edges_once_and_pairs_stay_together(self, select, tmp_path):
        rules = "[split]\nfraction = 0.3\n\n[validation]\nfraction = 0.3\n\n[entity.item]\nmin_count = 8\n"
        _, _, folder, settings = select(rules)
        prepared = tmp_path / "prepared"
        prepared.mkdir()
        counts = prepare_edges(folder, settings.training, prepared)
        whole = select.clicks.dropna()
        frequent = whole["target"].value_counts()
        whole = whole[whole["target"].isin(frequent[frequent >= 8].index)]
        read = {part: pd.read_parquet(prepared / part / "clicks.parquet") for part in ("known", "train", "validation")}
        held = pd.read_parquet(prepared / "held_out/clicks.parquet")
        assert ends(read["known"]) == [pair for pair in ends(whole) if pair not in set(ends(held))]
        assert sorted(ends(read["train"]) + ends(read["validation"])) == sorted(ends(read["known"]))
        assert not set(ends(read["train"])) & set(ends(read["validation"]))
        assert set(ends(pd.read_parquet(prepared / "known_pairs/clicks.parquet"))) == set(ends(read["known"]))
        assert set(ends(held)) | set(ends(read["known"])) == set(ends(whole))
        assert held[["query", "candidate"]].to_numpy().tolist() == held[["source", "target"]].to_numpy().tolist()
        parts = {part: of["clicks"] for part, of in counts["edges"].items()}
        assert parts["known"] + parts["held_out"] == len(whole)
        assert 0.15 < parts["held_out"] / len(whole) < 0.45

    def test_a_split_by_time_is_the_graphs_own(self, select, tmp_path):
        _, _, folder, settings = select('[split]\nat = "2026-06-10"\n')
        (tmp_path / "prepared").mkdir()
        prepare_edges(folder, settings.training, tmp_path / "prepared")
        whole = select.clicks.dropna()
        first = whole.groupby(["source", "target"])["at"].transform("min")
        held = set(ends(whole[first >= "2026-06-10"]))
        assert set(ends(pd.read_parquet(tmp_path / "prepared/held_out/clicks.parquet"))) == held


class TestStableSplit:
    def graph(self, pairs):
        frame = pd.DataFrame(pairs, columns=["source", "target"])
        return Graph.from_frames({"follows": frame}, [Relation("follows", "user", "user")])

    def held(self, pairs, **options):
        options = {"fraction": 0.3, "seed": 0, "part": "[split]", **options}
        out = stable_split(self.graph(pairs), **options)[1].pairs("follows")
        return set(zip(out["query"], out["candidate"], strict=True))

    def test_what_is_held_out_tonight_was_held_out_last_night_or_is_new(self):
        rng = np.random.default_rng(0)
        pairs = [tuple(pair) for pair in rng.integers(0, 200, (3000, 2)).tolist()]
        few, many = self.held(pairs[:1000]), self.held(pairs)
        assert few == many & set(pairs[:1000])
        assert 0.27 < len(many) / len(set(pairs)) < 0.33

    def test_both_directions_of_a_pair_go_together(self):
        pairs = [(a, b) for a in range(30) for b in range(30) if a != b]
        held = self.held(pairs)
        assert held == {(b, a) for a, b in held}

    def test_seeds_and_parts_draw_apart(self):
        rng = np.random.default_rng(1)
        pairs = [tuple(pair) for pair in rng.integers(0, 300, (4000, 2)).tolist()]
        first, others = self.held(pairs), (self.held(pairs, seed=1), self.held(pairs, part="[validation]"))
        for other in others:  # independent draws of 0.3 have 0.09 in common
            assert 0.06 < len(first & other) / len(set(pairs)) < 0.12

    def test_a_fraction_is_between_0_and_1(self):
        with pytest.raises(ConfigError, match="fraction must lie between 0 and 1, got 1"):
            self.held([(1, 2)], fraction=1)


LINES = TOML.count("\n")


class TestSettings:
    def load(self, tmp_path, rest, top="", **options):
        path = tmp_path / "p.toml"
        path.write_text(top + TOML.lstrip("\n") + rest)
        return load_pipeline(path, **options)

    def test_dates_are_filled_in_everywhere(self, tmp_path):
        from datetime import date

        top = 'previous = "{date-1}"\n'
        text = '[selection]\nsince = "{date-30}"\n'
        settings = self.load(tmp_path, text, top, version="nightly", day=date(2026, 3, 1))
        assert (settings.previous, settings.version) == ("2026-02-28", "nightly")
        assert settings.selection.of("clicks").since == "2026-01-30"
        assert settings.template["selection"]["since"] == "{date-30}"

    def test_a_version_that_was_begun_yesterday_stays_yesterdays(self, tmp_path):
        from pretrain.pipeline.work import Work

        settings = self.load(tmp_path, "")
        assert settings.work == tmp_path / ".p.pipeline"
        settings.work.mkdir()
        Work(settings.work).settle("v1", {"version": "v1", "date": "2025-12-31"})
        assert self.load(tmp_path, "").date.isoformat() == "2025-12-31"

    def test_the_store_may_be_a_url(self, tmp_path):
        (tmp_path / "p.toml").write_text(TOML.replace('"store"', '"s3://bucket/embeddings"'))
        assert load_pipeline(tmp_path / "p.toml").store == "s3://bucket/embeddings"

    @pytest.mark.parametrize(
        ("rest", "message"),
        [
            ("[selection]\nsinse = 1\n", r"unknown key 'sinse'; did you mean 'since'"),
            ("[selection]\nmax_edges = 0\n", r"max_edges must be at least 1, got 0"),
            ("[selection.relation.click]\nmax_edges = 1\n", r"no relation 'click'; did you mean 'clicks'"),
            ("[selection.entity.items]\nkeep = 'x'\n", r"entity type 'items'; did you mean 'item'"),
            ("[selection.entity.item]\nkeep = 'x.txt'\n", r"there is no file .*x\.txt"),
            ("[warm]\nepoch = 1\n", r"unknown key 'epoch'; did you mean 'epochs'"),
            ("[warm]\nepochs = 0\n", r"epochs"),
            ("[quantize]\ncodec = 'oqp'\n", r"no codec 'oqp'; did you mean 'opq'"),
            ("[publish]\nkeep = 0\n", r"keep must be at least 1, got 0"),
            ("[publish]\naliases = ['a b']\n", r"an alias is 'a b'"),
            ("[publish]\nnames = { item = 'items.csv:id,name' }\n", r"there is no file 'items\.csv:id,name'"),
            ("[drift]\nranker = 'r'\n", r"'impressions' is missing"),
            ("[drift]\nk = '10'\n", r"k is '10', expected a whole number"),
            ("[drift]\nseed = -1\n", r"seed must be a whole number of at least 0, got -1"),
            ("[quantize]\n", r"without sub_quantizers, it is 16, expected at most the dim, 4"),
            ("[quantize]\nsub_quantizers = 3\n", r"is 3, expected a divisor of the dim, 4, or the codec 'additive'"),
            ("[quantize]\ntables = ['usr']\nsub_quantizers = 2\n", r"no table 'usr'; did you mean 'user'"),
            ("[quantize]\nsweep = true\nsub_quantizers = 2\n", r"8 bytes or more, too many for the dim, 4"),
            ("[publish]\naliases = ['v1']\n", r"an alias cannot be called 'v1': that is what the version is called"),
            ("[publish]\naliases = ['latest']\n", r"an alias cannot be called 'latest'"),
            ("[publish]\nlabels = { itm = 'items.csv' }\n", r"labels are given of 'itm'; did you mean 'item'"),
            ("[warm]\ndim = 8\n", r"dim is 8 here and 4 in \[train\]"),
            ("[tune]\ntrials = 3\n", r"a pipeline tunes nothing"),
            ("[[gate]]\nedges = 'clicks'\nmin = nan\n", r"min is nan, expected finite numbers"),
            ("[selection]\nsince = '{date-999999}'\n", r"\{date-999999\} is in no year from 1 to 9999"),
            ("[benchmarks]\n", r"unknown key 'benchmarks'; did you mean 'benchmark'"),
        ],
    )
    def test_what_is_wrong_is_named_with_its_line(self, tmp_path, rest, message):
        with pytest.raises(ConfigError, match=message) as caught:
            self.load(tmp_path, rest)
        line = int(str(caught.value).split("p.toml:")[1].split(":")[0])
        assert LINES <= line < LINES + rest.count("\n")

    def test_a_store_is_a_folder_and_latest_no_version(self, tmp_path):
        (tmp_path / "store").write_text("")
        with pytest.raises(ConfigError, match=r"p\.toml:2: output is 'store', which is a file"):
            self.load(tmp_path, "")
        with pytest.raises(ConfigError, match="a version cannot be called 'latest'"):
            self.load(tmp_path, "", version="latest")

    def test_codes_of_mixtures_are_of_their_components(self, tmp_path):
        mixed = 'components = { user = 2 }\n[[network]]\nname = "a"\nrelations = ["clicks", "follows"]\n'
        quantize = "[quantize]\nsub_quantizers = 2\ntables = ['item-a', 'user-a-components']\n"
        assert self.load(tmp_path, mixed + quantize).quantize.tables == ("item-a", "user-a-components")
        with pytest.raises(ConfigError, match="no table 'user-a'; known: item-a, user-a-components"):
            self.load(tmp_path, mixed + quantize.replace("user-a-components", "user-a"))

    def test_a_start_that_does_not_exist(self, tmp_path):
        with pytest.raises(ConfigError, match=r"p\.toml:1: .*start.*'warn'.*did you mean 'warm'"):
            self.load(tmp_path, "", 'start = "warn"\n')
