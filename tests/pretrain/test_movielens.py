"""The demo's data: read from a wheel with the right checksum, or refused in one line. No test goes to the network."""

import hashlib
import importlib
import subprocess
import zipfile

import pytest

from pretrain.movielens import load_movielens
from recokit.errors import ChecksumError, DataError

movielens = importlib.import_module("pretrain.movielens")

# A bar stands for a tab.
TABLES = {
    "inter": """\
user_id:token|item_id:token|rating:float|timestamp:float
7|10|3|881250949
8|11|5.0|891717742
""",
    "user": """\
user_id:token|age:token|gender:token|occupation:token|zip_code:token
7|24|M|writer|85711
8|53|F|other|
""",
    "item": """\
item_id:token|movie_title:token_seq|release_year:token|class:token_seq
10|Toy Story|1995|Animation Comedy
11|unknown||
""",
    "link": """\
item_id:token|entity_id:token
10|m.1
11|m.2
""",
    # An edge, its inverse, the edge again; a sequel and its near-inverse; an edge of no movie of ours.
    "kg": """\
head_id:token|relation_id:token|tail_id:token
m.1|film.film.actor|m.a
m.a|film.actor.film|m.1
m.1|film.film.actor|m.a
m.2|film.film.sequel|m.1
m.1|film.film.prequel|m.2
m.9|film.film.actor|m.a
""",
}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache with a tiny wheel, whose checksum is the expected one."""
    path = tmp_path / movielens._WHEEL
    with zipfile.ZipFile(path, "w") as wheel:
        for name, text in TABLES.items():
            wheel.writestr(movielens._FOLDER + name, text.replace("|", "\t"))
    monkeypatch.setattr(movielens, "_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    return tmp_path


@pytest.fixture
def pip(monkeypatch):
    """A pip that fails; what it was called with."""
    calls = []

    def run(command, **_):
        calls.append(command)
        error = "WARNING: Retrying\nERROR: Could not find a version\nERROR: No matching distribution found\n"
        return subprocess.CompletedProcess(command, 1, stdout="", stderr=error)

    monkeypatch.setattr(subprocess, "run", run)
    return calls


def test_tables_are_read_from_inside_the_wheel(cache, pip):
    data = load_movielens(cache)
    assert pip == []
    assert [path.name for path in cache.iterdir()] == [movielens._WHEEL]
    assert data.ratings.to_dict("list") == {
        "user": [7, 8],
        "movie": [10, 11],
        "rating": [3.0, 5.0],
        "time": [881250949.0, 891717742.0],
    }
    assert data.users.to_dict("list") == {
        "user": [7, 8],
        "age": [24, 53],
        "gender": ["M", "F"],
        "occupation": ["writer", "other"],
    }
    assert data.movies.to_dict("list") == {"movie": [10, 11], "title": ["Toy Story", "unknown"]}
    assert data.genres.to_dict("list") == {"movie": [10, 10], "genre": ["Animation", "Comedy"]}
    assert "MovieLens-100k" in data.source


def test_inverse_relations_and_repeated_triples_are_dropped(cache):
    assert load_movielens(cache).knowledge.to_dict("list") == {
        "movie": [10, 11],
        "relation": ["film.film.actor", "film.film.sequel"],
        "entity": ["m.a", "m.1"],
    }


def test_the_cache_is_found_through_the_environment(cache, monkeypatch):
    monkeypatch.setenv("RECOKIT_CACHE", str(cache))
    assert len(load_movielens().ratings) == 2


def test_without_wheel_and_network_one_line_says_so(tmp_path, pip):
    with pytest.raises(DataError, match=r"recbole==1.2.1 cannot be downloaded .*: No matching") as caught:
        load_movielens(tmp_path / "cache")
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "cache") in str(caught.value)
    (command,) = pip
    assert command[-1] == "recbole==1.2.1"
    assert "--no-deps" in command  # the wheel is read, never installed


def test_pip_that_says_nothing_is_quoted_by_its_status(tmp_path, monkeypatch):
    silent = subprocess.CompletedProcess([], 2, stdout="", stderr="")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: silent)
    with pytest.raises(DataError, match="pip ended with 2"):
        load_movielens(tmp_path)


def test_a_wheel_of_other_bytes_is_refused(cache):
    path = cache / movielens._WHEEL
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(ChecksumError, match=r"recbole.*whl has sha256 .*, expected .*: delete it and try again"):
        load_movielens(cache)
