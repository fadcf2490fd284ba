"""Put the page together: read, search, lay out, render.

What runs are two scripts: plotly's library and the page's own. Both stand in the page's security policy by their
SHA-256, and the policy allows nothing else: no other script, whatever an id says, and no request to any network.
"""

__all__ = ["write_page"]

import base64
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from recokit.errors import ConfigError, MissingDependencyError
from recokit.page.benchmarks import read_tasks
from recokit.page.card import Measured, make_card
from recokit.page.figures import benchmark_charts, compression_charts, drift_charts, training_charts
from recokit.page.lists import Lists, find_lists
from recokit.page.measured import compression_grid, drift_grids, drift_notes
from recokit.page.payload import explorer_of, pack, packed_json, plane_of
from recokit.page.plane import check_installed, draw_planes
from recokit.page.reading import Reports, Texts, check_texts, read_reports, texts_for
from recokit.page.samples import sample_lists
from recokit.report import write_text
from recokit.table import Version

_ASSETS = Path(__file__).parent / "assets"
_SCRIPTS = ("start.js", "grids.js", "charts.js", "explorer.js", "map.js")


def write_page(
    version: Version,
    path: str | Path,
    *,
    previous: Version | None = None,
    names: Mapping[str, Texts] | None = None,
    labels: Mapping[str, Texts] | None = None,
    reports: str | Path | Mapping[str, str | Path] | None = None,
    entities: int = 20_000,
    map_sample: int = 2_000,
    k: int = 10,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write one self-contained HTML page about a version.

    The neighbours that it shows are exact, over whole tables: that takes (entities with lists) * (rows of the tables) *
    dim products for each kind of list, and the memory of the largest table that a relation moves.

    Args:
        version: The version.
        path: The file; it appears whole or not at all.
        previous: The version to compare with.
        names: By table or entity type, the name of each id: a mapping, or a file and two columns, ``"m.csv:id,title"``.
        labels: The same for what the map colours by.
        reports: Reports that were not published with the version: a folder, a file, or paths by name; those of the
            version go first.
        entities: How many entities get lists, the most connected of each table.
        map_sample: Entities on a map; fewer than 3 draw none.
        k: Neighbours in a list.
        seed: Of samples and maps. The same version, reports and seed give the same bytes.
        progress: Called with how many lists are made, and of how many.

    Raises:
        ConfigError: A number is too small, or names or labels are of what the version does not have.
        DataError: A file of names, labels or reports does not fit.
        FormatError: A report is damaged.
        MissingDependencyError: The extra ``report`` is not installed.
    """
    for what, value, least in (("entities", entities, 1), ("map_sample", map_sample, 0), ("k", k, 1)):
        if value < least:
            raise ConfigError(f"{what} is {value}, expected at least {least}")
    render, plotly = _template(), _plotly()
    if map_sample:
        check_installed()  # before the search, which may take long
    check_texts(names or {}, version, "names")
    check_texts(labels or {}, version, "labels")
    found = read_reports(version, reports)
    earlier = Reports() if previous is None else read_reports(previous)
    called = {name: texts_for(names or {}, name, version.open(name), "names") for name in version.tables}
    labelled = {name: texts_for(labels or {}, name, version.open(name), "labels") for name in version.tables}
    lists = find_lists(version, entities=entities, k=k, progress=progress)
    planes = draw_planes(lists, _listed_labels(lists, labelled), sample=map_sample, seed=seed)
    tasks = read_tasks(found.benchmarks, version.name)
    before = read_tasks(earlier.benchmarks, "" if previous is None else previous.name)
    charts = {
        "training": training_charts(found.training),
        "benchmarks": benchmark_charts(tasks),
        "compression": compression_charts(found.compression),
        "drift": drift_charts(found.drift),
    }
    page = render(
        card=make_card(
            Measured(version, tasks, found), None if previous is None else Measured(previous, before, earlier)
        ),
        tasks=tasks,
        charts=charts,
        compression=compression_grid(found.compression),
        drift=drift_grids(found.drift),
        drift_notes=drift_notes(found.drift),
        samples=sample_lists(lists, called, seed=seed),
        lists=lists,
        k=k,
        planes=planes,
        drawn=_inert({name: [chart.to_dict() for chart in of] for name, of in charts.items()}),
        data=packed_json(
            {"tables": explorer_of(lists, called, labelled), "maps": [plane_of(plane) for plane in planes]}
        ),
        **_shell(plotly),
    )
    return write_text(Path(path), page)


def _shell(plotly: str) -> dict[str, str]:
    """Return what every page has: the style, the scripts, and the policy that names them."""
    script = "\n".join((_ASSETS / name).read_text(encoding="utf-8") for name in _SCRIPTS)
    return {
        "style": (_ASSETS / "page.css").read_text(encoding="utf-8"),
        "script": script,
        "plotly": pack(plotly.encode()),
        "policy": _policy(script, plotly),
    }


def _listed_labels(lists: tuple[Lists, ...], labels: Mapping[str, Mapping[Any, str]]) -> dict[str, list[str]]:
    """Return the label of each listed entity, by table, for tables that have any."""
    return {
        part.name: [labels[part.name].get(id_, "") for id_ in part.table.ids_at(part.rows).to_pylist()]
        for part in lists
        if labels[part.name]
    }


def _template() -> Callable[..., str]:
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError as error:
        raise MissingDependencyError("jinja2", extra="report", needed_for="the page") from error
    environment = Environment(
        loader=FileSystemLoader(_ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render


def _plotly() -> str:
    """Return plotly's library for browsers, out of the package for Python."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise MissingDependencyError("plotly", extra="report", needed_for="the page") from error
    return str(get_plotlyjs())


def _policy(*scripts: str) -> str:
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _inert(content: Any) -> str:
    """Return JSON that can stand in a script element: no ``<`` ends it."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")
