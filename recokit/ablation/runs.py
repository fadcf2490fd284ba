"""Runs that are kept: an ablation that was killed goes on with those that it has not finished.

    <set>-<seed>-<8 hex digits>/      one finished run; there whole or not at all
      run.json           {"format": "ablation-run/1", "ranker", "set", "seed", "settings", "training", "files"}
      predictions.npy    (n,) or (n, T) float64: what the ranker says of the test rows, n of them, for T labels

``settings`` is all that the predictions depend on: features, tables by their fingerprints, the ranker, how it was
trained, and digests of the rows. A run of other settings is refused, never mixed in.
"""

__all__ = ["Run", "RunFolder"]

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recokit.errors import FormatError, VersionError
from recokit.table.folder import (
    check_files,
    file_entries,
    load_npy,
    local_folder,
    manifest_value,
    new_folder,
    read_manifest,
    remove_partial,
    write_json,
    write_npy,
)

FORMAT = "ablation-run/1"
_MANIFEST = "run.json"
_PREDICTIONS = "predictions.npy"


@dataclass(frozen=True)
class Run:
    """A cell of the ablation, one seed of it."""

    ranker: str
    set: str
    seed: int

    def __str__(self) -> str:
        return f"{self.ranker + ': ' if self.ranker else ''}{self.set}, seed {self.seed}"

    @property
    def folder(self) -> str:
        """A name that any file system takes, and that no two runs share."""
        whole = hashlib.sha256(json.dumps([self.ranker, self.set, self.seed]).encode()).hexdigest()[:8]
        words = [re.sub(r"[^A-Za-z0-9_]+", "_", word)[:40] for word in (self.ranker, self.set) if word]
        return "-".join([*words, str(self.seed), whole])


@dataclass(frozen=True)
class RunFolder:
    """Where finished runs are kept; ``path`` None keeps none."""

    path: Path | None

    @classmethod
    def at(cls, path: str | Path | None) -> "RunFolder":
        """Name a folder, which need not exist, and clear away what killed runs left half written."""
        if path is None:
            return cls(None)
        folder = local_folder(path)
        remove_partial(folder, ".+")
        return cls(folder)

    def predictions(self, run: Run, settings: Mapping[str, Any], shape: tuple[int, ...]) -> NDArray[np.float64] | None:
        """Return the predictions of a finished run, or None where it has still to be made.

        Raises:
            VersionError: The run that is there has other settings.
            FormatError: It is damaged.
        """
        if self.path is None or not (self.path / run.folder).exists():
            return None
        folder = self.path / run.folder
        manifest = read_manifest(folder, _MANIFEST, FORMAT)
        check_files(folder, file_entries(folder, manifest, _MANIFEST), verify=False)
        kept = manifest_value(folder / _MANIFEST, manifest, "settings", dict)
        if (differing := _difference(kept, json.loads(json.dumps(dict(settings))))) is not None:
            name, old, new = differing
            raise VersionError(
                f"{folder} holds the run {str(run)!r} with {name} {old}, this one has {new}: choose "
                "another folder, or remove this one"
            )
        try:
            return np.array(load_npy(folder / _PREDICTIONS, dtypes=("float64",), shape=shape))
        except FormatError as error:
            raise FormatError(f"{error}; remove {folder} to make the run again") from error

    def keep(
        self,
        run: Run,
        settings: Mapping[str, Any],
        training: Mapping[str, Any],
        predictions: NDArray[np.float64],
    ) -> None:
        """Write a finished run."""
        if self.path is None:
            return
        with new_folder(self.path / run.folder) as folder:
            files = {_PREDICTIONS: write_npy(folder / _PREDICTIONS, predictions)}
            named = {"ranker": run.ranker, "set": run.set, "seed": run.seed}
            content = {"format": FORMAT, **named, "settings": settings, "training": training, "files": files}
            write_json(folder / _MANIFEST, content)


def _difference(old: Any, new: Any, name: str = "") -> tuple[str, str, str] | None:
    """Return where two trees first differ, as a dotted name and what is said of both values."""
    if isinstance(old, list) and isinstance(new, list):
        if len(old) != len(new):
            return name, _listed(old), _listed(new)
        old, new = dict(enumerate(old)), dict(enumerate(new))
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            found = _difference(old.get(key), new.get(key), f"{name}.{key}" if name else str(key))
            if found is not None:
                return found
        return None
    return None if old == new else (name, _brief(old), _brief(new))


def _listed(values: list[Any]) -> str:
    """Count, and name what has a name: ``2 (user, ad)``."""
    given = [(each.get("name") or each.get("column")) if isinstance(each, dict) else each for each in values]
    names = [each for each in given if isinstance(each, str)]
    shown = ", ".join([*names[:8], *(["..."] if len(names) > 8 else [])])
    return f"{len(values)} ({shown})" if shown else str(len(values))


def _brief(value: Any) -> str:
    text = "none" if value is None else json.dumps(value)
    return text if len(text) <= 100 else f"{text[:60]} ... {text[-30:]}"
