"""Rankers as ONNX models, with their tables inside, or as inputs that come with each request.

    model.onnx       inputs named as ``recokit.feature_batch.flatten`` names them; outputs ``logits``, ``probabilities``
    model.onnx.data  the large arrays, where there are some
    ranker.json      {"format": "onnx-ranker/1", "kind", "features", "statistics", "tables", "inputs", "given", "files"}

Decisions:
- With ``tables="initializers"`` the model holds codes and vectors, and takes row numbers of the tables. With
  ``tables="inputs"`` it takes, besides row numbers, the codes (n, M) uint8 or vectors (n, D) of the n ids that a
  request is about, and row numbers count those: a feature store sends 32 bytes for a user once, and not a kilobyte for
  every candidate (TwHIN, El-Kishky et al. 2022, 7.1). Codebooks stay in the model; ``ranker.json`` says whose codes it
  reads. Mixtures are always inside.
- Codebooks are folded into the linear map behind them (``recokit.layers.fold``) where that is asked for: onnxruntime
  adds looked-up rows in two passes, so that folding, which pays in torch, costs it some time (from 16 codes a row on).
- How many rows a request has, and how many values its bags, is free.

Shapes: B batch, V values of all the lists of a bag, F dense features, M sub-quantizers, D dimension.
"""

__all__ = ["export_onnx"]

import copy
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from recokit.errors import ConfigError, MissingDependencyError, closest
from recokit.feature_batch import Batch, flatten, unflatten
from recokit.feature_files import features_to_json
from recokit.features import FeatureSpec
from recokit.layers import FrozenEmbedding, PQEmbedding, fold_all
from recokit.layers.table_layer import TableLayer
from recokit.onnx_ranker import FORMAT, MANIFEST, MODEL
from recokit.rankers.base import Ranker
from recokit.rankers.encoder import Encoder
from recokit.table import PQTable
from recokit.table.folder import local_folder, new_folder, sha256_of, write_json

Tables = Literal["initializers", "inputs"]

_ROWS, _VALUES = 3, 5  # of the example that is traced; not 0 or 1, which tracing takes for constants


def export_onnx(ranker: Ranker, path: str | Path, *, tables: Tables = "initializers", fold: bool = False) -> Path:
    """Write a ranker as an ONNX model, which ``recokit.OnnxRanker`` and any other runtime can run without torch.

    Args:
        ranker: A fitted ranker.
        path: The folder to make.
        tables: Whether codes and vectors are in the model, or come with each request.
        fold: Whether to fold codebooks into the linear maps behind them.

    Raises:
        ConfigError: The ranker has not been fitted, or ``tables`` is neither of the two.
        VersionError: ``path`` exists.
        MissingDependencyError: onnx or onnxscript is not installed.
    """
    if tables not in get_args(Tables):
        raise ConfigError(f"tables={tables!r}: {closest(str(tables), get_args(Tables))}")
    if ranker.features.statistics is None:
        raise ConfigError("the ranker has not been fitted, so that it cannot read a frame: fit(ranker, train, valid)")
    for package in ("onnx", "onnxscript"):
        _require(package)
    bare = _sharing_copy(ranker).eval()
    buffers = _table_buffers(bare) if tables == "inputs" else {}
    if fold:
        fold_all(bare)
    given = _given(bare, buffers)
    named = flatten(_example(ranker.features)) | {table.name: table.buffer[:_ROWS] for table in given}
    exported = _Exported(bare, list(named), {table.name: table.places for table in given})
    target = local_folder(path)
    with new_folder(target) as folder:
        _write_model(exported, named, folder / MODEL)
        manifest = {
            "format": FORMAT,
            "kind": ranker.kind,
            **features_to_json(ranker.features, target),
            "inputs": list(named),
            "given": {table.name: _said_of(table, ranker.features) for table in given},
            "files": {
                file.name: {"bytes": file.stat().st_size, "sha256": sha256_of(file)}
                for file in sorted(folder.iterdir())
            },
        }
        write_json(folder / MANIFEST, manifest)
    return target


@dataclass(frozen=True)
class _Given:
    """A table whose rows come with each request: its input, its number in the spec, the buffers it stands in for."""

    name: str
    number: int
    buffer: Tensor
    places: list[str]


class _Exported(nn.Module):
    """A ranker of plain tensors in the order of ``names``; ``places`` says which of them stand in for which buffers."""

    def __init__(self, ranker: Ranker, names: Sequence[str], places: Mapping[str, Sequence[str]]) -> None:
        super().__init__()
        self.ranker, self.names, self.places = ranker, names, places

    def forward(self, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        named = dict(zip(self.names, tensors, strict=True))
        buffers = {place: named[name] for name, places in self.places.items() for place in places}
        batch = unflatten({name: tensor for name, tensor in named.items() if name not in self.places})
        logits = self.ranker.calibrated(torch.func.functional_call(self.ranker, buffers, (batch,)))
        return logits, torch.sigmoid(logits)


def _sharing_copy(ranker: Ranker) -> Ranker:
    """Copy the modules of a ranker, but none of its arrays, unless those are on another device."""
    kept: list[Any] = [module.features for module in ranker.modules() if hasattr(module, "features")]
    if ranker.bias.device.type != "cpu":
        return copy.deepcopy(ranker, {id(each): each for each in kept}).cpu()
    kept += [*ranker.parameters(), *ranker.buffers()]
    return copy.deepcopy(ranker, {id(each): each for each in kept})


def _table_buffers(ranker: Ranker) -> dict[int, tuple[str, Tensor]]:
    """Return, by its number in the spec, what a table is held as and the buffer that holds it: codes or vectors."""
    spec, numbers = ranker.features, {id(table): number for number, table in enumerate(ranker.features.tables)}
    encoder = next(each for each in ranker.modules() if isinstance(each, Encoder))
    readers = [(each.table, module) for each, module in zip(spec.pretrained, encoder.pretrained, strict=True)]
    readers += [(each.table, module) for each, module in zip(spec.bags, encoder.bags, strict=True) if each.table]
    found = {}
    for table, module in readers:
        # The first layer of a table in a feature's module is that of its own table; a copy that trains is none.
        layer = next((each for each in module.modules() if isinstance(each, TableLayer)), None)
        if isinstance(layer, PQEmbedding | FrozenEmbedding):
            what = "codes" if isinstance(layer, PQEmbedding) else "vectors"
            found[numbers[id(table)]] = (what, getattr(layer, what))
    # The target of a mixture reads the table by the rows of its feature, which count the whole table where that trains
    # on a copy of it.
    by_key = {feature.key: feature for feature in spec.pretrained}
    targets = [by_key[feature.target] for feature in spec.pretrained if feature.target is not None]
    for target in (each for each in targets if each.usage == "init"):
        found.pop(numbers[id(target.table)], None)
    return found


def _given(ranker: Ranker, buffers: Mapping[int, tuple[str, Tensor]]) -> list[_Given]:
    """Name the inputs that stand in for buffers, ``codes.<entity>``, and find all places of those."""
    entities = [ranker.features.tables[number].entity for number in buffers]
    named = list(ranker.named_buffers(remove_duplicate=False))
    given = []
    for (number, (what, buffer)), entity in zip(buffers.items(), entities, strict=True):
        name = f"{what}.{entity}" if entities.count(entity) == 1 else f"{what}.{entity}.{number}"
        given.append(_Given(name, number, buffer, [place for place, tensor in named if tensor is buffer]))
    return given


def _said_of(given: _Given, features: FeatureSpec) -> dict[str, Any]:
    """Say which table's rows an input takes and, of codes, by which codebook they have to be made."""
    table = features.tables[given.number]
    return {"table": given.number, "codebook_sha256": table.codebook_sha256 if isinstance(table, PQTable) else None}


def _example(features: FeatureSpec) -> Batch[Tensor]:
    """Make a batch of the shapes that the spec's have, for tracing."""
    rows = torch.zeros(_ROWS, dtype=torch.int64)
    values, offsets = torch.zeros(_VALUES, dtype=torch.int64), torch.tensor([0, 2, 4, _VALUES])
    return Batch(
        rows={feature.key: rows.clone() for feature in features.pretrained},
        dense=torch.zeros(_ROWS, features.dense_width),
        categorical={name: rows.clone() for name in features.categorical},
        bags={bag.key: (values.clone(), offsets.clone()) for bag in features.bags},
        hashed={name: rows.clone() for name in features.hashed},
        bag_weights={bag.key: torch.ones(_VALUES) for bag in features.bags if bag.weights is not None},
    )


def _write_model(model: _Exported, named: Mapping[str, Tensor], path: Path) -> None:
    free = tuple({0: torch.export.Dim.DYNAMIC} for _ in named)
    with _quiet():
        program = torch.onnx.export(
            model.eval(),
            tuple(named.values()),
            dynamo=True,
            input_names=list(named),
            output_names=["logits", "probabilities"],
            dynamic_shapes=(free,),
            verbose=False,
        )
        if program is None:
            raise ConfigError("torch's exporter gave no model")
        for node in program.model.graph.all_nodes():
            node.metadata_props.clear()  # stack traces, with the paths of this machine
        program.save(path)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what torch's exporter says of its own insides from a user who can do nothing about it."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnx_ir", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _require(package: str) -> None:
    try:
        __import__(package)
    except ImportError as error:
        raise MissingDependencyError(package, extra="onnx", needed_for="export_onnx") from error
