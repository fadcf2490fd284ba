"""Ablations: numbers against metrics of the kept predictions, runs that are made once, tables as text."""

import json
import math
import warnings
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest

torch = pytest.importorskip("torch")

import recokit.rankers as rankers  # noqa: E402
from recokit.ablation import Ablation, Cell, ablate, feature_sets, find_leaks  # noqa: E402
from recokit.ablation.runs import Run, RunFolder  # noqa: E402
from recokit.errors import ConfigError, DataError, FormatError, VersionError  # noqa: E402
from recokit.evaluate.measured import Measured, mean_of  # noqa: E402
from recokit.features import Bag, FeatureSpec, Pretrained  # noqa: E402
from recokit.frame.negatives import SampledNegatives  # noqa: E402
from recokit.metrics import Rankings, average_precision_at_k, bootstrap_statistic, rce, roc_auc  # noqa: E402
from recokit.overlap import LeakWarning, edge_sketch  # noqa: E402
from recokit.rankers import DLRM, FitConfig  # noqa: E402
from recokit.report import Report  # noqa: E402
from recokit.table import EmbeddingTable  # noqa: E402

IDS, DIM = 240, 4
SETS = {"baseline": [], "U": ["user"], "U+A": ["user", "ad"], "noise": ["noise"]}
CONFIG = FitConfig(epochs=3, batch_size=100, learning_rate=0.02)


pytestmark = pytest.mark.usefixtures("one_thread")


def table(vectors, entity, **meta):
    return EmbeddingTable.from_arrays(np.arange(IDS), vectors, entity=entity, version="v1", meta=meta)


class Planted:
    """A click is what the product of user and ad vectors says, and the first number of the user alone."""

    def __init__(self):
        rng = np.random.default_rng(0)
        self.user, self.ad, self.noise = rng.standard_normal((3, IDS, DIM)).astype(np.float32)
        ends = [(1500, 0, 120), (400, 120, 160), (720, 160, IDS)]  # users and ads that no other rows have
        self.train, self.valid, self.test = (self.rows(rng, *end) for end in ends)

    def rows(self, rng, n, low, high):
        user, ad = rng.integers(low, high, (2, n))
        logits = 1.2 * (self.user[user] * self.ad[ad]).sum(axis=1) + 2.5 * self.user[user, 0] - 0.5
        return pd.DataFrame(
            {
                "user": user,
                "ad": ad,
                "age": rng.normal(size=n),
                "session": np.arange(n) // 9,
                "w": rng.uniform(0.5, 1.5, n),
                "clicked": (rng.random(n) < 1 / (1 + np.exp(-logits))).astype(int),
            }
        )

    def features(self, **more):
        tables = {"user": self.user, "ad": self.ad}
        pretrained = [Pretrained(name, table(vectors, name)) for name, vectors in tables.items()]
        pretrained.append(Pretrained("user", table(self.noise, "user"), name="noise"))
        choices = {"label": "clicked", "group": "session", **more}
        return FeatureSpec(pretrained=pretrained, dense=["age"], **choices)


@pytest.fixture(scope="module")
def planted():
    return Planted()


def small(features, seed, dim=4):
    return DLRM(features, dim=dim, bottom=(8,), top=(16,), seed=seed)


class NotTrained:
    predicts = "probabilities"


def run(planted, sets=SETS, **choices):
    features = choices.pop("features", None) or planted.features()
    rows = [choices.pop(name, getattr(planted, name)) for name in ("train", "valid", "test")]
    return ablate(features, sets, *rows, **{"ranker": small, "config": CONFIG, "bootstrap": 40, **choices})


@pytest.fixture(scope="module")
def made(planted, tmp_path_factory):
    """One ablation of all sets and two seeds, and where it kept its runs."""
    folder = tmp_path_factory.mktemp("runs")
    choices = {"metrics": ["rce", "auc", "map"], "seeds": (0, 1), "folder": folder}
    return run(planted, features=planted.features(weight="w"), **choices), folder


def kept(folder, chosen, seed):
    return np.load(folder / Run("", chosen, seed).folder / "predictions.npy")


def test_differences_are_those_of_the_kept_predictions(planted, made):
    found, folder = made
    test, seeds = planted.test, (0, 1)
    y, w = test["clicked"], test["w"]
    for metric, weighted in (("rce", rce), ("auc", roc_auc)):
        for chosen in ("U", "U+A", "noise"):
            mine, base = ([kept(folder, each, seed) for seed in seeds] for each in (chosen, "baseline"))
            cell = found.cell(chosen, metric)
            differences = [weighted(y, a, weight=w) - weighted(y, b, weight=w) for a, b in zip(mine, base, strict=True)]
            assert cell.by_seed == pytest.approx(differences)
            assert cell.values == pytest.approx([weighted(y, p, weight=w) for p in mine])
            assert cell.deviation == pytest.approx(np.std(cell.values, ddof=1))

            def difference(y, w, *p, weight, metric=weighted):
                values = [metric(y, each, weight=w * weight) for each in p]
                return np.mean(values[: len(p) // 2]) - np.mean(values[len(p) // 2 :])

            over_all = bootstrap_statistic(difference, y, w, *mine, *base, groups=test["session"], samples=40)
            assert (cell.difference, cell.low, cell.high) == pytest.approx(over_all)
            each = [
                bootstrap_statistic(difference, y, w, a, b, groups=test["session"], samples=40)
                for a, b in zip(mine, base, strict=True)
            ]
            assert cell.seeds_beyond == sum(low > 0 or high < 0 for _, low, high in each)
            rows = [result for result in found.report.results if result.name == f"{chosen} - baseline"]
            rows = [result for result in rows if result.metric == metric]
            assert [(row.seed, row.value, row.low, row.high) for row in rows] == [
                (seed, pytest.approx(one.value), pytest.approx(one.low), pytest.approx(one.high))
                for seed, one in zip(seeds, each, strict=True)
            ]


def test_map_is_over_whole_sessions(planted, made):
    found, folder = made
    test = planted.test

    def precision(chosen, seed):
        lists = Rankings.from_scores(test["clicked"], kept(folder, chosen, seed), test["session"])
        return average_precision_at_k(lists)

    difference = np.mean([precision("U+A", seed) - precision("baseline", seed) for seed in range(2)], axis=0)
    cell = found.cell("U+A", "map")
    assert cell.difference == pytest.approx(difference.mean())
    assert cell.values == pytest.approx([precision("U+A", seed).mean() for seed in range(2)])
    protocol = next(result.protocol for result in found.report.results if result.metric == "map")
    assert (protocol["group"], protocol["interval"]) == ("session", "95% bootstrap over groups, 40 resamples")


def test_planted_vectors_gain_and_noise_does_not(made):
    found, _ = made
    user, both, noise = (found.cell(chosen, "rce") for chosen in ("U", "U+A", "noise"))
    assert user.low > 3
    assert both.low > user.high
    assert (user.seeds_beyond, both.seeds_beyond) == (2, 2)
    assert (user.sure, both.sure) == (True, True)
    assert noise.seeds_beyond < 2
    assert abs(noise.difference) < user.difference / 4
    assert math.isclose(found.cell("baseline", "rce").difference, 0.0)


def test_the_report_has_every_seed_and_says_how(made):
    found, _ = made
    report = found.report
    names = list(dict.fromkeys(result.name for result in report.results))
    assert names[:5] == ["baseline", "U", "U - baseline", "U - baseline, mean", "U+A"]
    assert [r.seed for r in report.results if (r.name, r.metric) == ("U", "rce")] == [0, 1]
    protocol = next(r.protocol for r in report.results if r.name == "U+A")
    assert protocol["adds"] == "user, ad"
    assert protocol["weight"] == "by column"
    assert protocol["selection"] == (
        "early stopping on the validation rows; the test rows are scored once, at the end of a run"
    )
    mean = next(r for r in report.results if (r.name, r.metric) == ("U - baseline, mean", "auc"))
    assert (mean.seed, mean.protocol["mean"]) == (None, "over 2 seeds, inside each resample")
    assert mean.protocol["seeds_whose_interval_excludes_0"] == found.cell("U", "auc").seeds_beyond
    frame = found.to_frame().set_index(["metric", "set"])
    assert frame.loc[("rce", "U"), "mean"] == pytest.approx(np.mean(found.cell("U", "rce").values))
    assert Report.load(found.save(made[1] / "saved") / "report.json").results == report.results
    assert (made[1] / "saved" / "ablation.md").read_text() == found.to_markdown()


def test_the_test_rows_are_scored_once_a_run_and_choose_nothing(planted, monkeypatch):
    seen = []
    predict, fit = DLRM.predict, rankers.fit
    monkeypatch.setattr(DLRM, "predict", lambda self, frame: seen.append(frame) or predict(self, frame))
    fitted = []
    monkeypatch.setattr(rankers, "fit", lambda *words, **named: fitted.append(words) or fit(*words, **named))
    run(planted, {"baseline": [], "U": ["user"]}, seeds=(3, 5))
    assert [frame is planted.test for frame in seen] == [True] * 4
    assert all(train is planted.train and valid is planted.valid for _, train, valid, _ in fitted)
    assert [config.seed for *_, config in fitted] == [3, 5, 3, 5]
    assert [ranker.settings["seed"] for ranker, *_ in fitted] == [3, 5, 3, 5]


class Killed(Exception):
    pass


def test_a_killed_ablation_goes_on_where_it_was(planted, tmp_path):
    sets, events = {"baseline": [], "U": ["user"]}, []

    def kill(event):
        if event["event"] == "finished" and event["number"] == 3:
            raise Killed

    with pytest.raises(Killed):
        run(planted, sets, seeds=(0, 1), folder=tmp_path, callback=kill)
    (tmp_path / (".partial-x-" + "0" * 32)).mkdir()
    again = run(planted, sets, seeds=(0, 1), folder=tmp_path, callback=events.append)
    finished = [event for event in events if event["event"] == "finished"]
    assert [(event["run"], event["kept"]) for event in finished] == [
        *(("baseline, seed 0", True), ("baseline, seed 1", True)),
        *(("U, seed 0", True), ("U, seed 1", False)),
    ]
    assert finished[3]["best"]["step"] > 0
    assert len(list(tmp_path.iterdir())) == 4  # and nothing half written
    assert again.cells == run(planted, sets, seeds=(0, 1)).cells
    more = []
    run(planted, {"V": ["user"], **sets}, seeds=(1, 2), folder=tmp_path, callback=more.append)
    assert [event["kept"] for event in more if event["event"] == "finished"] == [False, False, True, False, True, False]


def test_a_feature_that_was_always_there_is_another_run(planted, tmp_path):
    run(planted, {"baseline": [], "U": ["user"]}, seeds=(0,), folder=tmp_path)
    said = r"holds the run 'baseline, seed 0' with features\.pretrained\.0\.column \"ad\", this one has \"user\""
    with pytest.raises(VersionError, match=said):  # the baseline had ads
        run(planted, {"baseline": [], "A": ["ad"]}, seeds=(0,), folder=tmp_path)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (lambda p: {"config": FitConfig(epochs=4, batch_size=100, learning_rate=0.02)}, "fit.epochs 3, this one has 4"),
        (lambda p: {"ranker": partial(small, dim=5)}, "ranker.dim 4, this one has 5"),
        (lambda p: {"train": p.train.assign(age=p.train["age"] + 1e-9)}, "rows.train"),
        (lambda p: {"test": p.test.iloc[::-1]}, "rows.test"),
        (lambda p: {"valid": None}, "rows.valid"),
        (
            lambda p: {"features": p.features(missing="indicator")},
            'features.missing "error", this one has "indicator"',
        ),
    ],
)
def test_runs_of_other_settings_are_refused(planted, tmp_path, changed, message):
    sets = {"baseline": ["user"]}
    run(planted, sets, seeds=(0,), folder=tmp_path)
    with pytest.raises(VersionError, match=f"baseline-0-[0-9a-f]* holds the run 'baseline, seed 0' with {message}"):
        run(planted, sets, seeds=(0,), folder=tmp_path, **changed(planted))


def test_another_table_of_the_same_name_is_refused(planted, tmp_path):
    sets = {"baseline": ["user"]}
    spec = lambda vectors: FeatureSpec([Pretrained("user", table(vectors, "user"))], ["age"], label="clicked")  # noqa: E731
    run(planted, sets, seeds=(0,), folder=tmp_path, features=spec(planted.user))
    with pytest.raises(VersionError, match="tables"):
        run(planted, sets, seeds=(0,), folder=tmp_path, features=spec(planted.noise))


def test_a_damaged_run_is_refused(planted, tmp_path):
    run(planted, {"baseline": []}, seeds=(0,), folder=tmp_path)
    folder = tmp_path / Run("", "baseline", 0).folder
    (folder / "predictions.npy").write_bytes(b"short")
    with pytest.raises(FormatError, match=r"predictions\.npy"):
        run(planted, {"baseline": []}, seeds=(0,), folder=tmp_path)


def test_runs_have_folders_of_their_own():
    runs = [Run("", "U+A", 0), Run("", "U_A", 0), Run("U", "A", 0), Run("", "U-A", 0), Run("", "U+A", 1)]
    runs += [Run("a b", "U", 0), Run("a_b", "U", 0)]
    assert len({each.folder for each in runs}) == len(runs)
    assert Run("", "U+A", 0).folder.startswith("U_A-0-")
    assert str(Run("Ads 1", "U+A", 2)) == "Ads 1: U+A, seed 2"
    assert RunFolder.at(None).predictions(runs[0], {}, (1,)) is None


def test_rows_may_be_files_and_negatives_drawn(planted, tmp_path):
    for name in ("train", "valid"):
        getattr(planted, name).to_parquet(tmp_path / f"{name}.parquet", row_group_size=300)
    files = {name: tmp_path / f"{name}.parquet" for name in ("train", "valid")}
    sets = {"baseline": ["user"]}
    of_files = run(planted, sets, seeds=(0,), folder=tmp_path / "runs", **files)
    assert of_files.cells == run(planted, sets, seeds=(0,)).cells
    with pytest.raises(VersionError, match=r"with rows\.train"):
        run(planted, sets, seeds=(0,), folder=tmp_path / "runs", **{**files, "train": files["valid"]})
    positives = planted.train[planted.train["clicked"] == 1]
    ads = pd.DataFrame({"ad": np.arange(120)})
    drawn = partial(SampledNegatives, ads, column="ad", query="user")
    features = FeatureSpec(planted.features().pretrained[:2], label="clicked")
    choices = {"train": positives, "seeds": (0,), "features": features, "folder": tmp_path / "drawn"}
    found = run(planted, {"baseline": [], "U": ["user"]}, negatives=drawn(ratio=1), metrics=["auc"], **choices)
    assert found.cell("U", "auc").values[0] > 0.7
    with pytest.raises(VersionError, match=r"negatives\.ratio 1, this one has 2"):
        run(planted, {"baseline": [], "U": ["user"]}, negatives=drawn(ratio=2), metrics=["auc"], **choices)


def test_leaks_of_files_are_those_of_all_their_blocks(planted, tmp_path):
    half = len(planted.train) // 2
    known = planted.train.iloc[:half]
    sketch = {"relation": "clicks", "source": "user", "target": "ad", **edge_sketch(known["user"], known["ad"])}
    users = table(planted.user, "user", edge_sketches=[sketch])
    features = FeatureSpec([Pretrained("user", users), Pretrained("ad", table(planted.ad, "ad"))], label="clicked")
    planted.train.to_parquet(tmp_path / "train.parquet", row_group_size=100)
    of_frame = find_leaks(features, {"training": planted.train, "validation": None, "test": planted.test})
    assert of_frame == find_leaks(features, {"training": tmp_path / "train.parquet"})
    clicks = planted.train[planted.train["clicked"] == 1]  # of all rows or of these, whichever share is greater
    edges = known[["user", "ad"]].drop_duplicates()
    share = max(len(rows[["user", "ad"]].merge(edges)) / len(rows) for rows in (planted.train, clicks))
    assert of_frame[0].startswith(f"training rows leak through frozen vectors: {share:.0%} of the pairs (user, ad)")


def test_leaks_are_said_once_and_kept(planted):
    sketch = edge_sketch(planted.train["user"], planted.train["ad"])
    meta = {"edge_sketches": [{"relation": "clicks", "source": "user", "target": "ad", **sketch}]}
    pretrained = [Pretrained("user", table(planted.user, "user", **meta)), Pretrained("ad", table(planted.ad, "ad"))]
    features = FeatureSpec(pretrained=pretrained, dense=["age"], label="clicked")
    events = []
    with pytest.warns(LeakWarning) as caught:
        found = run(planted, {"baseline": [], "U": ["user"]}, seeds=(0, 1), features=features, callback=events.append)
    said = (
        "training rows leak through frozen vectors: 100% of the pairs (user, ad) are 'clicks' edges that version 'v1' "
        "was trained on"
    )
    assert [str(warning.message) for warning in caught] == [said]
    assert [event["message"] for event in events if event["event"] == "leak"] == [said]
    assert found.leaks == (said,)
    assert f"- Careful: {said}." in found.to_markdown()
    assert all(result.protocol["leak"] == said for result in found.report.results)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clean = run(planted, {"baseline": []}, seeds=(0,))
    assert "leak" not in clean.report.results[0].protocol


def test_several_rankers_labels_and_segments_are_rows(planted):
    add = {"bought": lambda frame: 1 - frame["clicked"], "half": lambda frame: frame["session"] % 2}
    frames = {name: getattr(planted, name).assign(**add) for name in ("train", "valid", "test")}
    found = run(
        planted,
        {"none": [], "U": ["user"]},
        features=planted.features(label=["clicked", "bought"]),
        ranker={"Ads1": small, "Ads2": partial(small, dim=6)},
        baseline="none",
        seeds=(0,),
        segments=["half"],
        metrics=["log_loss"],
        bootstrap=0,
        **frames,
    )
    parts = ["clicked", "clicked, half=0", "clicked, half=1", "bought", "bought, half=0", "bought, half=1"]
    head, _, *rows = found.table().split("\n")
    assert head == "| model, part | none | U |"
    assert [row.split("|")[1].strip() for row in rows] == [
        f"{name} {part}" for name in ("Ads1", "Ads2") for part in parts
    ]
    segment = frames["test"]["half"] == 1
    ranker = small(feature_sets(planted.features(label=["clicked", "bought"]), {"U": ["user"], "x": []})["U"], 0)
    rankers.fit(ranker, frames["train"], frames["valid"], FitConfig(**{**vars(CONFIG), "seed": 0}))
    p = ranker.predict(frames["test"])[segment, 1]
    y = frames["test"].loc[segment, "bought"]
    expected = -np.log(np.where(y == 1, p, 1 - p)).mean()
    assert found.cell("U", "log_loss", ranker="Ads1", part="bought, half=1").values == pytest.approx([expected])
    assert found.title() == "log_loss, on the test rows"


def cells(metric, values, differences=None, ranker=""):
    """Cells of one row: ``values`` and ``differences`` (difference, low, high, seeds_beyond) by set."""
    base, none = values["baseline"], (0.0, 0.0, 0.0, 0)
    by_seed = {name: tuple(a - b for a, b in zip(seeds, base, strict=True)) for name, seeds in values.items()}
    return [
        Cell(ranker, None, metric, name, seeds, by_seed[name], *(differences or {}).get(name, none))
        for name, seeds in values.items()
    ]


def ablation(*rows, sets=("baseline", "U", "U+A"), seeds=(0, 1)):
    chosen = {name: tuple(name.split("+")) if name != "baseline" else () for name in sets}
    return Ablation(
        Report([], {}), chosen, ("age",), "baseline", seeds, tuple(cell for row in rows for cell in row), ()
    )


def test_one_metric_of_several_models_is_twhins_table_2():
    found = ablation(
        cells(
            "rce",
            {"baseline": (21.0, 21.25), "U": (21.25, 21.25), "U+A": (21.5, 21.5)},
            {"U": (0.125, 0.05, 0.3, 1), "U+A": (0.375, 0.125, 0.5, 2)},
            "Ads1",
        ),
        cells("rce", {"baseline": (13.0, 13.0), "U": (13.5, 13.5), "U+A": (13.25, 13.25)}, ranker="Ads2"),
    )
    assert found.to_markdown() == (
        "rce, on the test rows:\n"
        "\n"
        "| model | baseline | U | U+A |\n"
        "| --- | ---: | ---: | ---: |\n"
        "| Ads1 | 21.125 ± 0.177 | 21.250 ± 0.000 | **21.500 ± 0.000** * |\n"
        "| Ads2 | 13.000 ± 0.000 | **13.500 ± 0.000** | 13.250 ± 0.000 |\n"
        "\n"
        "rce, difference to baseline:\n"
        "\n"
        "| model | U | U+A |\n"
        "| --- | ---: | ---: |\n"
        "| Ads1 | +0.125 [+0.050, +0.300] (1/2) | +0.375 [+0.125, +0.500] (2/2) |\n"
        "| Ads2 | +0.000 [+0.000, +0.000] (0/2) | +0.000 [+0.000, +0.000] (0/2) |\n"
        "\n"
        "- always there: age\n"
        "- baseline: nothing added\n"
        "- U: U\n"
        "- U+A: U, A\n"
        "\n"
        "- ± is the standard deviation over 2 seeds.\n"
        "- A star: the 95 % interval of the difference to 'baseline' excludes 0, and all seeds agree.\n"
        "- Intervals are a paired bootstrap of the test rows; behind them stands of how many seeds the own one "
        "excludes 0. What other seeds would change is not in them.\n"
        "- Bold is the best of a row on the test rows, so that its own value is a little too good.\n"
    )


def test_several_metrics_of_one_model_are_twhins_table_3():
    nan = math.nan
    found = ablation(
        cells("map", {"baseline": (0.557,), "U": (0.562,)}, {"U": (0.005, nan, nan, 0), "baseline": (0, nan, nan, 0)}),
        cells("log_loss", {"baseline": (0.5,), "U": (0.25,)}, {"U": (-0.25, -0.5, -0.125, 1)}),
        cells("calibration", {"baseline": (0.7,), "U": (1.2,)}, {"U": (0.5, -0.1, 0.75, 0)}),
        cells("auc", {"baseline": (nan,), "U": (nan,)}),
        sets=("baseline", "U"),
        seeds=(0,),
    )
    assert found.table() == (
        "| metric | baseline | U |\n"
        "| --- | ---: | ---: |\n"
        "| map | 0.5570 | **0.5620** |\n"
        "| log_loss | 0.5000 | **0.2500** * |\n"  # less is better
        "| calibration | 0.7000 | **1.2000** |\n"  # 1 is best, and 1.2 / 1 is less than 1 / 0.7
        "| auc | nan | nan |"
    )
    assert found.table("differences") == (
        "| metric | U |\n"
        "| --- | ---: |\n"
        "| map | +0.0050 |\n"
        "| log_loss | -0.2500 [-0.5000, -0.1250] |\n"
        "| calibration | +0.5000 [-0.1000, +0.7500] |\n"
        "| auc | +0.0000 [+0.0000, +0.0000] |"
    )
    assert found.notes[0] == "There is one seed."


def test_the_terminal_shows_the_same(capsys):
    from rich.console import Console

    found = ablation(cells("rce", {"baseline": (1.0, 2.0), "U": (3.0, 3.0), "U+A": (2.0, 4.0)}))
    Console(width=100).print(found.to_rich(), found.to_rich("differences"))
    out = capsys.readouterr().out
    assert "rce, on the test rows" in out
    assert "3.000 ± 1.414" in out
    assert "+0.000 [+0.000, +0.000] (0/2)" in out
    with pytest.raises(ConfigError, match="no table of 'difference'; did you mean 'differences'"):
        found.table("difference")


def test_the_plot_shows_every_set_but_the_baseline(made, tmp_path):
    pytest.importorskip("matplotlib")
    import matplotlib as mpl

    with mpl.rc_context({"svg.fonttype": "none"}):
        path = made[0].plot(tmp_path / "deep" / "a.svg")
    text = path.read_text()
    for word in ("rce", "auc", "map", "U+A", "noise", "difference to baseline"):
        assert f">{word}" in text
    assert ">baseline<" not in text
    assert made[0].plot(tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(ConfigError, match="no set but 'baseline'"):
        ablation(cells("rce", {"baseline": (1.0,)}), sets=("baseline",)).plot(tmp_path / "b.png")


def test_a_metric_without_a_value_is_nan_in_every_view(planted, tmp_path):
    test = planted.test.assign(part=np.where(planted.test["age"] < 0, "low", "high"))
    test.loc[test["part"] == "low", "clicked"] = 1
    found = run(planted, {"baseline": [], "U": ["user"]}, test=test, segments="part", metrics=["auc"], seeds=(0, 1))
    cell = found.cell("U", "auc", part="part=low")
    assert all(math.isnan(value) for value in (cell.mean, cell.deviation, cell.difference, cell.low))
    assert not cell.sure
    assert cell.seeds_beyond == 0
    assert cell.values != found.cell("U", "auc").values
    assert found.cell("U", "auc").part is None
    assert "| part=low | nan ± nan | nan ± nan |" in found.table()
    assert "| part=low | +nan |" in found.table("differences")
    assert math.isnan(found.to_frame().query("part == 'part=low'")["deviation"].iloc[0])
    assert found.to_rich().row_count == found.to_rich("differences").row_count == 3
    saved = json.loads((found.save(tmp_path) / "report.json").read_text())
    assert {row["value"] for row in saved["results"] if row["group"] == "part=low"} == {None}
    assert found.plot(tmp_path / "a.png").stat().st_size > 0


def test_a_seed_without_a_value_leaves_no_deviation():
    """One NaN among numbers, and an infinite loss."""
    for bad in (math.nan, math.inf):
        (cell,) = cells("auc", {"baseline": (0.5, bad)})
        assert math.isnan(cell.deviation)


def test_a_cell_is_named_by_what_tells_it_from_others():
    found = ablation(cells("rce", {"baseline": (0.0, 1.0), "U": (2.0, 3.0), "U+A": (4.0, 5.0)}))
    segment = [replace(cell, part="c=a") for cell in found.cells]
    found = replace(found, cells=(*found.cells, *segment))
    assert found.cell("U", "rce") == found.cells[1]
    assert found.cell("U", "rce", part="c=a") == segment[1]
    for asked, said in (
        ({"set": "u", "metric": "rce"}, "0 cells .*of set 'u': "),
        ({"set": "U", "metric": "rse"}, "0 cells .*of metric 'rse': did you mean 'rce'"),
        ({"set": "U", "metric": "rce", "part": "c=b"}, "0 cells .*of part 'c=b': did you mean 'c=a'"),
    ):
        with pytest.raises(ConfigError, match=said):
            found.cell(**asked)
    twice = replace(found, cells=(*found.cells, *(replace(cell, ranker="big") for cell in found.cells)))
    with pytest.raises(
        ConfigError, match=r"2 cells of set 'U' and metric 'rce', expected one; choose the ranker \(, big\)"
    ):
        twice.cell("U", "rce")


def test_negatives_of_other_queries_are_another_run(planted, tmp_path):
    positives = planted.train[planted.train["clicked"] == 1]
    features = FeatureSpec(planted.features().pretrained[1:2], dense=["age"], label="clicked")  # of ads: no users
    drawn = SampledNegatives(pd.DataFrame({"ad": np.arange(120)}), column="ad", query="user", ratio=1)
    choices = {
        "features": features,
        "negatives": drawn,
        "seeds": (0,),
        "folder": tmp_path,
        "config": FitConfig(epochs=1),
    }
    run(planted, {"baseline": ["ad"]}, train=positives, **choices)
    with pytest.raises(VersionError, match=r"with rows\.train"):
        run(planted, {"baseline": ["ad"]}, train=positives.assign(user=positives["user"].to_numpy()[::-1]), **choices)
    items = FeatureSpec(planted.features().pretrained[:1], dense=["age"], label="clicked")  # of users: no ads
    choices |= {"features": items, "folder": tmp_path / "items"}
    run(planted, {"baseline": ["user"]}, train=positives, **choices)
    with pytest.raises(VersionError, match=r"with rows\.train"):
        run(planted, {"baseline": ["user"]}, train=positives.assign(ad=positives["ad"].to_numpy()[::-1]), **choices)


def test_another_number_of_features_is_said_with_their_names(planted, tmp_path):
    run(planted, {"baseline": [], "U": ["user"]}, seeds=(0,), folder=tmp_path)
    said = r"with features\.pretrained 2 \(ad, noise\), this one has 1 \(ad\): choose"
    with pytest.raises(VersionError, match=said):
        run(planted, {"baseline": [], "U": ["user", "noise"]}, seeds=(0,), folder=tmp_path)


def listwise(features, seed):
    return rankers.SearchRanker(features, dim=4, hidden=(8,), loss="listwise", seed=seed)


def test_rankers_of_scores_are_compared_by_what_ranks(planted):
    sets = {"baseline": ["ad", "user"]}
    found = run(
        planted,
        sets,
        ranker={"dlrm": small, "list": listwise},
        metrics=["auc", "map"],
        seeds=(0,),
        config=FitConfig(epochs=1),
    )
    ranker = listwise(feature_sets(planted.features(), sets)["baseline"], 0)
    rankers.fit(ranker, planted.train, planted.valid, FitConfig(epochs=1, seed=0))
    scores = ranker.predict(planted.test)
    assert found.cell("baseline", "auc", ranker="list").mean == pytest.approx(roc_auc(planted.test["clicked"], scores))
    said = {result.protocol["predictions"] for result in found.report.results}
    assert said == {"those of list are scores: their order alone counts"}
    alone = run(planted, sets, ranker=listwise, metrics=["auc"], seeds=(0,), config=FitConfig(epochs=1))
    said = {result.protocol["predictions"] for result in alone.report.results}
    assert said == {"scores that are no probabilities: their order alone counts"}
    trained = []
    with pytest.raises(
        ConfigError, match="metric 'rce' is of probabilities, and ranker 'list' predicts scores; known: auc, "
    ):
        run(planted, sets, ranker={"dlrm": small, "list": listwise}, callback=trained.append)
    assert trained == []
    with pytest.raises(ConfigError, match="metric 'map' needs groups"):
        run(planted, sets, features=planted.features(group=None), metrics=["map"])


def test_sets_leave_out_what_they_do_not_name(planted):
    user = table(planted.user, "user")
    features = FeatureSpec(
        pretrained=[
            Pretrained("user", user, usage="sum"),
            Pretrained("ad", user),
            Pretrained("ad", user, name="other"),
        ],
        dense=["age", "hour"],
        categorical={"user": 10, "country": 5},
        bags=[Bag("genres", values=5)],
        hashed=["device"],
        label="clicked",
        group="session",
    )
    specs = feature_sets(features, {"none": [], "U": ["user", "hour"], "all": ["genres", "country", "other", "device"]})
    none, some, rest = specs.values()
    assert [each.key for each in none.pretrained] == ["ad"]  # no set names it, so it is always there
    assert (list(none.dense), list(none.categorical), list(none.bags), list(none.hashed)) == (["age"], ["user"], [], [])
    assert [each.key for each in some.pretrained] == ["user", "ad"]  # "user" is the pretrained one, not the category
    assert (list(some.dense), list(some.categorical)) == (["age", "hour"], ["user"])
    assert [each.key for each in rest.pretrained] == ["ad", "other"]
    assert (list(rest.categorical), [bag.key for bag in rest.bags]) == (["user", "country"], ["genres"])
    assert list(rest.hashed) == ["device"]
    assert all((spec.label, spec.group) == ("clicked", "session") for spec in specs.values())


def test_what_cannot_be_compared_is_refused(planted):
    for choices, message in (
        ({"sets": {"baseline": [], "U": ["usr"]}}, "set 'U' has the feature 'usr'; did you mean 'user'"),
        ({"sets": {"base": [], "U": ["user"]}}, "the baseline is the set 'baseline'; did you mean 'base'"),
        ({"sets": {"baseline": "user"}}, "set 'baseline' is 'user', expected a list"),
        ({"sets": {}}, "expected names and what each includes"),
        (
            {"sets": {"baseline": [], "all": ["user", "ad", "noise", "age"]}},
            "set 'baseline': the spec reads no feature",
        ),
        ({"metrics": ["rse"]}, "there is no metric 'rse'; did you mean 'rce'"),
        ({"metrics": "rce"}, "metrics is 'rce', expected a list"),
        ({"metrics": ["map"], "features": planted.features(group=None)}, "metric 'map' needs groups"),
        ({"seeds": [0, 0]}, r"seeds are \[0, 0\], expected different whole numbers"),
        ({"seeds": []}, "seeds are"),
        ({"seeds": [-1]}, "seeds are"),
        ({"bootstrap": -1}, "bootstrap has to be"),
        ({"min_rows": 0}, "min_rows has to be at least 1"),
    ):
        trained: list[str] = []
        with pytest.raises(ConfigError, match=message):
            run(
                planted,
                callback=lambda event, told=trained: told.append(event["event"]),
                **{"sets": {"baseline": []}, **choices},
            )
        assert trained == []
    with pytest.raises(DataError, match="segments by column 'usr', which the frame lacks; did you mean 'user'"):
        run(planted, {"baseline": []}, segments="usr", ranker=lambda features, seed: NotTrained())
    with pytest.raises(DataError, match=r"the frame lacks the columns \['clicked'\]"):
        run(planted, {"baseline": []}, test=planted.test.drop(columns="clicked"))


def test_a_mean_of_runs_is_taken_inside_each_resample():
    a = Measured(("m",), (3,), np.array([1.0]), np.array([[0.0], [2.0]]))
    b = Measured(("m",), (3,), np.array([2.0]), np.array([[4.0], [2.0]]))
    mean = mean_of([a, b])
    assert (mean.values.tolist(), mean.drawn.tolist()) == ([1.5], [[2.0], [2.0]])
    with pytest.raises(DataError, match="of the same queries or rows have a mean"):
        mean_of([a, Measured(("m",), (4,), np.array([2.0]), b.drawn)])


def test_a_run_says_what_it_was(made):
    content = json.loads((made[1] / Run("", "U", 1).folder / "run.json").read_text())
    assert (content["format"], content["set"], content["seed"]) == ("ablation-run/1", "U", 1)
    assert content["settings"]["ranker"] == {"kind": "dlrm", "dim": 4, "bottom": [8], "top": [16], "seed": 1}
    assert content["settings"]["fit"]["epochs"] == 3
    assert content["training"]["coverage"] == {"user": 1.0}
    assert 0.3 < content["training"]["best"]["valid_log_loss"] < 0.7
