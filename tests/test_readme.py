"""What the README shows runs as it stands there, in order, in one session."""

import re
import shlex
from pathlib import Path

import pytest

pytest.importorskip("torch")

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_python_snippets_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for number, block in enumerate(blocks("python")):
        exec(compile(block, f"README block {number}", "exec"), names)
    assert (tmp_path / "embeddings/2026-06-01/version.json").is_file()
    assert (tmp_path / "reports/first.json").is_file()
    # bob clicked 17, ann 17 and 42: what they may still be shown.
    assert set(zip(names["candidates"]["query"], names["candidates"]["candidate"], strict=True)) == {
        ("ann", 23),
        ("bob", 23),
        ("bob", 42),
    }


def test_the_commands_exist_and_the_example_runs(tmp_path, monkeypatch, run_cli):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    copy = tmp_path / "examples_copy"
    copy.mkdir()
    for folder in ("edges", "impressions", "later", "triples"):
        (copy / folder).symlink_to(ROOT / "examples" / folder)
    for name in ("ablate.toml", "pipeline.toml", "pretrain.toml", "probes.toml", "triples.toml"):
        (copy / name).write_bytes((ROOT / "examples" / name).read_bytes())
    monkeypatch.chdir(tmp_path)
    commands = "\n".join(blocks("sh")).replace("\\\n", " ")
    lines = [line for line in commands.splitlines() if line.startswith("recokit ")]
    assert len(lines) == 19
    for line in lines:
        words = [word.replace("examples/", "examples_copy/") for word in shlex.split(line, comments=True)[1:]]
        if words[0] != "demo":
            assert run_cli(*words).code == 0, line


def test_the_tree_names_what_is_there():
    tree = README.split("## The tree")[1].split("```")[1]
    root = ""
    for line in tree.strip().splitlines():
        names = re.findall(r"[A-Za-z_]+(?:\.py|/)", line)
        if not line.startswith(" "):
            root = names[0]
            names = names if line.startswith("examples/") else names[:1]
            root = "" if line.startswith("examples/") else root
            assert all((ROOT / name).exists() for name in names), line
        else:
            missing = [name for name in names if not (ROOT / root / name).exists()]
            assert not missing, missing
