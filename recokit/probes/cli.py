"""The subcommand ``recokit probe``: what a version's vectors are good for, beside what needs none."""

__all__ = ["probe"]

import json
from functools import reduce
from operator import or_
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from recokit.cli import JsonFlag, emit, progress, text_table
from recokit.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from recokit.report import Report


def probe(
    version: Annotated[str, typer.Argument(metavar="VERSION", help="A version: its folder or URL, or STORE@NAME.")],
    config: Annotated[Path, typer.Argument(help="What to measure, in [[probe]] tables.")],
    *,
    previous: Annotated[str | None, typer.Option(help="The version before, for [[probe]]s of stability.")] = None,
    output: Annotated[Path | None, typer.Option(help="The report: .json, .md or .html.")] = None,
    card: Annotated[Path | None, typer.Option(help="The card of the version: .md.")] = None,
    seed: Annotated[int, typer.Option(help="Of folds, pairs, samples and baselines.")] = 0,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds, from --seed on; the table has their means.")] = 1,
    bootstrap: Annotated[int, typer.Option(min=0, help="Resamples for intervals; 0 for none.")] = 1000,
    as_json: JsonFlag = False,
) -> None:
    """Measure what a version's vectors are good for: labels predicted, sets, links, neighbours kept."""
    from recokit.probes import read_tasks, run_probes, version_card
    from recokit.report import write_text
    from recokit.store import open_source
    from recokit.toml_file import TomlFile

    for name, given, endings in (("--output", output, (".json", ".md", ".html")), ("--card", card, (".md",))):
        if given is not None and given.suffix not in endings:  # before the work, not after it
            raise ConfigError(f"{name} is {given.name!r}, expected a name that ends in {', '.join(endings)}")
    file = TomlFile.read(config)
    file.check_keys(file.content, ("probe",), "")
    tasks = read_tasks(file)
    if not tasks:
        raise file.error("", None, "there is no [[probe]]: what is to be measured")
    opened = open_source(version)
    before = None if previous is None else open_source(previous)
    reports = []
    with progress("measuring") as advance:
        for number in range(seeds):
            part = run_probes(
                opened,
                tasks,
                previous=before,
                seed=seed + number,
                bootstrap=bootstrap,
                progress=lambda done, of, number=number: advance(number * of + done, seeds * of),  # type: ignore[misc]
            )
            reports.append(part)
    report = reduce(or_, reports)
    if output is not None:
        report.save(output)
    if card is not None:
        write_text(card, version_card(opened, report))
    emit(json.loads(report.to_json()), as_json, _table(report))


def _table(report: "Report") -> "Table":
    from recokit.probes.card import benchmark_rows

    rows = benchmark_rows(report)
    return text_table("benchmarks; * is not beaten", rows[0], rows[1:])
