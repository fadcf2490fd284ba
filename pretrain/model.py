"""A trained model: the vectors of every entity type, the relations' parameters, and what made them.

A model folder is complete in itself (training can go on from it); what other people read is an exported version
(``pretrain.export``).  Shapes: N entities of a type, D dimension, P parameters of a relation.
"""

__all__ = ["Model"]

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from pretrain.comparators import COMPARATORS
from pretrain.config import Relation, TrainConfig
from pretrain.operators import OPERATORS
from recokit.errors import ConfigError, DataError, FormatError, closest
from recokit.table.folder import (
    check_files,
    file_entries,
    load_npy,
    new_folder,
    read_manifest,
    write_json,
    write_npy,
    write_parquet,
)
from recokit.table.id_column import IdColumn
from recokit.table.ids import Ids

_FORMAT = "model/1"


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Model:
    """Vectors and relation parameters, with the settings and the history of their training.

    Attributes:
        config: The settings of the run.
        relations: Name to ``Relation``.
        entities: Entity type to sorted ids (N,).
        vectors: Entity type to vectors (N, D) float32.
        parameters: Relation to parameters (P,) float32.
        vector_state: Entity type to the optimizer's accumulators (N,).
        parameter_state: Relation to the optimizer's accumulators (P,).
        degrees: Entity type to the number of training edges (N,) that each entity takes part in; 0 is "never trained".
        epochs: One record per epoch: epoch, loss per edge, and losses, of every relation per unit of edge weight.
        meta: Where the edges came from, how they were split, how many there were.
    """

    config: TrainConfig
    relations: Mapping[str, Relation]
    entities: Mapping[str, pa.Array]
    vectors: Mapping[str, Tensor]
    parameters: Mapping[str, Tensor]
    vector_state: Mapping[str, Tensor]
    parameter_state: Mapping[str, Tensor]
    degrees: Mapping[str, NDArray[np.int64]]
    epochs: Sequence[Mapping[str, Any]]
    meta: Mapping[str, Any]

    def __repr__(self) -> str:
        entities = ", ".join(f"{len(ids):,} {name}" for name, ids in self.entities.items())
        relations = ", ".join(self.relations)
        return f"Model({entities}; relations: {relations}; dim {self.config.dim}, {len(self.epochs)} epochs)"

    @functools.cached_property
    def _columns(self) -> dict[str, IdColumn]:
        return {entity: IdColumn.of(ids) for entity, ids in self.entities.items()}

    def rows(self, entity: str, ids: Ids, what: str = "ids") -> NDArray[np.int64]:
        """Return the row (B,) of each id of an entity type, -1 where the model has none."""
        return self._columns[entity].rows(ids, what)

    def operator_name(self, relation: str) -> str:
        """Return the operator that a relation uses."""
        return self.relations[relation].operator or self.config.operator

    def relation(self, name: str) -> Relation:
        """Return a relation by name.

        Raises:
            ConfigError: There is none of that name.
        """
        if name not in self.relations:
            raise ConfigError(f"relation {name!r} is not in the model; {closest(name, self.relations)}")
        return self.relations[name]

    def score(self, relation: str, sources: Ids, targets: Ids) -> NDArray[np.float32]:
        """Score pairs of ids: ``comparator(operator(source), target)`` (B,), higher is better; NaN for unknown ids."""
        ends = self.relation(relation)
        if len(sources) != len(targets):
            raise DataError(f"score: {len(sources)} sources and {len(targets)} targets do not make pairs")
        rows = [
            torch.from_numpy(self.rows(entity, ids, what))
            for entity, ids, what in ((ends.source, sources, "sources"), (ends.target, targets, "targets"))
        ]
        left, right = self.prepared(relation, rows[0].clamp_min(0), rows[1].clamp_min(0))
        scores = COMPARATORS[self.config.comparator].pairs(left, right)
        unknown = (rows[0] < 0) | (rows[1] < 0)
        return scores.masked_fill(unknown.to(scores.device), torch.nan).cpu().numpy()

    def prepared(
        self, relation: str, sources: Tensor | None = None, targets: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return operated sources and targets (B, D), ready for the comparator.

        Args:
            relation: Its operator moves the sources.
            sources: Rows (B,); all entities of the type if not given.
            targets: Rows (B,); all entities of the type if not given.
        """
        ends, comparator = self.relations[relation], COMPARATORS[self.config.comparator]
        left, right = self.vectors[ends.source], self.vectors[ends.target]
        left = left if sources is None else left[sources.to(left.device)]
        right = right if targets is None else right[targets.to(right.device)]
        operated = OPERATORS[self.operator_name(relation)].forward(left, self.parameters[relation])
        return comparator.prepare(operated)[0], comparator.prepare(right)[0]

    def save(self, path: str | Path) -> Path:
        """Write the model as a folder of plain files that appears whole or not at all.

        Raises:
            VersionError: ``path`` exists.
        """
        path = Path(path)
        files = {}
        with new_folder(path) as folder:
            for number, (entity, ids) in enumerate(self.entities.items()):
                # Entity types may be named in any way; file names are numbers.
                files[f"ids-{number}.parquet"] = write_parquet(folder / f"ids-{number}.parquet", pa.table({"id": ids}))
                for kind, array in (
                    ("vectors", self.vectors[entity].cpu().numpy()),
                    ("state", self.vector_state[entity].cpu().numpy()),
                    ("degrees", self.degrees[entity]),
                ):
                    files[f"{kind}-{number}.npy"] = write_npy(folder / f"{kind}-{number}.npy", array)
            for number, name in enumerate(self.relations):
                both = torch.stack([self.parameters[name], self.parameter_state[name]]).cpu().numpy()  # (2, P)
                files[f"relation-{number}.npy"] = write_npy(folder / f"relation-{number}.npy", both)
            write_json(
                folder / "model.json",
                {
                    "format": _FORMAT,
                    "config": dataclasses.asdict(self.config),
                    "relations": [dataclasses.asdict(relation) for relation in self.relations.values()],
                    "entities": {name: len(ids) for name, ids in self.entities.items()},
                    "epochs": list(self.epochs),
                    "meta": dict(self.meta),
                    "files": files,
                },
            )
        return path

    @classmethod
    def load(cls, path: str | Path, *, device: str | torch.device = "cpu", verify: bool = False) -> "Model":
        """Read a model folder.

        Args:
            path: What ``save`` wrote.
            device: Where vectors and states should lie.
            verify: Check SHA-256 sums, not sizes alone.

        Raises:
            FormatError: The folder is no model, or a file is damaged.
        """
        folder = Path(path)
        manifest = read_manifest(folder, "model.json", _FORMAT)
        check_files(folder, file_entries(folder, manifest, "model.json"), verify=verify)
        try:
            config = TrainConfig(**manifest["config"])
            relations = {row["name"]: Relation(**row) for row in manifest["relations"]}
            counts, epochs, meta = dict(manifest["entities"]), list(manifest["epochs"]), dict(manifest["meta"])
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"{folder / 'model.json'} was written by another release: {error}") from error
        entities, vectors, vector_state, degrees = {}, {}, {}, {}
        for number, (entity, count) in enumerate(counts.items()):
            entities[entity] = _read_ids(folder / f"ids-{number}.parquet", count)

            def array(kind: str, *shape: int, number: int = number, dtype: str = "float32") -> NDArray[Any]:
                return np.array(load_npy(folder / f"{kind}-{number}.npy", dtypes=(dtype,), shape=shape))

            vectors[entity] = torch.from_numpy(array("vectors", count, config.dim)).to(device)
            vector_state[entity] = torch.from_numpy(array("state", count)).to(device)
            degrees[entity] = array("degrees", count, dtype="int64")
        parameters, parameter_state = {}, {}
        for number, (name, relation) in enumerate(relations.items()):
            width = OPERATORS[relation.operator or config.operator].num_parameters(config.dim)
            both = np.array(load_npy(folder / f"relation-{number}.npy", dtypes=("float32",), shape=(2, width)))
            parameters[name], parameter_state[name] = torch.from_numpy(both).to(device)
        return cls(
            config, relations, entities, vectors, parameters, vector_state, parameter_state, degrees, epochs, meta
        )


def _read_ids(path: Path, count: int) -> pa.Array:
    try:
        ids = pq.read_table(path, columns=["id"]).column("id").combine_chunks()
    except (pa.ArrowException, OSError) as error:
        raise FormatError(f"{path} is not a readable Parquet file of ids: {error}") from error
    if len(ids) != count:
        raise FormatError(f"{path} has {len(ids)} ids, expected {count}")
    return ids
