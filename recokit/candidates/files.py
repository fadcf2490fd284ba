"""Candidate frames as a folder of Parquet parts, written so that a run that was killed can go on.

    _candidates.json      {"format": "candidates/1", "settings": {...}, "parts": 12, "complete": false}, written first;
                          "complete": true and "files": {name: {"bytes", "sha256"}} once all parts are there
    part-00000.parquet    columns query, candidate, score, rank[, component]

A part is written under a name that starts with ``.partial-`` and renamed when it is on disk, so it is there whole or
not at all; readers of Parquet folders skip names that start with a dot or an underscore. A single chunk can be a file
of its own, which carries the settings in its metadata. The settings say what the lists are lists of: a run goes on
only where they are the same.
"""

__all__ = ["CandidateFolder", "begin_folder", "has_single", "write_single"]

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from recokit.errors import FormatError, VersionError
from recokit.table.folder import (
    PARTIAL,
    local_folder,
    manifest_value,
    new_folder,
    partial_path,
    read_manifest,
    sha256_of,
    write_json,
)

FORMAT = "candidates/1"
_MANIFEST = "_candidates.json"
_KEY = b"recokit.candidates"  # of the metadata of a single file


@dataclass(frozen=True)
class CandidateFolder:
    """A folder that parts are written to; made by ``begin_folder``."""

    path: Path
    settings: Mapping[str, Any]
    parts: int

    def has(self, number: int) -> bool:
        """Whether a part is there."""
        return self._part(number).is_file()

    def count(self, number: int) -> int:
        """Return how many candidates a part holds.

        Raises:
            FormatError: It is damaged.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return int(pq.read_metadata(self._part(number)).num_rows)
        except (OSError, pa.ArrowException) as error:
            raise FormatError(f"{self._part(number)} is damaged: delete it and go on by --resume ({error})") from error

    def write(self, number: int, frame: pd.DataFrame) -> None:
        """Write a part, whole or not at all."""
        _write(self._part(number), frame, {})

    def finish(self) -> None:
        """Say that all parts are there."""
        names = [self._part(number) for number in range(self.parts)]
        files = {file.name: {"bytes": file.stat().st_size, "sha256": sha256_of(file)} for file in names}
        partial = partial_path(self.path / _MANIFEST)
        write_json(partial, _manifest(self.settings, self.parts) | {"complete": True, "files": files})
        partial.replace(self.path / _MANIFEST)

    def _part(self, number: int) -> Path:
        return self.path / f"part-{number:05d}.parquet"


def begin_folder(path: str | Path, settings: Mapping[str, Any], parts: int, *, resume: bool) -> CandidateFolder:
    """Make a folder for ``parts`` parts, or go on with one that was begun with the same settings.

    Args:
        path: The folder.
        settings: What the lists are lists of; JSON.
        parts: How many there will be.
        resume: Go on where the folder is there, instead of refusing it. What other runs have left half written is
            removed, so only one run may go on with a folder at a time.

    Raises:
        VersionError: The folder is there without ``resume``, or was begun with other settings.
        FormatError: What is there is no folder of candidates.
    """
    folder = local_folder(path)
    made = CandidateFolder(folder, settings, parts)
    if not os.path.lexists(folder):
        with new_folder(folder) as empty:
            write_json(empty / _MANIFEST, _manifest(settings, parts))
        return made
    _refuse_unless(resume, folder)
    if not (folder / _MANIFEST).is_file():
        raise FormatError(f"{folder} exists and holds no {_MANIFEST}: it is no folder of candidates to go on with")
    manifest = read_manifest(folder, _MANIFEST, FORMAT)
    _check_same(folder, manifest_value(folder / _MANIFEST, manifest, "settings", dict), settings)
    for left in folder.glob(f"{PARTIAL}*"):
        left.unlink()
    return made


def write_single(path: str | Path, frame: pd.DataFrame, settings: Mapping[str, Any]) -> None:
    """Write one file, whole or not at all."""
    file = local_folder(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    _write(file, frame, {_KEY: json.dumps(_manifest(settings, 1)).encode()})


def has_single(path: str | Path, settings: Mapping[str, Any], *, resume: bool) -> bool:
    """Whether a file is there already, with the same settings; refuses it as ``begin_folder`` does a folder."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = local_folder(path)
    if not os.path.lexists(file):
        return False
    _refuse_unless(resume, file)
    try:
        manifest = json.loads((pq.read_schema(file).metadata or {})[_KEY])
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise FormatError(f"{file} exists and is no file of candidates to go on with") from error
    _check_same(file, manifest["settings"], settings)
    return True


def _refuse_unless(resume: bool, path: Path) -> None:
    if not resume:
        raise VersionError(f"{path} exists already: choose another name, or go on with it by --resume")


def _check_same(path: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    new = json.loads(json.dumps(dict(new)))  # as it reads from the file
    for name in [*old, *(name for name in new if name not in old)]:
        if old.get(name) != new.get(name):
            raise VersionError(
                f"{path} was begun with {name} {old.get(name)!r}, this run has {new.get(name)!r}: choose another name"
            )


def _manifest(settings: Mapping[str, Any], parts: int) -> dict[str, Any]:
    return {"format": FORMAT, "settings": dict(settings), "parts": parts, "complete": False}


def _write(path: Path, frame: pd.DataFrame, metadata: Mapping[bytes, bytes]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pandas(frame, preserve_index=False)
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), **metadata})
    partial = partial_path(path)
    try:
        with partial.open("xb") as file:
            pq.write_table(table, file, compression="zstd")
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
