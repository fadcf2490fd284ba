"""``recokit report``, end to end."""

import base64
import gzip
import json
import re
from importlib.metadata import EntryPoint

import pytest
from page_data import make_version, reports

pytest.importorskip("jinja2")
pytest.importorskip("plotly")
pytest.importorskip("sklearn")


@pytest.fixture
def command(tmp_path, monkeypatch, run_cli):
    point = EntryPoint("report", "recokit.page.cli:report", "recokit.commands")
    monkeypatch.setattr("recokit.cli.entry_points", lambda group: [point])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "store").mkdir()
    make_version(tmp_path / "store" / "v1", seed=5)
    make_version(tmp_path / "store" / "v2", parent="v1")
    return run_cli


def test_the_page_is_written_and_its_size_said(command, tmp_path):
    (tmp_path / "items.csv").write_text("key,title\ni07,Seven Samurai\n")
    (tmp_path / "found").mkdir()
    for name, content in reports().items():
        (tmp_path / "found" / name).write_text(content)
    options = ("--names", "item=items.csv:key,title", "--labels", "item=items.csv:key,title", "--reports", "found")
    small = ("--previous", "store/v1", "--map-sample", 10, "-k", 3, "--output", "p.html")
    ran = command("report", "store@v2", *options, *small, "--json")
    assert (ran.code, ran.err) == (0, "")
    said = json.loads(ran.out)
    page = (tmp_path / "p.html").read_text()
    assert (said["output"], said["version"], said["bytes"]) == ("p.html", "v2", len(page.encode()))
    for text in ("compared with <b>v1</b>", "+0.0500 ± 0.0361", "item by label"):
        assert text in page
    packed = re.search('id="data">([^<]*)<', page)[1]
    item = json.loads(gzip.decompress(base64.b64decode(packed)))["tables"][1]
    assert item["names"][item["ids"].index("i07")] == "Seven Samurai"
    assert item["lists"][0]["k"] == 3
    ran = command("report", "store/v2", *small[2:])
    assert ran.code == 0
    assert "MB" in ran.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--output", "p.pdf"), "expected a name that ends in .html"),
        (("--output", "p.html", "--names", "item"), "expected TABLE=FILE:ID,TEXT"),
        (("--output", "p.html", "--names", "item=a.csv", "--names", "item=b.csv"), "names 'item' twice"),
        (("--output", "p.html", "--names", "item=none.csv:a,b"), "none.csv does not exist"),
        (("--output", "p.html", "--reports", "none"), "no folder that holds one of"),
        (("--output", "p.html", "--entities", 0), "entities is 0"),
    ],
)
def test_bad_input_ends_with_one_line_and_no_page(command, tmp_path, words, message):
    ran = command("report", "store/v2", *words)
    assert ran.code == 2
    assert message in ran.err
    assert ran.err.count("\n") == 1
    assert not list(tmp_path.glob("p.*"))
