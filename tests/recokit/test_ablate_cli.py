"""``recokit ablate``: the example as it stands, what it prints and keeps, and complaints that name the line."""

import json
import shutil
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

torch = pytest.importorskip("torch")

from recokit.ablation.settings import load_ablation  # noqa: E402
from recokit.errors import ConfigError, DataError  # noqa: E402
from recokit.overlap import edge_sketch  # noqa: E402
from recokit.rankers.checkpoint import KINDS  # noqa: E402
from recokit.report import Report  # noqa: E402
from recokit.table import EmbeddingTable, Mixture, write_version  # noqa: E402

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SMALL = """\
[rows]
train = "impressions/train.csv"
valid = "impressions/valid.csv"
test = "impressions/test.csv"

[features]
label = "clicked"
group = "user"
dense = ["age"]

[[pretrained]]
column = "user"
table = "impressions/user"

[[pretrained]]
column = "ad"
table = "impressions/ad"

[[ranker]]
kind = "dlrm"
dim = 4
bottom = [4]
top = [8]

[fit]
epochs = 1
batch_size = 200

[sets]
baseline = []
U = ["user"]

[ablation]
seeds = 1
bootstrap = 20
"""


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def folder(tmp_path):
    shutil.copytree(EXAMPLES / "impressions", tmp_path / "impressions")
    return tmp_path


@pytest.fixture
def write(folder):
    """Write a configuration: the small one with some of its text replaced."""

    def made(**replaced):
        text = SMALL
        for old, new in replaced.items():
            assert old in text
            text = text.replace(old, new)
        path = folder / "a.toml"
        path.write_text(text)
        return path

    def of(*pairs):
        return made(**dict(pairs))

    return of


@pytest.fixture
def run(folder, monkeypatch, run_cli):
    point = EntryPoint("ablate", "recokit.ablate_cli:ablate", "recokit.commands")
    monkeypatch.setattr("recokit.cli.entry_points", lambda group: [point])
    return lambda config, *words: run_cli("ablate", config, "--output", folder / "out", *words)


def test_the_example_finds_what_was_planted(run, folder):
    (folder / "ablate.toml").write_text(
        (EXAMPLES / "ablate.toml").read_text().replace("epochs = 8", "epochs = 4") + "bootstrap = 50\n"
    )
    ran = run(folder / "ablate.toml", "--seeds", "1", "--json")
    assert ran.code == 0, ran.err
    report = Report.load(folder / "out" / "report.json")
    assert json.loads(ran.out)["results"] == report["results"]
    for model in ("small", "large"):
        gains = [report.value("rce", name=f"{model}: {chosen} - baseline, mean") for chosen in ("U", "U+A")]
        assert 2 < gains[0] < gains[1]
    assert report.results[0].protocol["group"] == "user"
    assert "6/6 large: U+A, seed 0" in ran.err  # --seeds goes before the file's three
    assert "careful" not in ran.err


def test_tables_and_lines_are_printed_and_files_written(run, folder, write):
    pytest.importorskip("matplotlib")
    ran = run(write(), "--plot")
    assert ran.code == 0, ran.err
    assert "rce, on the test rows" in ran.out
    assert "rce, difference to baseline" in ran.out
    lines = ran.err.splitlines()
    assert [line.split(":")[0] for line in lines[:2]] == ["1/2 baseline, seed 0", "2/2 U, seed 0"]
    assert "validation log loss 0." in lines[1]
    assert sorted(path.name for path in (folder / "out").iterdir()) == [
        *("ablation.md", "ablation.png", "report.json", "runs")
    ]
    page = (folder / "out" / "ablation.md").read_text()
    assert "- always there: ad, age\n- baseline: nothing added\n- U: user\n" in page
    again = run(write())
    assert [line.split(": ")[1] for line in again.err.splitlines()[:2]] == ["is there", "is there"]
    assert (folder / "out" / "ablation.md").read_text() == page
    other = run(write(("dim = 4", "dim = 5")))
    assert other.code == 2
    assert "with ranker.dim 4, this one has 5: choose another folder" in other.err


def test_leaks_are_told_once_and_stay_in_the_protocol(run, folder, write):
    train = pd.read_csv(folder / "impressions" / "train.csv")
    sketch = {"relation": "clicks", "source": "user", "target": "ad", **edge_sketch(train["user"], train["ad"])}
    users = EmbeddingTable.load(folder / "impressions" / "user")
    told = EmbeddingTable.from_arrays(
        users.ids, users.vectors, entity="user", version="v9", meta={"edge_sketches": [sketch]}
    )
    told.save(folder / "impressions" / "told")
    ran = run(write(('"impressions/user"', '"impressions/told"')))
    said = "training rows leak through frozen vectors: 100% of the pairs (user, ad) are 'clicks' edges"
    assert ran.code == 0, ran.err
    assert ran.err.count(f"careful: {said}") == 1
    assert ran.err.count("LeakWarning") == 0
    report = Report.load(folder / "out" / "report.json")
    assert all(result.protocol["leak"].startswith(said) for result in report.results)


def test_the_file_says_everything_that_ablate_takes(folder, write):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(4, 2)).astype(np.float32)
    ids = ["007", "7", "8", "9"]
    users = EmbeddingTable.from_arrays(ids, vectors, entity="user", version="v1")
    parts = Mixture.from_components(
        ids, np.stack([vectors, -vectors], axis=1), np.full((4, 2), 0.5), entity="user", version="v1", name="parts"
    )
    tables = {"user": users, "parts": parts.components, "interests": parts}
    write_version(folder / "v1", tables)
    path = folder / "all.toml"
    path.write_text(
        """\
[rows]
train = "rows.csv"
test = "rows.csv"
[features]
label = ["clicked", "bought"]
weight = "w"
categorical = { country = ["AT", "DE"], user = 50 }
hashed = ["device"]
missing = "indicator"
dense = ["age"]
[[pretrained]]
column = "user"
version = "v1"
table = "user"
usage = "sum"
[[pretrained]]
column = "user"
version = "v1"
table = "interests"
name = "interests"
unknown = "learned"
[[ranker]]
name = "one"
kind = "dlrm"
[[ranker]]
name = "two"
kind = "dlrm"
dim = 8
[fit]
learning_rate = 1
device = "cpu"
[sets]
none = []
I = ["interests", "country"]
[ablation]
baseline = "none"
seeds = [4, 7]
metrics = ["auc", "ne"]
segments = ["country"]
min_rows = 1
bootstrap = 0
"""
    )
    (folder / "rows.csv").write_text(
        "user,country,device,age,clicked,bought,w,other\n007,AT,5,,1,0,1.0,x\n7,DE,6,3.5,0,1,2.0,x\n"
    )
    settings = load_ablation(path)
    assert settings.choices == {
        "baseline": "none",
        "seeds": [4, 7],
        "metrics": ["auc", "ne"],
        "segments": ["country"],
        "min_rows": 1,
        "bootstrap": 0,
    }
    assert settings.sets == {"none": [], "I": ["interests", "country"]}
    spec = settings.features
    assert [(each.key, each.usage, each.unknown, each.table.kind) for each in spec.pretrained] == [
        *(("user", "sum", "zero", "vectors"), ("interests", "concat", "learned", "mixture"))
    ]
    assert (spec.label, spec.weight, spec.missing, list(spec.hashed)) == (
        *(["clicked", "bought"], "w", "indicator", ["device"]),
    )
    assert spec.categorical == {"country": ["AT", "DE"], "user": 50}
    assert (settings.fit.learning_rate, settings.fit.device) == (1, "cpu")
    two = settings.rankers["two"](spec, 3)
    assert (two.settings["dim"], two.settings["seed"], [*settings.rankers]) == (8, 3, ["one", "two"])
    frame = settings.read("train")
    assert frame["user"].tolist() == ["007", "7"]  # as the table has them, though they look like numbers
    assert settings.read("valid") is None
    assert "other" not in frame.columns
    assert spec.pretrained[0].table.rows(frame["user"]).tolist() == [0, 1]
    (folder / "rows.csv").write_text("user,country,device,age,clicked,bought,w\n9,AT,5,,1,0,1.0\n7,DE,6,3.5,0,1,2.0\n")
    frame = settings.read("train")
    assert spec.pretrained[0].table.rows(frame["user"]).tolist() == [3, 1]  # all of them look like numbers here


def test_ids_of_text_files_are_those_of_their_tables(folder, write):
    rows = pd.read_csv(folder / "impressions" / "test.csv")
    settings = load_ablation(write())
    assert settings.read("test")["ad"].dtype == "int64"
    rows.assign(ad="a" + rows["ad"].astype(str)).to_csv(folder / "impressions" / "test.csv", index=False)
    with pytest.raises(DataError, match="column 'ad' holds strings, but the ids of its table are integers"):
        settings.read("test")
    with pytest.raises(DataError, match="hour"):
        load_ablation(write(('["age"]', '["hour"]'))).read("test")


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("[rows]", "[row]", 1, "unknown key 'row'; did you mean 'rows'"),
        ('train = "impressions/train.csv"', "train = 3", 2, "train is 3, expected a path"),
        ('test = "impressions/test.csv"', "", 1, r"'test' is missing in \[rows\]"),
        ("dense =", "dens =", 9, "unknown key 'dens'; did you mean 'dense'"),
        ('["age"]', '["age", "clicked"]', 7, "column 'clicked' is a label and a feature at once"),
        ('table = "impressions/ad"', 'table = "impressions/adds"', 17, "adds"),
        (
            'table = "impressions/ad"',
            'table = "impressions/ad"\nusage = "concate"',
            18,
            "usage of 'ad' is 'concate'; did you mean 'concat'",
        ),
        ('column = "ad"\n', 'colum = "ad"\n', 16, "unknown key 'colum'; did you mean 'column'"),
        ('kind = "dlrm"', 'kind = "dlmr"', 20, "there is no ranker of kind 'dlmr'; did you mean 'dlrm'"),
        ('kind = "dlrm"', 'kind = "DLRM"', 20, "there is no ranker of kind 'DLRM'; did you mean 'dlrm'"),
        ('kind = "dlrm"', 'kind = "DCNv2"', 20, "there is no ranker of kind 'DCNv2'; did you mean 'dcn_v2'"),
        ('kind = "dlrm"', 'name = "x"', 19, "'kind' is missing"),
        ("dim = 4", "dims = 4", 21, "unknown key 'dims'; did you mean 'dim'"),
        ("dim = 4", "seed = 4", 21, "unknown key 'seed'"),
        ("dim = 4", "dim = 0", 21, "dim=0"),
        ("epochs = 1", "epoch = 1", 26, "unknown key 'epoch'; did you mean 'epochs'"),
        ("epochs = 1", "epochs = 1.5", 26, "epochs is 1.5, expected int"),
        ("epochs = 1", "epochs = true", 26, "epochs is True, expected int"),
        ("epochs = 1", "epochs = 0", 26, "epochs is 0, expected at least 1"),
        ('U = ["user"]', 'U = ["usr"]', 31, "set 'U' has the feature 'usr'; did you mean 'user'"),
        ("seeds = 1", 'seeds = "1"', 34, "seeds is '1', expected how many"),
        ("seeds = 1", 'baseline = "baselin"', 34, "the baseline is the set 'baselin'; did you mean 'baseline'"),
    ],
)
def test_complaints_name_the_line(write, old, new, line, message):
    with pytest.raises(ConfigError, match=rf"a\.toml:{line}: .*{message}"):
        load_ablation(write((old, new)))


def test_bags_may_have_a_table_or_values(write):
    def bags(text):
        return load_ablation(write(('dense = ["age"]', f'dense = ["age"]\nbags = [{text}]'))).features.bags

    (genres, clicks) = bags(
        '{ column = "genres", values = 5, pooling = "sum" }, '
        '{ column = "last", table = "impressions/ad", name = "clicks" }'
    )
    assert (genres.column, genres.values, genres.pooling) == ("genres", 5, "sum")
    assert (clicks.key, clicks.table.entity, clicks.column) == ("clicks", "ad", "last")
    for text, message in (
        ('{ column = "genres" }', "needs a column, and either values or a table"),
        ('{ colum = "genres" }', "unknown key 'colum' of a bag; did you mean 'column'"),
        ('{ column = "genres", values = 0 }', "give values, or how many to keep"),
        ("3", "bags has 3, expected a list such as"),
    ):
        with pytest.raises(ConfigError, match=rf"a\.toml:10: .*{message}"):
            bags(text)


def test_what_is_no_configuration_is_refused_with_code_2(run, folder, write):
    for name, text, message in (
        ("a.toml", "[rows", "a.toml is not TOML"),
        ("b.toml", None, "b.toml cannot be read: No such file"),
        ("c.toml", SMALL.replace("[[ranker]]", "[ranker]"), "rankers are written as [[ranker]] tables"),
        ("d.toml", SMALL.replace("[sets]", "[[sets]]"), "the sets of features are missing"),
        ("e.toml", SMALL.replace("impressions/train", "impressions/trein"), "trein.csv"),
        ("f.toml", SMALL.replace("seeds = 1", 'metrics = ["rse"]'), "there is no metric 'rse'; did you mean 'rce'"),
    ):
        if text is not None:
            (folder / name).write_text(text)
        ran = run(folder / name)
        assert (ran.code, ran.out, len(ran.err.splitlines())) == (2, "", 1)
        assert message in ran.err
    assert not (folder / "out").exists()


def test_every_kind_of_ranker_can_be_asked_for(write):
    for kind in KINDS:
        with pytest.raises(ConfigError, match=r"a\.toml:21: unknown key 'not_a_setting'"):
            load_ablation(
                write(('kind = "dlrm"\ndim = 4\nbottom = [4]\ntop = [8]', f'kind = "{kind}"\nnot_a_setting = 1'))
            )
