"""The folders of one training run, of which the newest complete one is what it goes on from.

    <path>/<epoch>-<place>/   there whole or not at all; a new one is written beside the last, which goes afterwards

What is in them, and when one is due, is for whoever writes them.
"""

__all__ = ["complete_folders", "keep_alone", "said_of_differences"]

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recokit.table.folder import remove_partial

_NAME = r"(\d+)-(\d+)"
_SAID = 60  # letters up to which a message spells out what differs


def complete_folders(path: Path) -> list[Path]:
    """Return the complete folders of a run, the newest last."""
    there = path.iterdir() if path.is_dir() else ()
    found = [(int(m[1]), int(m[2]), folder) for folder in there if (m := re.fullmatch(_NAME, folder.name))]
    return [folder for *_, folder in sorted(found)]


def keep_alone(folder: Path) -> None:
    """Remove the run's other folders, and what interrupted writes have left."""
    for other in complete_folders(folder.parent):
        if other != folder:
            shutil.rmtree(other, ignore_errors=True)
    remove_partial(folder.parent, _NAME)


def said_of_differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """Say in what a run that is there differs from this one; nothing where they are the same."""
    differing = [key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)]
    return "; ".join(_difference(key, theirs.get(key), ours.get(key)) for key in differing)


def _difference(key: str, theirs: Any, ours: Any) -> str:
    if max(len(repr(theirs)), len(repr(ours))) > _SAID:
        return f"its {key} are others"
    return f"its {key} is {theirs!r}, this run's {ours!r}"
