"""Checkpoints: a training run as it stands between two batches, in folders that appear whole or not at all.

    <path>/<epoch>-<batch>/   run.json, <n>.npy

A new one is written beside the last, which goes afterwards: whenever the machine stops, the newest complete one is
there, and the run that goes on from it ends with the same bytes as one that never stopped.
"""

__all__ = ["Checkpoints"]

import re
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recokit.errors import FormatError, VersionError
from recokit.table.folder import (
    check_files,
    file_entries,
    json_object,
    load_npy,
    manifest_value,
    new_folder,
    read_manifest,
    remove_partial,
    write_json,
    write_npy,
)

_FORMAT = "checkpoint/1"
_NAME = r"(\d+)-(\d+)"
_DTYPES = ("float32", "float64", "int64", "uint8")
_SAID = 60  # letters up to which a message spells out what differs


class Checkpoints:
    """The checkpoints of one run.

    Args:
        path: Their folder; made at the first.
        run: What identifies the run: JSON, compared with that of a checkpoint before it is gone on from.
        seconds: Time between two checkpoints.
        resume: Go on from the newest one, if there is any.

    Raises:
        VersionError: There is a checkpoint and ``resume`` is not asked for, or the path is a file.
    """

    def __init__(self, path: str | Path, run: Mapping[str, Any], *, seconds: float, resume: bool) -> None:
        self.path, self._run, self._seconds = Path(path), json_object(run, "what identifies a run"), seconds
        self._written = time.monotonic()
        if self.path.exists() and not self.path.is_dir():
            raise VersionError(f"{self.path} is no folder of checkpoints")
        if self._all() and not resume:
            raise VersionError(f"{self.path} holds a checkpoint: go on with its run (resume), or remove the folder")

    def _all(self) -> list[Path]:
        """Return the complete checkpoints, the newest last."""
        there = self.path.iterdir() if self.path.is_dir() else ()
        found = [(int(m[1]), int(m[2]), folder) for folder in there if (m := re.fullmatch(_NAME, folder.name))]
        return [folder for *_, folder in sorted(found)]

    def load(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]] | None:
        """Return the record and the arrays of the newest checkpoint; None where there is none.

        Raises:
            VersionError: It is of another run.
            FormatError: It is damaged.
        """
        if not (found := self._all()):
            return None
        try:
            return self._read(found[-1])
        except FormatError as error:
            earlier = "an earlier one" if found[:-1] else "the start"
            raise FormatError(f"{error}; without the folder {found[-1]} the run goes on from {earlier}") from error

    def _read(self, folder: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        manifest = read_manifest(folder, "run.json", _FORMAT)
        self._check_run(folder, manifest)
        check_files(folder, file_entries(folder, manifest, "run.json"), verify=True)
        path = folder / "run.json"
        record, axes = (manifest_value(path, manifest, key, dict) for key in ("record", "arrays"))
        place = [manifest_value(path, record, key, int) for key in ("epoch", "batch")]
        if folder.name != "-".join(map(str, place)):
            raise FormatError(f"{path} has epoch {place[0]} and batch {place[1]}, expected those of its folder's name")
        history = manifest_value(path, record, "history", list)
        if not all(isinstance(entry, dict) and type(entry.get("epoch")) is int for entry in history):
            raise FormatError(f"{path}: 'history' holds what is no epoch")
        arrays = {
            name: np.array(
                load_npy(folder / f"{number}.npy", dtypes=_DTYPES, shape=(-1,) * manifest_value(path, axes, name, int))
            )
            for number, name in enumerate(axes)
        }
        return record, arrays

    def _check_run(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        theirs = manifest_value(folder / "run.json", manifest, "run", dict)
        differing = [key for key in {**self._run, **theirs} if self._run.get(key) != theirs.get(key)]
        if differing:
            said = [_difference(key, theirs.get(key), self._run.get(key)) for key in differing]
            raise VersionError(f"{folder} is a checkpoint of another run: {'; '.join(said)}")

    def due(self) -> bool:
        """Say whether it is time for the next one."""
        return time.monotonic() - self._written >= self._seconds

    def save(self, epoch: int, batch: int, record: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write a checkpoint, then remove the earlier ones and what interrupted writes have left."""
        folder = self.path / f"{epoch}-{batch}"
        if not folder.exists():  # else a resumed run stands where it stood
            self._write(folder, record, arrays)
        for other in self._all():
            if other != folder:
                shutil.rmtree(other, ignore_errors=True)
        remove_partial(self.path, _NAME)
        self._written = time.monotonic()

    def _write(self, folder: Path, record: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        with new_folder(folder) as new:
            files = {f"{n}.npy": write_npy(new / f"{n}.npy", array) for n, array in enumerate(arrays.values())}
            write_json(
                new / "run.json",
                {
                    "format": _FORMAT,
                    "run": self._run,
                    "record": dict(record),
                    "arrays": {name: array.ndim for name, array in arrays.items()},
                    "files": files,
                },
            )


def _difference(key: str, theirs: Any, ours: Any) -> str:
    if max(len(repr(theirs)), len(repr(ours))) > _SAID:
        return f"its {key} are others"
    return f"its {key} is {theirs!r}, this run's {ours!r}"
