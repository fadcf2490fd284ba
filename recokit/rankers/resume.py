"""Runs that go on where they were killed: folders that appear whole or not at all, of JSON and ``.npy`` files.

    <path>/start/          run.json          what identifies the run, and what was learned from the rows before it
    <path>/<epoch>-<step>/ run.json, *.npy   weights, the optimizer's state, random numbers, the best weights so far

A new checkpoint is written beside the last, which goes afterwards: whenever the machine stops, the newest complete one
is there, and the run that goes on from it ends with the same bytes as one that never stopped. Nothing is pickled.
"""

__all__ = [
    "Checkpoints",
    "identity_of",
    "of_state",
    "optimizer_state",
    "random_state",
    "restore_optimizer",
    "restore_random",
    "to_arrays",
]

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recokit.errors import ConfigError, FormatError, VersionError
from recokit.feature_files import features_to_json
from recokit.rankers.base import Ranker
from recokit.rankers.fit_config import FitConfig
from recokit.table.folder import (
    check_files,
    file_entries,
    json_object,
    load_npy,
    local_folder,
    manifest_value,
    new_folder,
    read_manifest,
    write_json,
    write_npy,
)
from recokit.table.run_folder import complete_folders, keep_alone, said_of_differences

_Arrays: TypeAlias = dict[str, NDArray[Any]]

_FORMAT = "ranker-run/1"
_SMALL = 1 << 20  # bytes; arrays below lie together, for every file waits for the disk


class Checkpoints:
    """The checkpoints of one run.

    Args:
        path: Their folder; made at the first.
        run: What identifies the run: JSON, compared with that of the folder before it is gone on from.
        every: Steps between two checkpoints.
        resume: Go on with the run in the folder, if there is one.

    Raises:
        ConfigError: ``every`` is below 1.
        VersionError: There is a run and ``resume`` is not asked for, or it is another run.
        FormatError: Its start is damaged.
    """

    def __init__(self, path: str | Path, run: Mapping[str, Any], *, every: int, resume: bool) -> None:
        self.path, self._run, self.every = local_folder(path), json_object(run, "what identifies a run"), every
        if every < 1:
            raise ConfigError(f"checkpoint_every is {every}, expected at least 1")
        if self.path.exists() and not self.path.is_dir():
            raise VersionError(f"{self.path} is no folder of checkpoints")
        self.start: dict[str, Any] | None = None
        if not (self.path / "start").exists():
            if complete_folders(self.path):
                raise VersionError(
                    f"{self.path} holds checkpoints of a run whose start is not there: remove the folder"
                )
            return
        if not resume:
            raise VersionError(f"{self.path} holds a run: go on with it (resume=True), or remove the folder")
        manifest = read_manifest(self.path / "start", "run.json", _FORMAT)
        self._check_run(manifest_value(self.path / "start" / "run.json", manifest, "run", dict))
        self.start = manifest_value(self.path / "start" / "run.json", manifest, "record", dict)

    def begin(self, record: Mapping[str, Any]) -> None:
        """Write down what is known before the first step."""
        with new_folder(self.path / "start") as new:
            write_json(new / "run.json", {"format": _FORMAT, "run": self._run, "record": dict(record)})

    def load(self) -> tuple[dict[str, Any], _Arrays] | None:
        """Return the record and the arrays of the newest checkpoint; None where there is none.

        Raises:
            FormatError: It is damaged.
        """
        if not (found := complete_folders(self.path)):
            return None
        folder = found[-1]
        try:
            return self._read(folder)
        except FormatError as error:
            raise FormatError(f"{error}; without the folder {folder} the run goes on from the start") from error

    def save(self, epoch: int, step: int, record: Mapping[str, Any], arrays: _Arrays) -> None:
        """Write a checkpoint, then remove the earlier ones and what interrupted writes have left."""
        folder = self.path / f"{epoch}-{step}"
        if not folder.exists():  # else a run that had ended was gone on with
            self._write(folder, record, arrays)
        keep_alone(folder)

    def _read(self, folder: Path) -> tuple[dict[str, Any], _Arrays]:
        path, manifest = folder / "run.json", read_manifest(folder, "run.json", _FORMAT)
        check_files(folder, file_entries(folder, manifest, "run.json"), verify=True)
        record, places = (manifest_value(path, manifest, key, dict) for key in ("record", "arrays"))
        files: _Arrays = {}
        arrays: _Arrays = {}
        for name, place in places.items():
            if place["file"] not in files:
                files[place["file"]] = load_npy(folder / place["file"], dtypes=(place["dtype"],), shape=(-1,))
            size = math.prod(place["shape"])
            part = files[place["file"]][place["first"] : place["first"] + size]
            arrays[name] = np.array(part).reshape(place["shape"])
        return record, arrays

    def _write(self, folder: Path, record: Mapping[str, Any], arrays: _Arrays) -> None:
        files: dict[str, list[str]] = {}  # names of the arrays that lie one after the other in each
        for number, (name, array) in enumerate(arrays.items()):
            files.setdefault(f"{array.dtype if array.nbytes < _SMALL else number}.npy", []).append(name)
        places: dict[str, dict[str, Any]] = {}
        for file, names in files.items():
            first = 0
            for name in names:
                array = arrays[name]
                places[name] = {"file": file, "first": first, "dtype": str(array.dtype), "shape": list(array.shape)}
                first += array.size
        with new_folder(folder) as new:
            entries = {
                file: write_npy(new / file, np.concatenate([arrays[name].ravel() for name in names]))
                for file, names in files.items()
            }
            write_json(
                new / "run.json", {"format": _FORMAT, "record": dict(record), "arrays": places, "files": entries}
            )

    def _check_run(self, theirs: Mapping[str, Any]) -> None:
        if said := said_of_differences(theirs, self._run):
            raise VersionError(f"{self.path} holds another run: {said}")


def identity_of(ranker: Ranker, config: FitConfig, others: Mapping[str, Any]) -> dict[str, Any]:
    """Return what makes a run this run: the ranker as it starts, its features and tables, the settings, and others."""
    content = features_to_json(ranker.features)
    learned = content["statistics"] and hashlib.sha256(json.dumps(content["statistics"]).encode()).hexdigest()
    return {
        "kind": ranker.kind,
        **{f"setting {name}": value for name, value in ranker.settings.items()},
        **content["features"],
        "tables": content["tables"],
        "statistics before the first step": learned,
        "weights before the first step": _digest(ranker.state_dict()),
        **{name: value for name, value in asdict(config).items() if name != "device"},  # the run may move
        **others,
    }


def to_arrays(**states: Mapping[str, Tensor]) -> _Arrays:
    """Return the tensors of several states as arrays, under ``state/name``."""
    return {f"{state}/{name}": each.cpu().numpy() for state, of in states.items() for name, each in of.items()}


def of_state(arrays: Mapping[str, NDArray[Any]], state: str) -> dict[str, Tensor]:
    """Return the tensors of one of the states that ``to_arrays`` was given."""
    prefix = f"{state}/"
    return {name.removeprefix(prefix): torch.from_numpy(a) for name, a in arrays.items() if name.startswith(prefix)}


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the state of every parameter, under ``number/name``."""
    state = optimizer.state_dict()["state"]
    return {f"{number}/{name}": each for number, of in state.items() for name, each in of.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, saved: Mapping[str, Tensor]) -> None:
    """Put back what ``optimizer_state`` returned."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in saved.items():
        number, _, key = name.partition("/")
        state.setdefault(int(number), {})[key] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def random_state(device: torch.device) -> dict[str, Tensor]:
    """Return the state of torch's generators that layers such as dropout draw from."""
    state = {"cpu": torch.get_rng_state()}
    return {**state, "cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else state


def restore_random(saved: Mapping[str, Tensor], device: torch.device) -> None:
    """Put back what ``random_state`` returned."""
    torch.set_rng_state(saved["cpu"])
    if "cuda" in saved and device.type == "cuda":
        torch.cuda.set_rng_state(saved["cuda"], device)


def _digest(state: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in state.items():
        array = np.ascontiguousarray(tensor.cpu().numpy())
        digest.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    return digest.hexdigest()
