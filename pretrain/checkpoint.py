"""Checkpoints: a training run as it stands between two batches, in folders that appear whole or not at all.

    <path>/<epoch>-<batch>/   run.json, <n>.npy

A new one is written beside the last, which goes afterwards: whenever the machine stops, the newest complete one is
there, and the run that goes on from it ends with the same bytes as one that never stopped.
"""

__all__ = ["Checkpoints"]

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
    write_json,
    write_npy,
)
from recokit.table.run_folder import complete_folders, keep_alone, said_of_differences

_FORMAT = "checkpoint/1"
_DTYPES = ("float32", "float64", "int64", "uint8")


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
        if complete_folders(self.path) and not resume:
            raise VersionError(f"{self.path} holds a checkpoint: go on with its run (resume), or remove the folder")

    def load(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]] | None:
        """Return the record and the arrays of the newest checkpoint; None where there is none.

        Raises:
            VersionError: It is of another run.
            FormatError: It is damaged.
        """
        if not (found := complete_folders(self.path)):
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
        if said := said_of_differences(theirs, self._run):
            raise VersionError(f"{folder} is a checkpoint of another run: {said}")

    def due(self) -> bool:
        """Say whether it is time for the next one."""
        return time.monotonic() - self._written >= self._seconds

    def save(self, epoch: int, batch: int, record: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write a checkpoint, then remove the earlier ones and what interrupted writes have left."""
        folder = self.path / f"{epoch}-{batch}"
        if not folder.exists():  # else a resumed run stands where it stood
            self._write(folder, record, arrays)
        keep_alone(folder)
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
