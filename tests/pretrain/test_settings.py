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


TRIPLES = """\
version = "v2"
output = "store"
previous = "store/v1"

[triples]
path = "edges/*.tsv"
columns = { source = "column0", relation = "column1", target = "column2" }
header = false
unknown = "drop"

[[relation]]
id = 17
name = "user_in_guild"
source = "user"
target = "guild"

[[relation]]
name = "friends"
source = "user"
target = "user"

[[network]]
name = "social"
relations = ["friends"]

[[network]]
name = "all"
relations = ["friends", "user_in_guild"]

[entity.user]
alpha = 0.5

[entity.guild]
alpha = 1
min_count = 3

[split]
at = "2026-05-25"

[validation]
fraction = 0.1
seed = 1

[tune]
trials = 20
seconds = 600.5
metric = "mrr"

[tune.space]
operator = ["translation", "identity"]
temperature = { low = 0.05, high = 1.0, log = true }
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


def test_a_file_of_triples_becomes_settings(tmp_path):
    settings = load_settings(written(tmp_path, TRIPLES))
    relations = (Relation("user_in_guild", "user", "guild"), Relation("friends", "user", "user"))
    assert settings.relations == relations
    assert settings.triples == {
        "data": tmp_path / "edges/*.tsv",
        "columns": {"source": "column0", "relation": "column1", "target": "column2"},
        "header": False,
        "unknown": "drop",
        "relations": {17: relations[0], "friends": relations[1]},
    }
    assert (settings.paths, settings.columns) == ({}, {})
    assert settings.previous == tmp_path / "store/v1"
    assert settings.alpha == {"user": 0.5, "guild": 1.0}
    assert settings.min_count == {"guild": 3}
    assert settings.split == {"at": "2026-05-25"}
    assert settings.validation == {"fraction": 0.1, "seed": 1}
    assert settings.networks == {"social": ("friends",), "all": ("friends", "user_in_guild")}
    assert settings.tune == {
        "trials": 20,
        "seconds": 600.5,
        "metric": "mrr",
        "space": {
            "operator": ["translation", "identity"],
            "temperature": {"low": 0.05, "high": 1.0, "log": True},
        },
    }


def test_triples_are_read_as_the_file_says(tmp_path):
    (tmp_path / "edges").mkdir()
    (tmp_path / "edges/1.tsv").write_text("1\t17\t2\n1\t99\t1\n3\t17\t2\n")
    (tmp_path / "edges/2.tsv").write_text("4\t17\t2\n4\tfriends\t1\n4\t17\t5\n")
    graph = load_settings(written(tmp_path, TRIPLES)).graph()
    assert graph.pairs("user_in_guild").to_numpy().tolist() == [[1, 2], [3, 2], [4, 2]]  # guild 5 has one edge, not 3
    assert graph.pairs("friends").to_numpy().tolist() == [[4, 1]]


def test_networks_of_relations_that_triples_alone_name_are_checked_once_these_are_read(tmp_path):
    (tmp_path / "edges.tsv").write_text("1\t17\t2\n2\t18\t1\n")
    text = 'version = "v"\noutput = "o"\n[triples]\npath = "edges.tsv"\n[[network]]\nname = "n"\nrelations = '
    assert list(load_settings(written(tmp_path, text + '["17", "18"]')).graph().relations) == ["17", "18"]
    for named, message in {
        '["17", "81"]': "has the relation '81'; known: 17, 18",
        '["17"]': "'18' is in no network",
    }.items():
        settings = load_settings(written(tmp_path, text + named))
        with pytest.raises(ConfigError, match=message):
            settings.graph()


def test_what_is_not_there_is_empty(tmp_path):
    settings = load_settings(written(tmp_path, GOOD))
    assert (settings.triples, settings.alpha, settings.validation, settings.networks, settings.tune) == ({},) * 5
    assert settings.previous is None


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ('previous = "store/v1"', "previous = 3", 3, "previous must be a non-empty string, got 3"),
        ('previous = "store/v1"', 'previous = "s3://b/v1"', 3, "s3://b/v1 is a URL"),
        ('path = "edges/*.tsv"', 'pth = "edges/*.tsv"', 6, "unknown key 'pth'; did you mean 'path'"),
        ('path = "edges/*.tsv"\n', "", 5, "'path' is missing"),
        ("header = false", 'header = "no"', 8, "header is 'no', expected true or false"),
        ("header = false", 'entity = "entity"', 8, "entity has no use beside [[relation]] tables"),
        ('source = "column0"', "source = 0", 7, "columns is {'source': 0, "),
        ('unknown = "drop"', 'unknown = "dorp"', 9, "unknown 'dorp' is not known; did you mean 'drop'"),
        ("id = 17", "id = 1.7", 12, "id must be an integer or a string, got 1.7"),
        ("id = 17", 'path = "x"', 12, "unknown key 'path'; "),
        ('name = "social"', 'name = "a b"', 23, "name is 'a b': expected 1 to 200 of the letters"),
        ('name = "social"', 'name = "all"', 27, "network 'all' is there twice"),
        ('relations = ["friends"]', 'relation = ["friends"]', 24, "unknown key 'relation'; did you mean 'relations'"),
        ('relations = ["friends"]', "relations = []", 24, "relations must be a list of names of relations, got []"),
        ('relations = ["friends"]', 'relations = ["frends"]', 24, "relation 'frends'; did you mean 'friends'"),
        ('["friends", "user_in_guild"]', '["friends"]', 24, "'user_in_guild' is in no network (1 of 2 "),
        ("[entity.user]", "[entity.usr]", 30, "no relation has the entity type 'usr'; did you mean 'user'"),
        ("alpha = 0.5", "alpha = -0.5", 31, "alpha must be a number of at least 0, got -0.5"),
        ("alpha = 0.5", "alpha = true", 31, "alpha is True, expected a number of at least 0"),
        ("fraction = 0.1", "fraction = 0.1\nat = 3", 40, "give either fraction or at"),
        ("seed = 1", "seed = -1", 42, "seed must be a whole number of at least 0, got -1"),
        ("seed = 1", "sed = 1", 42, "unknown key 'sed'; did you mean 'seed'"),
        ("trials = 20", "trials = 0", 45, "trials must be a whole number of at least 1, got 0"),
        ("trials = 20", "trials = 2.5", 45, "trials is 2.5, expected a whole number of at least 1"),
        ("seconds = 600.5", "seconds = -1", 46, "seconds must be a number above 0, got -1"),
        ('metric = "mrr"', 'metrics = "mrr"', 47, "unknown key 'metrics'; did you mean 'metric'"),
        ("temperature = {", "temprature = {", 51, "there is no setting 'temprature'; did you mean 'temperature'"),
        ("log = true", "lg = true", 51, "the range of temperature has 'lg'; did you mean 'log'"),
        ("low = 0.05", "low = 0", 51, "temperature is drawn by its logarithm, so low must be above 0, got 0"),
        ("low = 0.05", "low = 1.0", 51, "temperature goes from low = 1.0 to high = 1.0, expected"),
        ("low = 0.05, ", "", 51, "temperature goes from low = None to high = 1.0, expected"),
        (
            "high = 1.0",
            'high = "1"',
            51,
            "the range of temperature goes from low = 0.05 to high = 1, expected two numbers",
        ),
        (
            '["translation", "identity"]',
            "[]",
            50,
            "operator needs a list of choices or a range of low and high, got []",
        ),
    ],
)
def test_a_complaint_about_triples_networks_and_tuning_names_its_line(tmp_path, old, new, line, message):
    check_complaint(tmp_path, TRIPLES, old, new, line, message)


def test_a_table_within_a_table_is_found_wherever_it_is_written(tmp_path):
    inline = TRIPLES.replace("[tune.space]\n", "").replace('operator = ["translation", "identity"]\n', "")
    inline = inline.replace("temperature = {", "space.temperature = {")
    check_complaint(tmp_path, inline, "low = 0.05", "low = 0", 49, "low must be above 0, got 0")
    own = TRIPLES.replace("temperature = { low = 0.05, high = 1.0, log = true }", "[tune.space.dim]\nlow = 4\nhigh = 8")
    assert load_settings(written(tmp_path, own)).tune["space"]["dim"] == {"low": 4, "high": 8}
    check_complaint(tmp_path, own, "low = 4", "low = 9", 51, "dim goes from low = 9 to high = 8")


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
    check_complaint(tmp_path, GOOD, old, new, line, message)


def check_complaint(folder, text, old, new, line, message):
    assert old in text
    path = written(folder, text.replace(old, new, 1))
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


@pytest.mark.parametrize("value", ["id = 17", 'id = "17"'])
def test_an_id_that_two_relations_have_is_refused(tmp_path, value):
    new = f'name = "friends"\n{value}'
    check_complaint(tmp_path, TRIPLES, 'name = "friends"', new, 19, "two relations are called '17' by the triples")


def test_a_name_that_two_relations_of_triples_have_is_refused(tmp_path):
    old = "[[network]]"
    new = '[[relation]]\nname = "friends"\nsource = "user"\ntarget = "user"\n\n[[network]]'
    check_complaint(tmp_path, TRIPLES, old, new, 23, "two relations are called 'friends' by the triples")


def test_values_nested_too_deeply_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"c.toml is not a configuration: its values are nested too deeply"):
        load_settings(written(tmp_path, "x = " + "[" * 100_000 + "]" * 100_000))
