"""Reports: results as rows, each with its interval and its protocol; Markdown, HTML and terminal tables are views.

A number without its protocol is not a result, so every ``Result`` carries one. On disk (``report/1``):

    {"format": "report/1", "created": UTC, "provenance": {"versions", "commit", "machine", "data"},
     "results": [{"name", "metric", "value", "low", "high", "n", "seed", "group", "protocol"}, ...]}

so that ``pandas.DataFrame(report["results"])`` is the whole of it, and two reports compare row by row. NaN, which JSON
does not have, is null there. In the views, results of one name, group and metric that differ in their seed are
summarised as mean ± standard deviation (number of seeds); a single one stands as ``value [low, high]``.
"""

__all__ = ["Report", "Result", "gather_provenance", "markdown_table", "seed_table", "write_text"]

import html
import json
import math
import os
import platform
import re
import statistics
import subprocess
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from recokit.errors import ConfigError, DataError, FormatError, closest

if TYPE_CHECKING:
    from rich.table import Table

FORMAT = "report/1"
_HERE = Path(__file__).resolve()
PACKAGES = ("recokit", "numpy", "pandas", "scipy", "pyarrow", "torch", "torchrec", "faiss-cpu", "hnswlib")


@dataclass(frozen=True)
class Result:
    """One number and how it came to be.

    Attributes:
        name: What was measured: a model, a system.
        metric: Which metric, with what it needs to be unambiguous: ``"recall@10"``, ``"map@10[rel]"``.
        value: The number; NaN where it is undefined.
        low: Lower end of its interval, or None.
        high: Upper end of its interval, or None.
        n: Queries, groups or rows that it is a mean over, or None.
        seed: Seed of the training run that it belongs to, or None.
        group: A part of the data, a relation or a label that it is about; None for all.
        protocol: How it was measured: split, candidates, filter, ties, ...; values that JSON can hold.
    """

    name: str
    metric: str
    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None
    seed: int | None = None
    group: str | None = None
    protocol: dict[str, Any] = field(default_factory=dict)

    @property
    def half_width(self) -> float | None:
        """Half of what its interval spans, or None where it has none that is finite."""
        if self.low is None or self.high is None or not math.isfinite(self.high - self.low):
            return None
        return (self.high - self.low) / 2


def gather_provenance(data: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Where a report comes from: versions, commit of recokit's own checkout, machine, and the ``data`` hashes given.

    Nothing is imported for it: versions are those of the installed packages.
    """
    return {
        "versions": {"python": platform.python_version(), **_versions()},
        "commit": _commit(_HERE),
        "machine": {"cpus": os.cpu_count(), "architecture": platform.machine(), "system": platform.system()},
        "data": dict(data or {}),
    }


@dataclass(eq=False, repr=False)
class Report:
    """Results, where they came from, and views of them.

    >>> report = Report([Result("hin", "recall@10", 0.25)], {}) | Report([Result("floor", "recall@10", 0.125)], {})
    >>> report.value("recall@10", name="floor")
    0.125
    """

    results: list[Result]
    provenance: dict[str, Any] = field(default_factory=gather_provenance)
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def __getitem__(self, key: str) -> Any:
        return self.to_dict()[key]

    def __or__(self, other: "Report") -> "Report":
        """Join two reports: rows of both, equal ones once; provenance that differs is kept side by side."""
        if not isinstance(other, Report):
            return NotImplemented
        rows = {_canonical(result): result for result in (*self.results, *other.results)}
        return Report(list(rows.values()), _merge(self.provenance, other.provenance), max(self.created, other.created))

    def __len__(self) -> int:
        return len(self.results)

    def __repr__(self) -> str:
        names = _unique(result.name for result in self.results)
        shown = [repr(name) for name in names[:5]] + (["..."] if len(names) > 5 else [])
        return f"Report({len(self)} results of {', '.join(shown)})" if names else "Report(0 results)"

    def __str__(self) -> str:
        return self.to_markdown()

    def __rich__(self) -> "Table":
        return self.to_rich()

    def _repr_html_(self) -> str:
        return "".join(map(_html_table, _families(self.results)))

    def value(self, metric: str, *, name: str | None = None, group: str | None = None) -> float:
        """Return the one value of ``metric``; several or none (of that name and group, where given) is a DataError.

        Without ``group``, a value of all data goes before those of its parts.
        """
        found = [
            result
            for result in self.results
            if result.metric == metric and name in (None, result.name) and group in (None, result.group)
        ]
        if len(found) > 1 and (of_all := [result for result in found if result.group is None]):
            found = of_all
        if len(found) != 1:
            raise DataError(
                f"the report has {len(found)} results for metric {metric!r}, name {name!r}, group {group!r}: "
                f"{closest(metric, {result.metric for result in self.results})}"
            )
        return found[0].value

    def to_frame(self) -> pd.DataFrame:
        """One row per result, with the fields of ``Result`` as columns."""
        return pd.DataFrame([asdict(result) for result in self.results], columns=[f.name for f in fields(Result)])

    def to_dict(self) -> dict[str, Any]:
        """The content of the JSON file; a value that is NaN or infinite is None."""
        return {
            "format": FORMAT,
            "created": self.created,
            "provenance": self.provenance,
            "results": [_row(result) for result in self.results],
        }

    def to_json(self) -> str:
        """The report as ``report/1`` JSON."""
        try:
            return json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False, default=_plain) + "\n"
        except (TypeError, ValueError) as error:
            raise DataError(f"protocol and provenance have to hold what JSON can hold: {error}") from error

    def to_markdown(self) -> str:
        """One row per name (and group), one column per metric, the protocols as footnotes.

        Names that share no metric, such as retrievers and rankers, stand in tables of their own.
        """
        return "\n".join(map(_markdown_section, _families(self.results) or [[]]))

    def to_rich(self) -> "Table":
        """The same in one table for a terminal, upright where that is narrower: ``console.print(report)`` uses it."""
        from rich.table import Table
        from rich.text import Text

        header, rows = _pivot(self.results)
        if len(rows) < len(header) - 1:  # metrics go down the page
            names, *values = zip(*rows, strict=True)
            header, rows = (
                ["metric", *names],
                [[metric, *line] for metric, line in zip(header[1:], values, strict=True)],
            )
        # As Text: to rich's markup "[rel]" would be a style.
        caption = Text("\n".join(_notes(self.results)), justify="left") if self.results else None
        table = Table(caption=caption, caption_justify="left")
        for place, cell in enumerate(header):
            # The first column stays whole, numbers fold where the terminal is narrow.
            table.add_column(Text(cell), justify="right" if place else "left", overflow="fold", no_wrap=not place)
        for row in rows:
            table.add_row(*map(Text, row))
        return table

    def to_html(self, path: str | os.PathLike[str]) -> Path:
        """Write one self-contained page: the table, the protocols, the provenance."""
        style = (
            "body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#222}"
            "table{border-collapse:collapse}th,td{padding:.3rem .7rem;border-bottom:1px solid #ddd;text-align:right}"
            "th:first-child,td:first-child{text-align:left}pre{background:#f6f6f6;padding:1rem;overflow:auto}"
        )
        source = html.escape(json.dumps(self.provenance, indent=1, ensure_ascii=False, default=_plain))
        tables = "".join(map(_html_table, _families(self.results)))
        page = (
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>recokit report</title>'
            f"<style>{style}</style></head><body>\n<h1>Report of {html.escape(self.created)}</h1>\n{tables}"
            f"<h2>Provenance</h2>\n<pre>{source}</pre>\n</body></html>\n"
        )
        return write_text(Path(path), page)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write ``.json``, ``.md`` or ``.html``, by the name; the file appears whole or not at all."""
        target = Path(path)
        if target.suffix == ".html":
            return self.to_html(target)
        if target.suffix not in (".json", ".md"):
            raise ConfigError(f"a report is saved as .json, .md or .html, not as {target.name!r}")
        return write_text(target, self.to_json() if target.suffix == ".json" else self.to_markdown())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Report":
        """Read a ``report/1`` JSON file; another format, or a row with unknown or missing fields, is a FormatError."""
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise FormatError(f"{path} is not JSON: {error}") from error
        found = content.get("format") if isinstance(content, dict) else None
        if found != FORMAT:
            raise FormatError(f"{path} is of format {found!r}, not {FORMAT!r}")
        try:
            results = [_result(row) for row in content["results"]]
            return cls(results, content["provenance"], content["created"])
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"{path} is not a complete {FORMAT}: {error}") from error


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


@cache  # the code that runs is the one that was imported, whatever is checked out later
def _commit(file: Path) -> str | None:
    """Commit of the git checkout that ``file`` is part of, with ``-dirty`` if tracked files differ from it; or None.

    A package in a virtual environment lies within many a repository that knows nothing of it: git has to track it.
    """
    if _git(file, "ls-files", "--error-unmatch", file.name) is None:
        return None
    return _git(file, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def _git(file: Path, *words: str) -> str | None:
    """Return what git says in the folder of a file, or None where it fails."""
    chosen = (
        "GIT_DIR",
        "GIT_WORK_TREE",
        "GIT_INDEX_FILE",
        "GIT_PREFIX",
    )  # of a hook that runs this: another repository
    try:
        answer = subprocess.run(
            ["git", *words],
            cwd=file.parent,
            env={key: value for key, value in os.environ.items() if key not in chosen} | {"GIT_OPTIONAL_LOCKS": "0"},
            capture_output=True,
            text=True,
            timeout=5.0,
            check=True,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def _merge(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    """Unite two trees; leaves that differ become a list of both."""
    merged = dict(a)
    for key, value in b.items():
        mine = merged.get(key, value)
        if isinstance(mine, Mapping) and isinstance(value, Mapping):
            merged[key] = _merge(mine, value)
        elif mine == value:
            merged[key] = value
        else:
            known = mine if isinstance(mine, list) else [mine]
            merged[key] = known + [new for new in (value if isinstance(value, list) else [value]) if new not in known]
    return merged


def _row(result: Result) -> dict[str, Any]:
    row = asdict(result)
    for key in ("value", "low", "high"):
        row[key] = None if row[key] is None or not math.isfinite(row[key]) else float(row[key])
    return row


def _canonical(result: Result) -> str:
    return json.dumps(_row(result), sort_keys=True, default=_plain)


def _plain(value: Any) -> Any:
    """What JSON holds of a NumPy scalar or array, a path, a time."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, (os.PathLike, datetime)):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not JSON: {value!r}")


def _result(row: Mapping[str, Any]) -> Result:
    for key in ("value", "low", "high", "n"):
        if isinstance(row.get(key), bool) or not isinstance(row.get(key), int | float | None):
            raise ValueError(f"{key!r} is {row[key]!r}, expected a number or null")
    return Result(**{**row, "value": math.nan if row["value"] is None else float(row["value"])})


def _families(results: Sequence[Result]) -> list[list[Result]]:
    """Split results so that names with a metric in common stay together, in order of appearance."""
    families: list[tuple[set[str], list[Result]]] = []
    by_name: dict[str, list[Result]] = {}
    for result in results:
        by_name.setdefault(result.name, []).append(result)
    for rows in by_name.values():
        metrics = {result.metric for result in rows}
        joined = [family for family in families if family[0] & metrics]
        rest = [family for family in families if not family[0] & metrics]
        together = [row for _, family in joined for row in family]
        merged = (metrics.union(*(shared for shared, _ in joined)), [*together, *rows])
        at = families.index(joined[0]) if joined else len(families)
        families = [*rest[:at], merged, *rest[at:]]
    return [rows for _, rows in families]


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: bool = True) -> str:
    """Return a Markdown table: the first column to the left, the others, where they are numbers, to the right."""
    lines = [header, ["---"] + ["---:" if numbers else "---"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def seed_table(report: "Report", metrics: Sequence[str]) -> list[tuple[str, ...]]:
    """Return head and rows of text: systems, means ± deviations over seeds, then differences with their intervals.

    A difference is a name with `` - `` in it; its interval is the mean over seeds of the paired bootstrap's ends.
    """
    rows = report.to_frame()
    rows = rows[rows["metric"].isin(metrics)]
    table: list[tuple[str, ...]] = [("", *metrics)]
    for name in sorted(rows["name"].unique(), key=lambda name: " - " in name):
        cells = []
        for metric in metrics:
            part = rows[(rows["name"] == name) & (rows["metric"] == metric)]
            if part.empty:
                cells.append("")
            elif " - " in name:
                ends = f"[{part['low'].mean():+.4f}, {part['high'].mean():+.4f}]"
                cells.append(f"{part['value'].mean():+.4f} {ends}")
            else:
                spread = f" ± {part['value'].std():.4f}" if len(part) > 1 else ""
                cells.append(f"{part['value'].mean():.4f}{spread}")
        table.append((name, *cells))
    return table


def _markdown_section(results: Sequence[Result]) -> str:
    header, rows = _pivot(results)
    table = markdown_table(header, rows)
    notes = "\n".join(f"- {note}" for note in _notes(results))
    return f"{table}\n\n{notes}\n" if notes else f"{table}\n"


def _pivot(results: Sequence[Result]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of text: one row per name and group, one column per metric, in order of appearance."""
    metrics = list(dict.fromkeys(result.metric for result in results))
    cells: dict[str, dict[str, list[Result]]] = {}
    for result in results:
        label = result.name if result.group is None else f"{result.name} · {result.group}"
        cells.setdefault(label, {}).setdefault(result.metric, []).append(result)
    rows = [[label, *(_cell(row.get(metric, [])) for metric in metrics)] for label, row in cells.items()]
    return ["name", *metrics], rows


def _cell(results: Sequence[Result]) -> str:
    seeds = {result.seed for result in results}
    if len(seeds) == len(results) > 1 and None not in seeds:
        values = [result.value for result in results]
        # Of NaN and infinities statistics raises what nobody would understand.
        deviation = statistics.stdev(values) if all(map(math.isfinite, values)) else math.nan
        return f"{_text(statistics.fmean(values))} ± {_text(deviation)} ({len(values)})"
    # Several without seeds are no runs of one thing, so they have no mean.
    return " / ".join(_single(result) for result in results)


def _single(result: Result) -> str:
    if result.low is None or result.high is None:
        return _text(result.value)
    return f"{_text(result.value)} [{_text(result.low)}, {_text(result.high)}]"


def _text(value: float) -> str:
    """Four significant digits, at most four decimals."""
    if not math.isfinite(value):
        return str(value)
    whole = len(str(int(abs(value)))) if abs(value) >= 1.0 else 0
    return f"{value:.{max(0, 4 - whole)}f}"


def _notes(results: Sequence[Result]) -> list[str]:
    """One line per distinct protocol: whose it is, of which metrics where it is not of all, and what it says.

    Protocols that are equal but for a few keys have what they share in one line, and then a line for what each adds.
    """
    holders: dict[tuple[tuple[str, str], ...], list[Result]] = {}
    for result in results:
        if result.protocol:
            said = tuple((key, _said(value)) for key, value in result.protocol.items())
            holders.setdefault(said, []).append(result)
    notes = []
    for group in _alike(list(holders)):
        shared = _shared(group)
        everyone = [result for said in group for result in holders[said]]
        notes.append(_note(everyone, shared, results))
        rests = [(said, [pair for pair in said if pair not in shared]) for said in group]
        notes += [f"of these: {_note(holders[said], rest, results)}" for said, rest in rests if rest]
    return notes


def _alike(protocols: Sequence[tuple[tuple[str, str], ...]]) -> list[list[tuple[tuple[str, str], ...]]]:
    """Group protocols that share at least three keys' values and have at most three others each."""
    groups: list[list[tuple[tuple[str, str], ...]]] = []
    for said in protocols:
        for group in groups:
            shared = len(_shared([*group, said]))
            if shared >= 3 and all(len(one) - shared <= 3 for one in (*group, said)):
                group.append(said)
                break
        else:
            groups.append([said])
    return groups


def _shared(group: Sequence[tuple[tuple[str, str], ...]]) -> list[tuple[str, str]]:
    return [pair for pair in group[0] if all(pair in said for said in group)]


def _note(held: Sequence[Result], said: Iterable[tuple[str, str]], results: Sequence[Result]) -> str:
    names = _unique(result.name for result in held)
    metrics = _unique(result.metric for result in held)
    complete = metrics == _unique(result.metric for result in results if result.name in names)
    quoted = [f'"{name}"' if re.search(r"[,;]|\. ", name) else name for name in names]
    who = f"{'; '.join(quoted)}{'' if complete else ' (' + ', '.join(metrics) + ')'}"
    return f"{who}. {'; '.join(f'{key}: {value}' for key, value in said)}"


def _said(value: Any) -> str:
    return _text(value) if isinstance(value, float) else str(value)


def _unique(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))


def _html_table(results: Sequence[Result]) -> str:
    header, rows = _pivot(results)
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "\n".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in _notes(results))
    return f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>\n<ul>{notes}</ul>\n"


def write_text(path: Path, text: str) -> Path:
    """Write a text file beside ``path``, then rename it: readers see the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with beside.open("x", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    return path
