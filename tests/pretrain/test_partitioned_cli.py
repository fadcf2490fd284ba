"""``recokit pretrain --memory``, as a user types it."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from pretrain import load_exported
from recokit.table import open_version

CONFIG = """\
version = "v1"
output = "store"
[[relation]]
name = "clicks"
source = "user"
target = "ad"
path = "clicks.parquet"
columns = {{ source = "who" }}
[entity.ad]
min_count = 2
[split]
fraction = 0.2
[train]
dim = 8
epochs = 3
uniform_negatives = 10
{more}
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with a configuration and its edges; the working folder."""
    draw = np.random.default_rng(0)
    rows = pd.DataFrame({"who": draw.integers(20, size=300), "target": draw.integers(15, size=300)})
    rows = pd.concat([rows, pd.DataFrame({"who": [99], "target": [99]})])  # an ad of one edge
    rows.assign(who="u" + rows["who"].astype(str)).to_parquet(tmp_path / "clicks.parquet")
    (tmp_path / "c.toml").write_text(CONFIG.format(more=""))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_configuration_becomes_a_version_within_the_memory(project, run_cli):
    ran = run_cli("pretrain", "c.toml", "--memory", "4GB", "--json")
    assert ran.code == 0, ran.err
    document = json.loads(ran.out)
    assert document["read"] == [{"relation": "clicks", "read": 301, "null": 0, "below_min_count": 1, "edges": 300}]
    assert document["entities"] == {"user": 20, "ad": 15}
    assert document["partitions"] == 1
    assert [row["epoch"] for row in document["epochs"]] == [1, 2, 3]
    assert {"mrr", "hits@10"} <= {row["metric"] for row in document["results"]}
    version = open_version(project / "store/v1", verify=True)
    assert set(version.tables) == {"user", "ad"}
    assert load_exported(version).config.epochs == 3
    assert [path.name for path in (project / "store").iterdir()] == ["v1"]  # nothing of the run is left


def test_a_run_that_was_killed_goes_on_to_the_same_bytes(project, run_cli, monkeypatch):
    class Killed(BaseException):
        pass

    def killed(*args, **others):
        raise Killed

    assert run_cli("pretrain", "c.toml", "--memory", "4GB").code == 0
    whole = load_exported(project / "store/v1").vectors
    (project / "store/v1").rename(project / "first")
    with monkeypatch.context() as patch:
        patch.setattr("pretrain.partitioned_cli.export_partitioned", killed)
        with pytest.raises(Killed):
            run_cli("pretrain", "c.toml", "--memory", "4GB", "--checkpoint-seconds", "0")
    ran = run_cli("pretrain", "c.toml", "--memory", "4GB")
    assert ran.code == 2
    assert "go on with --resume" in ran.err
    assert run_cli("pretrain", "c.toml", "--memory", "4GB", "--resume").code == 0
    again = load_exported(project / "store/v1").vectors
    assert all((whole[name] == again[name]).all() for name in whole)
    ran = run_cli("pretrain", "c.toml", "--memory", "4GB", "--resume")
    assert ran.code == 0
    assert "nothing is left to go on with" in ran.err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("alpha = 0.5", "alpha does not go with partitions"),
        ("[validation]\nfraction = 0.1", r"c.toml: \[validation\]: not together with --memory"),
        ("[entity.user]\nalpha = 0.5", "alpha: not together with --memory"),
    ],
)
def test_what_partitions_cannot_do_is_refused(project, run_cli, more, message):
    (project / "c.toml").write_text(CONFIG.format(more=more))
    ran = run_cli("pretrain", "c.toml", "--memory", "4GB")
    assert ran.code == 2
    assert re.search(message, ran.err), ran.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--memory", "much"], "a size of memory is 'much'"),
        (["--memory", "90MB"], "memory is"),
        (["--memory", "4GB", "--save-model", "m"], "--save-model does not go with --memory"),
    ],
)
def test_bad_options_end_with_a_line(project, run_cli, words, message):
    ran = run_cli("pretrain", "c.toml", *words)
    assert ran.code == 2
    assert message in ran.err
    assert not list((project / "store").glob("*")) if (project / "store").exists() else True
