"""``recokit rank``, end to end: the ranker's own scores, the order within groups, and what it refuses."""

import json
from importlib.metadata import EntryPoint

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("torch")

from recokit.errors import VersionError
from recokit.features import FeatureSpec, Pretrained
from recokit.frame import check_candidates
from recokit.rankers import DLRM, ESMM, load_ranker
from recokit.scored_frames import ranked_groups, write_parts
from recokit.table import EmbeddingTable, write_version

pytestmark = pytest.mark.usefixtures("one_thread")

USERS = [f"{n:03d}" for n in range(12)]  # strings that look like numbers


def tables(version="v1", seed=0):
    rng = np.random.default_rng(seed)
    return {
        "user": EmbeddingTable.from_arrays(
            USERS, rng.normal(size=(12, 4)).astype(np.float32), entity="user", version=version
        ),
        "item": EmbeddingTable.from_arrays(
            np.arange(40), rng.normal(size=(40, 4)).astype(np.float32), entity="item", version=version
        ),
    }


def frame(seed=1):
    """Lists of 1 to 9 candidates for each user, some of them unknown."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 10, 12)
    candidates = np.concatenate([rng.permutation(45)[:count] for count in counts])
    return pd.DataFrame(
        {
            "query": np.repeat(USERS, counts),
            "candidate": candidates,
            "score": rng.normal(size=len(candidates)).astype(np.float32),
            "rank": np.concatenate([np.arange(count) + 1 for count in counts]),
            "age": rng.normal(size=len(candidates)),
            "source": rng.choice(["graph", "text"], len(candidates)),
        }
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A store with a version and its rankers, with one label and with two."""
    folder = tmp_path_factory.mktemp("saved")
    version = write_version(folder / "store" / "v1", tables())
    pretrained = [Pretrained("user_id", version.table("user")), Pretrained("item_id", version.table("item"))]
    rows = frame().rename(columns={"query": "user_id", "candidate": "item_id"})
    one = FeatureSpec(pretrained=pretrained, dense=["age"], label="clicked").fit(rows)
    two = FeatureSpec(pretrained=pretrained, label=["clicked", "bought"])
    made = {"one": DLRM(one, dim=3, top=(4,)).eval(), "two": ESMM(two, dim=3, tower=(4,)).eval()}
    for name, ranker in made.items():
        ranker.save(folder / name)
    return folder, made


@pytest.fixture
def command(saved, tmp_path, monkeypatch, run_cli):
    point = EntryPoint("rank", "recokit.rank_cli:rank", "recokit.commands")
    monkeypatch.setattr("recokit.cli.entry_points", lambda group: [point])
    monkeypatch.chdir(tmp_path)
    frame().to_parquet("frame.parquet", row_group_size=7)
    return lambda ranker, *words: run_cli("rank", saved[0] / ranker, *words)


COLUMNS = ("--columns", "user_id=query,item_id=candidate")


def expected(ranker) -> np.ndarray:
    return ranker.predict(frame().rename(columns={"query": "user_id", "candidate": "item_id"}))


def naive(rows: pd.DataFrame, k: int) -> pd.DataFrame:
    """The best k of each query in the order of queries, row by row."""
    kept = []
    for query in rows["query"].unique():
        of_query = [row for row in rows.to_dict("records") if row["query"] == query]
        of_query.sort(key=lambda row: -row["score"])
        kept += [{**row, "rank": place} for place, row in enumerate(of_query[:k], 1)]
    return pd.DataFrame(kept)


@pytest.mark.parametrize("block", [5, 65_536])
def test_rows_are_scored_as_the_ranker_scores_them(command, saved, block):
    ran = command("one", "frame.parquet", *COLUMNS, "--output", "out.parquet", "--block", block, "--json")
    assert (ran.code, ran.err) == (0, "")
    out, before = pd.read_parquet("out.parquet"), frame()
    np.testing.assert_allclose(out["score"], expected(saved[1]["one"]), rtol=1e-6)
    assert out.columns.tolist() == ["query", "candidate", "score_before", "rank_before", "age", "source", "score"]
    for name in ("query", "candidate", "age", "source"):
        assert out[name].tolist() == before[name].tolist()
    assert out["score_before"].tolist() == before["score"].tolist()
    said = json.loads(ran.out)
    assert said.pop("seconds") >= 0
    assert said == {
        "output": "out.parquet",
        "ranker": "dlrm",
        "rows": len(before),
        "written": len(before),
        "groups": None,
        "known": {"user_id": 1.0, "item_id": round(float((before["candidate"] < 40).mean()), 4)},
    }


@pytest.mark.parametrize("block", [1, 4, 65_536])
def test_candidates_are_ranked_anew(command, saved, block):
    words = ("--top-k", 3, "--output", "out.parquet", "--block", block, "--json")
    ran = command("one", "frame.parquet", *COLUMNS, *words)
    assert (ran.code, ran.err) == (0, "")
    out = pd.read_parquet("out.parquet")
    check_candidates(out)
    assert out.columns.tolist()[:4] == ["query", "candidate", "score", "rank"]
    wanted = naive(frame().assign(score=expected(saved[1]["one"])), 3)
    assert out[["query", "candidate", "rank"]].to_dict("list") == wanted[["query", "candidate", "rank"]].to_dict("list")
    np.testing.assert_allclose(out["score"], wanted["score"], rtol=1e-6)
    came = frame().set_index(["query", "candidate"])
    pairs = zip(out["query"], out["candidate"], strict=True)
    assert out["rank_before"].tolist() == [came.loc[pair, "rank"] for pair in pairs]
    said = json.loads(ran.out)
    assert (said["groups"], said["rows"], said["written"]) == (12, len(frame()), len(wanted))


def test_equal_scores_keep_their_order_across_blocks():
    part = pa.table({"query": [1, 1, 1, 2, 2], "candidate": [5, 6, 7, 5, 6], "score": [0.5, 0.9, 0.5, 0.1, 0.1]})
    parts = [part.slice(0, 2), part.slice(2, 2), part.slice(4)]
    assert pa.concat_tables(ranked_groups(parts, "query", None)).to_pydict() == {
        "query": [1, 1, 1, 2, 2],
        "candidate": [6, 5, 7, 5, 6],
        "score": [0.9, 0.5, 0.5, 0.1, 0.1],
        "rank": [1, 2, 3, 1, 2],
    }


def test_several_labels_have_a_score_each_and_one_decides(command, saved):
    ran = command("two", "frame.parquet", *COLUMNS, "--output", "plain.parquet")
    assert (ran.code, ran.err) == (0, "")
    assert "item_id known" in ran.out
    scores = expected(saved[1]["two"])
    out = pd.read_parquet("plain.parquet")
    np.testing.assert_allclose(out[["score_clicked", "score_bought"]], scores, rtol=1e-6)
    assert "score" not in out.columns
    command("two", "frame.parquet", *COLUMNS, "--output", "ranked.parquet", "--group", "query", "--by", "bought")
    out = pd.read_parquet("ranked.parquet")
    wanted = naive(frame().assign(score=scores[:, 1]), 99)
    assert out["candidate"].tolist() == wanted["candidate"].tolist()
    np.testing.assert_array_equal(out["score"], out["score_bought"])
    refused = command("two", "frame.parquet", *COLUMNS, "--output", "x.parquet", "--top-k", 3)
    assert refused.code == 2
    assert "clicked, bought: say with --by which one decides" in refused.err


def test_text_has_the_types_that_the_ranker_asks_for(command, saved):
    frame().to_csv("frame.csv", index=False)
    ran = command("one", "frame.csv", *COLUMNS, "--output", "out.parquet")
    assert (ran.code, ran.err) == (0, "")
    out = pd.read_parquet("out.parquet")
    assert out["query"].tolist() == frame()["query"].tolist()  # "007" is not 7
    np.testing.assert_allclose(out["score"], expected(saved[1]["one"]), rtol=1e-6)
    command("one", "frame.csv", *COLUMNS, "--output", "top.parquet", "--top-k", 1)
    assert pd.read_parquet("top.parquet")["query"].tolist() == USERS
    frame().assign(candidate="i7").to_csv("texts.csv", index=False)
    ran = command("one", "texts.csv", *COLUMNS, "--output", "x.parquet")
    assert ran.code == 2
    assert "i7" in ran.err


def test_several_files_and_none_of_their_rows(command, saved, tmp_path):
    (tmp_path / "parts").mkdir()
    frame().iloc[:9].assign(source=lambda f: f["source"].astype("category")).to_parquet("parts/a.parquet")
    frame().iloc[9:].to_parquet("parts/b.parquet")
    command("one", "parts", *COLUMNS, "--output", "out.parquet", "--top-k", 3)
    command("one", "frame.parquet", *COLUMNS, "--output", "whole.parquet", "--top-k", 3)
    out, whole = pd.read_parquet("out.parquet"), pd.read_parquet("whole.parquet")
    pd.testing.assert_frame_equal(out.drop(columns="score"), whole.drop(columns="score"), check_dtype=True)
    np.testing.assert_allclose(out["score"], whole["score"], rtol=1e-6)  # blocks of other sizes round otherwise
    frame().iloc[:0].to_parquet("none.parquet")
    ran = command("one", "none.parquet", *COLUMNS, "--output", "none-out.parquet", "--top-k", 3, "--json")
    assert (ran.code, json.loads(ran.out)["rows"]) == (0, 0)
    assert pq.read_schema("none-out.parquet").names[:4] == ["query", "candidate", "score", "rank"]
    frame().drop(columns="source").to_parquet("parts/c.parquet")
    ran = command("one", "parts", *COLUMNS, "--output", "x.parquet")
    assert (ran.code, "c.parquet has no column 'source'" in ran.err) == (2, True)


@pytest.mark.parametrize("where", ["store", "store/v1", "store@v1"])
def test_tables_come_from_a_store_or_a_version(command, saved, tmp_path, where):
    ran = command("one", "frame.parquet", *COLUMNS, "--output", "out.parquet", "--tables", saved[0] / where)
    assert (ran.code, ran.err) == (0, "")
    np.testing.assert_allclose(pd.read_parquet("out.parquet")["score"], expected(saved[1]["one"]), rtol=1e-6)


def test_another_version_is_taken_only_where_drift_is_allowed(command, saved, tmp_path):
    other = write_version(tmp_path / "v2", tables("v2", seed=5))
    words = ("one", "frame.parquet", *COLUMNS, "--output", "out.parquet", "--tables", "v2")
    ran = command(*words)
    assert ran.code == 2
    assert "was trained with table 'user' of version 'v1'" in ran.err
    assert "--allow-drift" in ran.err
    assert command(*words, "--allow-drift").code == 0
    drifted = load_ranker(saved[0] / "one", other, allow_drift=True)
    np.testing.assert_allclose(pd.read_parquet("out.parquet")["score"], expected(drifted), rtol=1e-6)
    ran = command(
        "one", "frame.parquet", *COLUMNS, "--output", "x.parquet", "--tables", "v2/user", "--tables", "v2/item"
    )
    assert (ran.code, "version 'v1'" in ran.err) == (2, True)


@pytest.mark.slow
def test_an_exported_ranker_says_the_same(command, saved, tmp_path):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    from recokit.rankers.export import export_onnx

    export_onnx(saved[1]["one"], "exported", tables="inputs")
    ran = command(tmp_path / "exported", "frame.parquet", *COLUMNS, "--output", "out.parquet", "--json")
    assert (ran.code, ran.err) == (0, "")
    assert json.loads(ran.out)["ranker"] == "dlrm (ONNX)"
    np.testing.assert_allclose(pd.read_parquet("out.parquet")["score"], expected(saved[1]["one"]), rtol=1e-4)
    other = write_version(tmp_path / "v2", tables("v2", seed=5))
    words = (tmp_path / "exported", "frame.parquet", *COLUMNS, "--output", "drifted.parquet", "--tables", "v2")
    assert "--allow-drift" in command(*words).err
    assert command(*words, "--allow-drift").code == 0
    drifted = expected(load_ranker(saved[0] / "one", other, allow_drift=True))
    np.testing.assert_allclose(pd.read_parquet("drifted.parquet")["score"], drifted, rtol=1e-4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--output", "x.parquet"), "has no column 'user_id'"),
        (("--output", "x.parquet"), "--columns user_id=COLUMN says what it is called here"),
        (("--columns", "user=query", "--output", "x.parquet"), "reads no column 'user'; did you mean 'user_id'"),
        (("--columns", "user_id", "--output", "x.parquet"), "expected the ranker's name and the frame's"),
        ((*COLUMNS, "--output", "x.csv"), "ends in .parquet"),
        ((*COLUMNS, "--output", "frame.parquet"), "frame.parquet exists already"),
        ((*COLUMNS, "--output", "x.parquet", "--top-k", 0), "--top-k is 0, expected at least 1"),
        ((*COLUMNS, "--output", "x.parquet", "--group", "user"), "has no column 'user'"),
        ((*COLUMNS, "--output", "x.parquet", "--by", "liked", "-k", 1), "no label 'liked'; did you mean 'clicked'"),
        ((*COLUMNS, "--output", "x.parquet", "--by", "clicked"), "add one of them"),
        ((*COLUMNS, "--output", "x.parquet", "--group", "source"), "stand in"),
        ((*COLUMNS, "--output", "x.parquet", "--tables", "nowhere"), "nowhere"),
        ((*COLUMNS, "--output", "x.parquet", "--group", "score"), "'score' is what is written"),
        ((*COLUMNS, "--output", "x.parquet", "--group", "rank"), "'rank' is what is written"),
        (
            ("--columns", "user_id=query,user_id=candidate", "--output", "x.parquet"),
            "'query' and 'candidate', expected once",
        ),
    ],
)
def test_bad_input_ends_with_one_line_and_writes_nothing(command, tmp_path, words, message):
    ran = command("one", "frame.parquet", *words)
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert message in ran.err
    assert sorted(each.name for each in tmp_path.iterdir()) == ["frame.parquet"]


def test_the_last_suffix_says_the_format(command, saved):
    frame().to_parquet("clicks.csv.parquet")
    assert command("one", "clicks.csv.parquet", *COLUMNS, "--output", "a.parquet").code == 0
    frame().to_csv("rows.CSV.gz", index=False, compression="gzip")
    assert command("one", "rows.CSV.gz", *COLUMNS, "--output", "b.parquet").code == 0
    for name in ("a", "b"):
        scores = pd.read_parquet(f"{name}.parquet")["score"]
        np.testing.assert_allclose(scores, expected(saved[1]["one"]), rtol=1e-6)


def test_rows_are_not_grouped_by_lists(command):
    frame().assign(tags=[["a"]] * len(frame())).to_parquet("tags.parquet")
    ran = command("one", "tags.parquet", *COLUMNS, "--output", "x.parquet", "--group", "tags")
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "column 'tags' holds list" in ran.err


def test_of_two_writers_the_slower_is_refused(tmp_path):
    def parts():
        yield pa.table({"score": [0.5]})
        (tmp_path / "out.parquet").write_bytes(b"another's")

    with pytest.raises(VersionError, match="exists already"):
        write_parts(tmp_path / "out.parquet", parts())
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [("out.parquet", b"another's")]


def test_what_is_no_ranker_is_refused(command, saved):
    ran = command("store/v1", "frame.parquet", "--output", "x.parquet")
    assert (ran.code, "is no ranker: it has no ranker.json" in ran.err) == (2, True)


def test_a_run_that_fails_halfway_leaves_nothing(command, tmp_path):
    bad = frame()
    bad.loc[bad.index[-1], "age"] = np.inf
    bad.to_parquet("bad.parquet")
    ran = command("one", "bad.parquet", *COLUMNS, "--output", "deep/x.parquet", "--block", 5)
    assert (ran.code, "infinite" in ran.err) == (2, True)
    assert list((tmp_path / "deep").iterdir()) == []
