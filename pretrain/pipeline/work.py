"""The folder that a pipeline works in: what its steps made, and what a run has settled.

    lock                  held by the run that is going on
    hashes.json           contents of files that were read, by path, size, time of change and inode
    runs/<version>.json   what a run has settled once: its day, its parent, the keys of its steps, what it published
    <step>/<key>/         what a step made, and step.json; there whole or not at all

A step's key is a hash of all that its result depends on: the format of the step, its part of the configuration, the
contents of the files that it reads, and the keys of the steps that it stands on. A folder of that name is the result,
so that nothing needs to be compared, and nothing is ever out of date. The version of recokit is recorded and not in the
key: most releases change no result, and a night should not train anew because a message was reworded. A step whose
result a release changes raises the step's format number, which is in the key.
"""

__all__ = ["STEPS", "BusyError", "Work", "canonical", "key_of"]

import hashlib
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from recokit.errors import FormatError, MissingDependencyError, VersionError
from recokit.report import write_text
from recokit.table.folder import read_json, sha256_of, sync_folder, write_json

STEPS = ("select", "prepare", "train", "benchmark", "quantize", "gates", "page", "publish")

_STEP = "pipeline-step/1"
_RUN = "pipeline-run/1"
_BUILDING = ".building"
_MADE = re.compile(r"([0-9a-f]{32})(\.checkpoint|\.building)?")  # what steps call what they make
_SETTLED_NS = 2_000_000_000  # a file changed later than this before it was hashed may change again at the same time


class BusyError(VersionError):
    """Another run works in the folder."""


def canonical(content: Any) -> str:
    """Return JSON that is the same text for the same content."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False, default=str)


def key_of(step: str, number: int, parts: Mapping[str, Any]) -> str:
    """Return the key of a step: 32 hexadecimal digits of a SHA-256.

    Args:
        step: Its name.
        number: Its format, raised where its result would change for the same parts.
        parts: All else that the result depends on; what JSON has no form for counts as its text.
    """
    return hashlib.sha256(canonical([_STEP, step, number, parts]).encode()).hexdigest()[:32]


class Work:
    """A pipeline's folder; see the module.

    Args:
        path: The folder; made when it is held.
        look: Write nothing, not even what hashing has found out.
    """

    def __init__(self, path: Path, *, look: bool = False) -> None:
        self.path, self._look = path, look
        self._hashes: dict[str, list[Any]] | None = None

    @contextmanager
    def held(self, what: str) -> Iterator[None]:
        """Hold the folder: one run works in it at a time, and a killed one lets go of it.

        Args:
            what: Said to whoever comes meanwhile.

        Raises:
            BusyError: Another run holds it; the message says which.
        """
        try:
            import fcntl
        except ImportError as error:
            raise MissingDependencyError("fcntl", extra="pipeline", needed_for="the lock of a pipeline") from error
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / "lock").open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise BusyError(
                    f"{self.path} is worked in by another run: {file.read().strip() or 'just begun'}"
                ) from None
            said = f"{what}, process {os.getpid()} on {socket.gethostname()} since {_now()}"
            file.truncate(0)
            file.write(said + "\n")
            file.flush()
            self._clear()
            try:
                yield
            finally:
                file.truncate(0)

    def _clear(self) -> None:
        """Remove what killed runs have left half made; none but the holder works here."""
        for folder, _ in self._made():
            if folder.name.endswith(_BUILDING):
                shutil.rmtree(folder)

    def _made(self) -> list[tuple[Path, str]]:
        """Return the folders that steps have made, with their keys; in ``work = "."`` lie other people's files too."""
        folders = (folder for step in STEPS for folder in (self.path / step).glob("*") if folder.is_dir())
        found = ((folder, _MADE.fullmatch(folder.name)) for folder in folders)
        return [(folder, named[1]) for folder, named in found if named is not None]

    def sha256(self, path: Path) -> str:
        """Return the SHA-256 of a file, which is read again only where its size, time or inode have changed."""
        if self._hashes is None:
            self._hashes = self._read_hashes()
        before = path.stat()
        known = [before.st_size, before.st_mtime_ns, before.st_ino]
        cached = self._hashes.get(str(path))
        if cached is not None and cached[:3] == known:
            return str(cached[3])
        digest = sha256_of(path)
        if time.time_ns() - before.st_mtime_ns > _SETTLED_NS:
            self._hashes[str(path)] = [*known, digest]
        if str(path) in self._hashes and not self._look:
            write_text(self.path / "hashes.json", canonical(self._hashes) + "\n")
        return digest

    def _read_hashes(self) -> dict[str, list[Any]]:
        try:
            found = read_json(self.path / "hashes.json")
        except (OSError, FormatError):
            return {}  # it only saves time
        return {key: row for key, row in found.items() if len(row) == 4} if isinstance(found, dict) else {}

    def folder(self, step: str, key: str) -> Path:
        """Return where a step's result is, or will be."""
        return self.path / step / key

    def record(self, step: str, key: str) -> dict[str, Any] | None:
        """Return what a step wrote down of itself; None where it has not ended."""
        try:
            return dict(read_json(self.folder(step, key) / "step.json"))
        except FileNotFoundError:
            return None

    def make(
        self, step: str, key: str, build: Callable[[Path], Mapping[str, Any]], inputs: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Run a step.

        Args:
            step: Its name.
            key: Its key.
            build: Fills an empty folder and returns what should be known of it; JSON.
            inputs: What the key was made of.

        Returns:
            Its record.
        """
        started = time.perf_counter()
        # Not new_folder: versions are opened while they are put together, which partial folders refuse.
        folder = self.folder(step, key).with_name(f"{key}{_BUILDING}")
        folder.mkdir(parents=True)
        facts = build(folder)
        record = {
            "format": _STEP,
            "step": step,
            "key": key,
            "ended": _now(),
            "seconds": round(time.perf_counter() - started, 3),
            "facts": dict(facts),
            "inputs": json.loads(canonical(inputs)),
        }
        write_json(folder / "step.json", record)
        for path in (*folder.rglob("*"), folder):
            sync_folder(path)
        folder.rename(self.folder(step, key))
        sync_folder(folder.parent)
        return record

    def drop(self, step: str, key: str) -> None:
        """Remove a step's result, so that it is made again."""
        folder = self.folder(step, key)
        if folder.exists():
            aside = folder.with_name(f"{key}{_BUILDING}")  # in one rename: half a result is none
            folder.rename(aside)
            shutil.rmtree(aside)

    def run(self, version: str) -> dict[str, Any]:
        """Return what runs of a version have settled; empty before the first."""
        try:
            return dict(read_json(self.path / "runs" / f"{version}.json"))
        except FileNotFoundError:
            return {}

    def settle(self, version: str, run: Mapping[str, Any]) -> None:
        """Write down what a run has settled; it is on disk when this returns."""
        text = json.dumps({"format": _RUN, **run}, indent=2, ensure_ascii=False, default=str)
        write_text(self.path / "runs" / f"{version}.json", text + "\n")

    def prune(self, keep: int) -> None:
        """Remove what steps made for runs other than the newest ``keep``."""
        files = sorted((self.path / "runs").glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
        used = {(step, key) for path in files[-keep:] for step, key in read_json(path).get("steps", {}).items()}
        for folder, key in self._made():
            if (folder.parent.name, key) not in used:
                shutil.rmtree(folder, ignore_errors=True)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
