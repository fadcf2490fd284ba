"""What a command that trains finds of a run that was stopped, and what it writes but once."""

__all__ = ["may_begin", "write_once"]

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import typer
from rich.console import Console

from recokit.errors import VersionError
from recokit.table.folder import remove_partial


def may_begin(working: Sequence[Path], written: Sequence[Path], *, resume: bool, as_json: bool) -> bool:
    """Clear up, refuse before the work what would be refused after it, and make the store's folder.

    Args:
        working: Folders that a run works in; they go when it has ended.
        written: Folders that it writes, the version's first.
        resume: Whether to go on with a run that was stopped.
        as_json: Whether a machine reads the output.

    Returns:
        Whether there is anything to do: with ``resume`` the version may be there already, which the user is told.

    Raises:
        VersionError: There is a run that was stopped and ``resume`` is not asked for, or a folder is there already.
    """
    target = written[0]
    stopped = [path for path in working if path.exists()]
    if resume:
        for path in (*working, *written):
            remove_partial(path.parent, re.escape(path.name))
        if target.exists() and not stopped:
            typer.echo(f"{target} is there: nothing is left to go on with", err=True)
            if as_json:
                typer.echo(json.dumps({"version": str(target)}))
            return False
    elif stopped:
        folders = " and ".join(str(path) for path in stopped)
        raise VersionError(f"{folders} holds a run that was stopped: go on with --resume, or remove the folder")
    for path in written:
        if path.exists() and not stopped:
            raise VersionError(f"{path} exists already, and a version is never changed: choose another name")
    target.parent.mkdir(parents=True, exist_ok=True)  # what cannot be written should not be trained first
    return True


def write_once(path: Path, write: Callable[[Path], object], console: Console) -> None:
    """Write a folder, unless the run had written it before it was stopped."""
    if path.exists():
        console.print(f"{path} is there already and stays as it is")
    else:
        write(path)
