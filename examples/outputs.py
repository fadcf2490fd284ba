"""How the examples show their results, and where they write them."""

__all__ = ["add_outputs", "save", "show"]

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from recokit import Report
from recokit.cli import text_table
from recokit.report import markdown_table, write_text

Rows = Sequence[tuple[str, ...]]  # the head first


def add_outputs(parser: argparse.ArgumentParser, *names: str) -> None:
    """Add options for files: json, markdown, plot."""
    for name in names:
        parser.add_argument(f"--{name}", type=Path)


def show(console: Console, title: str, rows: Rows, protocol: Mapping[str, object]) -> None:
    """Print a table and the protocol that it was measured under."""
    console.print(text_table(title, rows[0], rows[1:]))
    for key, value in protocol.items():
        console.print(f"{key}: {value}")


def save(options: argparse.Namespace, report: Report, *tables: Rows) -> None:
    """Write the report, and the tables before it in Markdown, where the options say."""
    if options.json:
        report.save(options.json)
    if options.markdown:
        pages = [markdown_table(rows[0], rows[1:]) for rows in tables]
        write_text(options.markdown, "\n\n".join([*pages, report.to_markdown()]))
