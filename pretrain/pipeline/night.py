"""A night: one version on its way through the steps, what is settled about it, and the keys of its steps."""

__all__ = ["FORMATS", "STANDS_ON", "STEPS", "Bars", "Night", "behind"]

import dataclasses
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

from pretrain.pipeline.inputs import edge_files, measured_files, page_files
from pretrain.pipeline.parent import Pinned, find_parent, open_pinned, pin
from pretrain.pipeline.settings import PipelineSettings
from pretrain.pipeline.work import STEPS, Work, key_of
from recokit.errors import ConfigError, DataError, FormatError, VersionError
from recokit.table import Version, open_version
from recokit.table.folder import read_json

# Raised where a step would make something else of the same parts; see pretrain.pipeline.work.
FORMATS = {"select": 1, "prepare": 1, "train": 1, "benchmark": 1, "quantize": 1, "gates": 1, "page": 1, "publish": 1}
STANDS_ON = {
    "select": (),
    "prepare": ("select",),
    "train": ("prepare",),
    "benchmark": ("train",),
    "quantize": ("train",),
    "gates": ("benchmark",),
    "page": ("quantize", "gates"),
    "publish": ("page",),
}

# What selection reads of a relation; the rest is for the training.
_READ = ("name", "source", "target", "id", "path", "columns")


def behind(step: str) -> list[str]:
    """Return a step and those that stand on it, directly or not."""
    found = [step]
    for other in STEPS[STEPS.index(step) + 1 :]:
        if not set(found).isdisjoint(STANDS_ON[other]):
            found.append(other)
    return found


class Bars:
    """Progress that nobody sees; ``pretrain.pipeline.cli`` has one for terminals."""

    def training(self, what: str) -> AbstractContextManager[Callable[[Mapping[str, Any]], None]]:
        """Show how far a training is."""
        return nullcontext(lambda event: None)

    def counting(self, what: str) -> AbstractContextManager[Callable[[int, int], None]]:
        """Show how many parts are done, and of how many."""
        return nullcontext(lambda done, of: None)


class Night:
    """One version of a configuration; its work folder is held by whoever changes anything.

    Args:
        settings: The configuration.
        work: The folder that it works in.
        bars: Progress.
        checkpoint_seconds: Time between two checkpoints of the training.
        despite: Why the version is published although a gate fails.
        move_aliases: Move aliases from versions of later days too.
    """

    def __init__(
        self,
        settings: PipelineSettings,
        work: Work,
        *,
        bars: Bars | None = None,
        checkpoint_seconds: float = 60.0,
        despite: str | None = None,
        move_aliases: bool = False,
    ) -> None:
        self.settings, self.work, self.move_aliases = settings, work, move_aliases
        self.bars, self.checkpoint_seconds = bars or Bars(), checkpoint_seconds
        self.settled = work.run(settings.version)
        self.despite = despite if despite is not None else self.settled.get("despite")
        self.keyed: dict[str, dict[str, Any]] = {}  # what the keys were made of
        self._keys: dict[str, str] = {}
        self._bytes: dict[str, int] = {}  # of files, when they were hashed first

    def begin(self, *, look: bool = False) -> None:
        """Settle the day and the parent, at the first run of the version.

        Args:
            look: Write nothing down.

        Raises:
            ConfigError: The version was begun for another day, or there is no version as ``previous`` says.
            VersionError: The store has the version, and this pipeline did not make it.
        """
        settings = self.settings
        if self.settled:
            if (day := self.settled["date"]) != settings.date.isoformat():
                raise ConfigError(
                    f"version {settings.version!r} was begun for the date {day}, not {settings.date}: "
                    f"give --date {day} or another --version"
                )
            for key, now in self._settled_once().items():
                if self.settled.get(key, now) != now and (key == "output" or "published" not in self.settled):
                    raise ConfigError(
                        f"version {settings.version!r} was begun with {key} = {self.settled[key]!r}, not {now!r}, in "
                        f"{self.work.path}: give another --version"
                    )
            return
        from recokit.store import EmbeddingStore

        store = EmbeddingStore(settings.store)
        if settings.version in (*store.versions(), *store.retired()):
            raise VersionError(
                f"{settings.store} has a version {settings.version!r} that was not made here, and what is published is "
                "never changed: give another --version"
            )
        parent = find_parent(settings)
        pinned = None if parent is None else dataclasses.asdict(pin(settings, parent))
        first = {
            "version": settings.version,
            "date": settings.date.isoformat(),
            **self._settled_once(),
            "parent": pinned,
        }
        if look:
            self.settled = first
        else:
            self.settle(first)

    def _settled_once(self) -> dict[str, str]:
        """Return what a version keeps that has been begun: its store, as it was written, and where it starts from."""
        return {"output": str(self.settings.file.content["output"]), "previous": self.settings.previous}

    def settle(self, more: Mapping[str, Any]) -> None:
        """Write down more of what is settled."""
        self.settled = {**self.settled, **more}
        self.work.settle(self.settings.version, self.settled)

    @property
    def parent_name(self) -> str | None:
        """The previous version's name; None without one."""
        return None if self.settled["parent"] is None else str(self.settled["parent"]["name"])

    @cached_property
    def parent(self) -> Version | None:
        """The previous version, opened; None without one."""
        found = self.settled["parent"]
        if found is None:
            return None
        try:
            return open_pinned(Pinned(**found))
        except (FormatError, VersionError) as error:
            raise VersionError(
                f"version {self.settings.version!r} was begun from version {found['name']!r}, which cannot be opened: "
                f"{error}. A version of another name begins anew"
            ) from error

    def key(self, step: str) -> str:
        """Return the key of a step; files are hashed where they have changed."""
        if step not in self._keys:
            stands_on = {each: self.key(each) for each in STANDS_ON[step]}
            self.keyed[step] = {"stands_on": stands_on, **self.parts(step)}
            self._keys[step] = key_of(step, FORMATS[step], self.keyed[step])
        return self._keys[step]

    def check_unchanged(self, step: str) -> None:
        """Refuse what was made of files that are no longer those of the key.

        Raises:
            DataError: Names the first of them.
        """
        for path, digest in self.keyed[step].get("files", {}).items():
            file = self.settings.folder / path
            if not file.is_file() or self.work.sha256(file) != digest:
                raise DataError(f"{self.settings.folder / path} has changed while {step!r} was running: run it again")

    def folder(self, step: str) -> Path:
        """Return where a step's result is, or will be."""
        return self.work.folder(step, self.key(step))

    def parts(self, step: str) -> dict[str, Any]:
        """Return what the result of a step depends on, beside its format and the steps that it stands on."""
        settings, training, content = self.settings, self.settings.training, self.settings.file.content
        parent = None if self.settled["parent"] is None else self.settled["parent"]["sha256"]
        if step == "select":
            rows = [{key: row.get(key) for key in _READ} for row in content.get("relation", ())]
            config = {key: content.get(key) for key in ("triples", "selection")}
            return {"relations": rows, **config, "files": self.hashes(self.edge_files)}
        if step == "prepare":
            return {"min_count": training.min_count, "split": training.split, "validation": training.validation}
        if step == "train":
            config = {
                "relations": [dataclasses.asdict(relation) for relation in training.relations],
                "train": dataclasses.asdict(training.train),
                "warm": settings.warm,
                "alpha": training.alpha,
                "networks": training.networks,
                "start": settings.start,
            }
            return {"version": settings.version, "parent": parent, **config}
        if step == "benchmark":
            config = {"benchmarks": list(settings.benchmarks), "drift": content.get("drift")}
            return {"parent": parent, **config, "files": self.hashes(measured_files(settings))}
        if step == "quantize":
            codes = settings.quantize
            follows = {"parent": parent} if codes is not None and codes.codebook == "previous" else {}
            return {"quantize": content.get("quantize"), **follows}
        if step == "gates":
            return {"gates": [dataclasses.asdict(gate) for gate in settings.gates]}
        if step == "page":
            config = {"config": settings.template, "despite": self.despite}
            return {**config, "files": self.hashes(page_files(settings))}
        return {}

    @cached_property
    def edge_files(self) -> list[Path]:
        """The files that edges come from."""
        return edge_files(self.settings)

    def edges_read(self) -> dict[str, str]:
        """Return the SHA-256 of the files of edges, as they were read, by paths from the configuration's folder."""
        self.key("select")
        rules = self.settings.selection
        ids = {os.path.relpath(path, self.settings.folder) for path in (*rules.keep.values(), *rules.drop.values())}
        return {path: digest for path, digest in self.keyed["select"]["files"].items() if path not in ids}

    def hashes(self, files: list[Path]) -> dict[str, str]:
        """Return what files hold, by their paths from the configuration's folder."""
        named = {os.path.relpath(path, self.settings.folder): path for path in files}
        found = {name: self.work.sha256(path) for name, path in named.items()}
        for name, path in named.items():
            self._bytes.setdefault(name, path.stat().st_size)
        return found

    def inputs(self) -> dict[str, dict[str, Any]]:
        """Return bytes and SHA-256 of all files that steps up to the page have read, as they were read.

        By their paths from the configuration's folder; what has happened to a file since is no matter.
        """
        self.key("page")
        digests = {path: digest for parts in self.keyed.values() for path, digest in parts.get("files", {}).items()}
        return {path: {"bytes": self._bytes[path], "sha256": digests[path]} for path in sorted(digests)}

    @cached_property
    def trained(self) -> Version:
        """The version that was trained."""
        return open_version(self.folder("train") / self.settings.version)

    def relation_files(self) -> dict[str, Path]:
        """Return relation to the prepared folder and the name of its file, as parts of it have one."""
        files = read_json(self.folder("select") / "relations.json")["files"]
        return {name: self.folder("prepare") / file for name, file in files.items()}
