"""The command line, as a user types it: results, machine output, and one clear line on bad input."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recokit.table import EmbeddingTable, open_version

CONFIG = """\
version = "v1"
output = "store"
[[relation]]
name = "clicks"
source = "user"
target = "ad"
path = "clicks.csv"
[split]
fraction = 0.2
[train]
dim = 8
epochs = 3
uniform_negatives = 10
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with a configuration and its edges; the working folder."""
    draw = np.random.default_rng(0)
    rows = pd.DataFrame({"source": draw.integers(20, size=120), "target": draw.integers(15, size=120)})
    rows = rows.assign(source="u" + rows["source"].astype(str), time=np.arange(120))
    rows.to_csv(tmp_path / "clicks.csv", index=False)
    (tmp_path / "c.toml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_configuration_becomes_a_version(project, run_cli):
    ran = run_cli("pretrain", "c.toml", "--save-model", "model")
    assert ran.code == 0, ran.err
    assert "clicks" in ran.out
    assert "120" in ran.out
    version = open_version(project / "store/v1", verify=True)
    assert set(version.tables) == {"user", "ad"}
    assert (project / "model/model.json").is_file()


def test_json_is_one_document(project, run_cli):
    ran = run_cli("pretrain", "c.toml", "--json")
    document = json.loads(ran.out)
    assert document["read"] == [{"relation": "clicks", "read": 120, "null": 0, "below_min_count": 0, "edges": 120}]
    assert document["entities"] == {"user": 20, "ad": 15}
    assert [row["epoch"] for row in document["epochs"]] == [1, 2, 3]
    assert {row["metric"] for row in document["results"]} == {
        "mrr",
        "mean_rank",
        "amri",
        "hits@1",
        "hits@3",
        "hits@10",
    }


def stopped(run_cli, monkeypatch, *words):
    """Run the command until it would export, and stop it there."""

    class Stopped(BaseException):
        pass

    with monkeypatch.context() as patch:
        patch.setattr("pretrain.cli.export", lambda *_, **__: (_ for _ in ()).throw(Stopped))
        with pytest.raises(Stopped):
            run_cli("pretrain", "c.toml", *words)


def test_a_run_that_was_stopped_is_gone_on_with_or_refused(project, run_cli, monkeypatch):
    run_cli("pretrain", "c.toml")
    (project / "store/v1").rename(project / "expected")
    stopped(run_cli, monkeypatch, "--save-model", "model")
    assert [path.name for path in (project / "store").iterdir()] == [".v1.checkpoint"]
    ran = run_cli("pretrain", "c.toml")
    assert ran.code == 2
    assert "store/.v1.checkpoint holds a run that was stopped: go on with --resume, or remove the folder" in ran.err

    (project / "c.toml").write_text(CONFIG.replace("epochs = 3", "epochs = 4"))
    ran = run_cli("pretrain", "c.toml", "--resume", "--save-model", "model")
    assert ran.code == 2
    assert "is a checkpoint of another run: its epochs is 3, this run's 4" in ran.err
    assert not (project / "store/v1").exists()

    (project / "c.toml").write_text(CONFIG)
    ours, others = f".partial-v1-{'0' * 32}", f".partial-v1-rc-{'0' * 32}"
    for name in (ours, others):
        (project / "store" / name).mkdir()
    ran = run_cli("pretrain", "c.toml", "--resume", "--save-model", "model")
    assert ran.code == 0, ran.err
    assert "model is there already and stays as it is" in ran.out
    assert {path.name for path in (project / "store").iterdir()} == {"v1", others}
    for file in ("user/vectors.npy", "ad/vectors.npy", "relations/translation.npy", "state/vectors-ad.npy"):
        assert (project / "store/v1" / file).read_bytes() == (project / "expected" / file).read_bytes()


def test_going_on_with_what_has_ended_or_never_begun_is_no_error(project, run_cli):
    ran = run_cli("pretrain", "c.toml", "--resume")
    assert ran.code == 0, ran.err
    before = (project / "store/v1/version.json").read_bytes()
    ran = run_cli("pretrain", "c.toml", "--resume", "--json")
    assert (ran.code, json.loads(ran.out)) == (0, {"version": "store/v1"})
    assert "store/v1 is there: nothing is left to go on with" in ran.err
    assert (project / "store/v1/version.json").read_bytes() == before
    ran = run_cli("pretrain", "c.toml")
    assert ran.code == 2
    assert "store/v1 exists already" in ran.err


def test_a_version_starts_from_another_and_is_held_near_it(project, run_cli):
    run_cli("pretrain", "c.toml", "--save-model", "model")
    drifts = {}
    for previous, alpha in (("store/v1", 0.0), ("model", 0.0), ("store/v1", 100.0)):
        name = f"from-{previous.split('/')[0]}-{alpha:.0f}"
        text = CONFIG.replace('"v1"', f'"{name}"\nprevious = "{previous}"')
        text = text.replace("[split]", f"[entity.user]\nalpha = {alpha}\n[split]")
        (project / "c.toml").write_text(text)
        ran = run_cli("pretrain", "c.toml")
        assert ran.code == 0, ran.err
        assert "user: 20 carried, 0 from neighbours, 0 at random" in ran.out
        version = open_version(project / "store" / name)
        assert version.parent == ("v1" if previous == "store/v1" else None)
        users = [each.table("user").vectors for each in (version, open_version(project / "store/v1"))]
        drifts[name] = float(np.linalg.norm(users[0] - users[1]))
    assert drifts["from-store-0"] == drifts["from-model-0"] > 1.3 * drifts["from-store-100"] > 0


def test_the_best_epoch_on_the_validation_part_is_told(project, run_cli):
    text = CONFIG.replace("[split]", "[validation]\nfraction = 0.2\n[split]") + "patience = 1\n"
    (project / "c.toml").write_text(text)
    ran = run_cli("pretrain", "c.toml", "--json")
    assert ran.code == 0, ran.err
    epochs = json.loads(ran.out)["epochs"]
    values = [epoch["mrr"] for epoch in epochs]
    assert f"best epoch {1 + values.index(max(values))}" in ran.err
    assert sum(open_version(project / "store/v1").meta["edges"].values()) < 0.7 * 120


def test_neighbours_are_those_of_numpy(project, run_cli):
    run_cli("pretrain", "c.toml")
    version = open_version(project / "store/v1")
    users, ads = version.table("user"), version.table("ad")
    rows = json.loads(
        run_cli("neighbors", "store/v1", "u3", "--table", "user", "--relation", "clicks", "-k", "4", "--json").out
    )
    query = version.relations["clicks"].apply(users.vectors[users.rows(["u3"])])[0].astype(np.float64)
    vectors = ads.vectors.astype(np.float64)
    cosines = vectors @ query / np.linalg.norm(query) / np.linalg.norm(vectors, axis=1)
    best = np.argsort(-cosines)[:4]
    assert [row["candidate"] for row in rows] == ads.ids.take(best).to_pylist()
    np.testing.assert_allclose([row["score"] for row in rows], cosines[best], rtol=1e-5)
    assert [row["rank"] for row in rows] == [1, 2, 3, 4]


def test_evaluate_measures_and_writes(project, run_cli):
    run_cli("pretrain", "c.toml")
    ran = run_cli(
        "evaluate", "store/v1", "clicks.csv", "--relation", "clicks", "-k", "15", "--output", "r.json", "--json"
    )
    values = {row["metric"]: row["value"] for row in json.loads(ran.out)["results"]}
    assert values["recall@15"] == 1.0  # fifteen ads, fifteen places
    assert json.loads((project / "r.json").read_text())["results"] == json.loads(ran.out)["results"]


def test_evaluate_stands_beside_floors_and_says_what_was_left_out(project, run_cli):
    run_cli("pretrain", "c.toml", "--save-split", "split")
    held_out, known = "split/held_out/clicks.parquet", "split/known/clicks.parquet"
    assert len(pd.read_parquet(project / held_out)) + len(pd.read_parquet(project / known)) == 120
    ran = run_cli("evaluate", "store/v1", held_out, "--relation", "clicks", "--seen", known, "--floors", "--json")
    results = json.loads(ran.out)["results"]
    assert {row["name"] for row in results} == {"v1", "popularity", "ItemKNN", "EASE"}
    assert all(row["protocol"]["filter"] == f"pairs of {known} are not searched for" for row in results)
    assert all(row["protocol"]["trained_on"].startswith("0%") for row in results)
    assert "careful" not in ran.err

    trained = run_cli("evaluate", "store/v1", known, "--relation", "clicks", "--json")
    assert "careful: 100% of the pairs are training edges" in trained.err
    lost = run_cli("evaluate", "store/v1", held_out, "--relation", "clicks", "--seen", "clicks.csv")
    assert lost.code == 2
    assert "held-out pairs are in clicks.csv too and could never be found" in lost.err
    alone = run_cli("evaluate", "store/v1", held_out, "--relation", "clicks", "--floors")
    assert alone.code == 2
    assert "--floors need --seen" in alone.err


def test_what_cannot_be_written_is_one_line_too(project, run_cli):
    (project / "store").write_text("a file where the store should be")
    ran = run_cli("pretrain", "c.toml")
    assert ran.code == 2
    assert ran.err.count("\n") == 1


def test_inspect_shows_versions_tables_and_stores(project, run_cli):
    run_cli("pretrain", "c.toml")
    card = json.loads(run_cli("inspect", "store/v1", "--verify", "--json").out)
    assert {row["table"]: row["count"] for row in card["tables"]} == {"user": 20, "ad": 15}
    assert card["relations"] == [{"relation": "clicks", "source": "user", "target": "ad", "operator": "translation"}]
    assert json.loads(run_cli("inspect", "store/v1/ad", "--json").out)["dim"] == 8
    assert json.loads(run_cli("inspect", "store", "--json").out) == [{"version": "v1", "tables": "user, ad"}]
    assert "clicks" in run_cli("inspect", "store/v1").out


def bad_column(project):
    text = (project / "clicks.csv").read_text()
    (project / "clicks.csv").write_text(text.replace("target", "tagret"))
    return ["pretrain", "c.toml"]


def unknown_relation(project):
    return ["neighbors", "store/v1", "u1", "--table", "user", "--relation", "click"]


def float_ids(project):
    frame = pd.read_csv(project / "clicks.csv")
    frame["target"] = frame["target"] + 0.5
    frame.to_csv(project / "clicks.csv", index=False)
    return ["pretrain", "c.toml"]


def truncated(project):
    path = project / "store/v1/ad/vectors.npy"
    path.write_bytes(path.read_bytes()[:-8])
    return ["inspect", "store/v1"]


def damaged(project):
    path = project / "store/v1/ad/vectors.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    return ["inspect", "store/v1", "--verify"]


def strange_format(project):
    path = project / "store/v1/version.json"
    path.write_text(path.read_text().replace("embedding-version/1", "embedding-version/9"))
    return ["inspect", "store/v1"]


def negative_weight(project):
    pd.read_csv(project / "clicks.csv").assign(weight=-1.0).to_csv(project / "clicks.csv", index=False)
    return ["pretrain", "c.toml"]


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda project: ["pretrain", "none.toml"], "none.toml cannot be read"),
        (bad_column, "relation 'clicks' (clicks.csv): no column 'target' for the target; it has: source, tagret, time"),
        (float_ids, "the target column 'target' is DOUBLE; ids must be integers or strings"),
        (negative_weight, "relation 'clicks': 120 weights are negative, missing or not finite"),
        (lambda project: ["pretrain", "c.toml"], "store/v1 exists already"),
        (unknown_relation, "version 'v1' has no relation 'click'; did you mean 'clicks'?"),
        (lambda project: ["neighbors", "store/v1", "x", "--table", "ad"], "the table's ids are integers"),
        (lambda project: ["neighbors", "store/v1", "nobody", "--table", "user"], "nobody"),
        (truncated, "vectors.npy"),
        (damaged, "sha256"),
        (strange_format, "format 'embedding-version/9'"),
        (lambda project: ["inspect", "nowhere"], "nowhere is not a version: there is no such folder"),
    ],
)
def test_bad_input_gets_one_line_and_code_2(project, run_cli, prepare, message):
    if prepare not in (bad_column, float_ids, negative_weight):
        run_cli("pretrain", "c.toml")
    ran = run_cli(*prepare(project))
    assert ran.code == 2
    assert ran.out == ""
    assert ran.err.count("\n") == 1
    assert ran.err.startswith("recokit: ")
    assert message in ran.err.replace(str(Path.cwd()) + "/", "")


def test_nan_in_vectors_is_refused_before_anything_is_written(tmp_path):
    vectors = np.zeros((3, 2), np.float32)
    vectors[1, 0] = np.nan
    with pytest.raises(ValueError, match="NaN or infinity in 1 of 3 rows"):
        EmbeddingTable.from_arrays([1, 2, 3], vectors, entity="ad", version="v1").save(tmp_path / "ad")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("device", "message"), [("gpu0", "device 'gpu0' does not exist"), ("cuda:99", "device 'cuda:99' is not there")]
)
def test_a_device_that_is_not_there_is_refused(project, run_cli, device, message):
    ran = run_cli("pretrain", "c.toml", "--device", device)
    assert ran.code == 2
    assert message in ran.err
    assert not (project / "store/v1").exists()


def test_without_torch_the_commands_that_train_name_the_pip_line(run_cli, monkeypatch):
    class Broken:
        name = "pretrain"

        def load(self):
            raise ImportError("No module named 'torch'", name="torch")

    monkeypatch.setattr("recokit.cli.entry_points", lambda group: [Broken()])
    ran = run_cli("pretrain", "c.toml")
    assert ran.code == 2
    assert "`recokit pretrain` needs the package 'torch'" in ran.err
    assert "pip install 'recokit[demo]'" in ran.err
    assert run_cli("--help").code == 0


def test_help_and_version(run_cli):
    text = run_cli("--help").out
    assert all(command in text for command in ("demo", "pretrain", "evaluate", "neighbors", "inspect"))
    assert run_cli("--version").out.startswith("recokit ")
    assert "examples/pretrain.toml" in run_cli("pretrain", "--help").out
    assert run_cli("neighbours").code == 2


def test_ids_and_names_are_no_markup_and_zeros_in_front_stay(tmp_path, run_cli, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [("[/x]", f"00{n}") for n in range(5)] + [(f"[bold]u{n}[/bold]", f"00{n}") for n in range(5)]
    pd.DataFrame(rows, columns=["source", "target"]).to_csv("clicks.csv", index=False)
    (tmp_path / "c.toml").write_text(CONFIG.replace("[split]\nfraction = 0.2\n", ""))
    assert run_cli("pretrain", "c.toml").code == 0
    ran = run_cli("neighbors", "store/v1", "[/x]", "--table", "user", "--relation", "clicks", "-k", "1000000000")
    assert ran.code == 0
    assert "[/x]" in ran.out
    assert "004" in ran.out
    measured = run_cli("evaluate", "store/v1", "clicks.csv", "--relation", "clicks", "-k", "5", "--json")
    assert json.loads(measured.out)["results"][0]["value"] == 1.0
