"""The TOML file: what it becomes, and the line that every complaint names."""

import pandas as pd
import pytest

from pretrain.config import Relation, TrainConfig
from pretrain.graph import Graph
from pretrain.settings import load_settings
from recokit.errors import ConfigError

GOOD = """\
version = "v1"
output = "store"

[[relation]]
name = "follows"
source = "user"
target = "user"
path = "follows.csv"
columns = { source = "a", target = "b" }

[[relation]]
name = "clicks"   # the second
source = "user"
target = "ad"
path = "clicks/*.parquet"
weight = 2.0

[entity.ad]
min_count = 5

[split]
at = "2026-05-25"

[train]
dim = 16
loss = "logistic"
temperature = 1.0
"""


def written(folder, text):
    path = folder / "c.toml"
    path.write_text(text)
    return path


def test_a_file_becomes_settings(tmp_path):
    settings = load_settings(written(tmp_path, GOOD))
    assert settings.version == "v1"
    assert settings.output == tmp_path / "store"
    assert settings.relations == (
        Relation("follows", source="user", target="user"),
        Relation("clicks", source="user", target="ad", weight=2.0),
    )
    assert settings.paths == {"follows": tmp_path / "follows.csv", "clicks": tmp_path / "clicks/*.parquet"}
    assert settings.columns == {"follows": {"source": "a", "target": "b"}, "clicks": {}}
    assert settings.min_count == {"ad": 5}
    assert settings.split == {"at": "2026-05-25"}
    assert settings.train == TrainConfig(dim=16, loss="logistic", temperature=1.0)


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ('version = "v1"', 'verson = "v1"', 1, "unknown key 'verson'; did you mean 'version'"),
        ('version = "v1"', 'version = "v 1"', 1, "version is 'v 1': expected 1 to 200 of the letters"),
        ('target = "ad"', 'target = "an ad"', 14, "target is 'an ad': expected 1 to 200"),
        ('target = "ad"', 'target = "state"', 14, "target is 'state', which is a folder of every version"),
        ('output = "store"', "output = 3", 2, "output must be a non-empty string, got 3"),
        ("weight = 2.0", "wieght = 2.0", 16, "unknown key 'wieght'; did you mean 'weight'"),
        ("weight = 2.0", "weight = -1", 16, "weight must be a number above 0, got -1"),
        ('target = "ad"\n', "", 11, "'target' is missing"),
        ("min_count = 5", "min_count = 0", 19, "min_count must be a whole number of at least 1, got 0"),
        ("min_count = 5", "mincount = 5", 19, "unknown key 'mincount'; did you mean 'min_count'"),
        ('at = "2026-05-25"', 'at = "2026-05-25"\nfraction = 0.1', 21, "give either fraction or at"),
        ("dim = 16", "dims = 16", 25, "unknown key 'dims'; did you mean 'dim'"),
        ("dim = 16", "dim = 0", 25, "dim must be a whole number of at least 1, got 0"),
        ('loss = "logistic"', 'loss = "logistc"', 26, "loss 'logistc' is not known; did you mean 'logistic'"),
        ("temperature = 1.0", "temperature = 'warm'", 27, "temperature must be a number above 0, got 'warm'"),
        ("[train]", "[trian]", 24, "unknown key 'trian'; did you mean 'train'"),
    ],
)
def test_a_complaint_names_its_line(tmp_path, old, new, line, message):
    assert old in GOOD
    path = written(tmp_path, GOOD.replace(old, new, 1))
    with pytest.raises(ConfigError) as raised:
        load_settings(path)
    assert str(raised.value).startswith(f"{path}:{line}: ")
    assert message in str(raised.value)


def test_a_date_of_toml_splits_like_a_string(tmp_path):
    settings = load_settings(written(tmp_path, GOOD.replace('at = "2026-05-25"', "at = 2026-05-25")))
    clicks = pd.DataFrame({"source": [1, 2], "target": [1, 2], "time": pd.to_datetime(["2026-05-24", "2026-05-25"])})
    graph = Graph.from_frames({"clicks": clicks}, [Relation("clicks", "user", "ad")])
    assert [len(part.edges["clicks"]) for part in graph.split(**settings.split)] == [1, 1]


def test_what_is_no_configuration_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.toml cannot be read: No such file"):
        load_settings(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match=r"is not TOML: Invalid value"):
        load_settings(written(tmp_path, "version = "))
    with pytest.raises(ConfigError, match="'relation' is missing"):
        load_settings(written(tmp_path, 'version = "v"\noutput = "o"\n'))
    with pytest.raises(ConfigError, match=r"relations are written as \[\[relation\]\]"):
        load_settings(written(tmp_path, 'version = "v"\noutput = "o"\n[relation]\nname = "x"\n'))
