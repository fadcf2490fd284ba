"""A trained model: the vectors of every entity type, the relations' parameters, and what made them.

A model folder is complete in itself (training can go on from it); what other people read is an exported version
(``pretrain.export``).  Shapes: B batch, N entities of a type, D dimension, R relations, P parameters of a relation.
"""

__all__ = ["Model", "Question", "base_name", "reverse_name"]

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from pretrain.config import Relation, Side, TrainConfig
from pretrain.movers import forms
from pretrain.operators import OPERATORS
from pretrain.pooling import Widened, comparator_of
from recokit.errors import ConfigError, DataError, FormatError, closest
from recokit.table import Operator, RelationParameters, num_parameters
from recokit.table.folder import (
    check_files,
    file_entries,
    load_npy,
    new_folder,
    npy_digest,
    read_manifest,
    write_json,
    write_npy,
    write_parquet,
)
from recokit.table.id_column import IdColumn
from recokit.table.ids import Ids, ids_digest

_FORMAT = "model/1"
_REVERSE = "^-1"


def reverse_name(relation: str) -> str:
    """Return the name under which a relation's reciprocal parameters stand."""
    return f"{relation}{_REVERSE}"


def base_name(relation: str) -> str:
    """Return the relation that reciprocal parameters belong to."""
    return relation.removesuffix(_REVERSE)


@dataclasses.dataclass(frozen=True, eq=False)
class Question:
    """A question to all entities of a type; ``comparator_of(config).block(queries, candidates)[0] + bias`` ranks them.

    Attributes:
        queries: Prepared vectors (B, D).
        candidates: Prepared vectors (N, D) of the asked type.
        bias: Biases (N,) of the candidates, where the model has them.
    """

    queries: Tensor
    candidates: Tensor
    bias: Tensor | None


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Model:
    """Vectors and relation parameters, with the settings and the history of their training.

    Attributes:
        config: The settings of the run.
        relations: Name to ``Relation``.
        entities: Entity type to sorted ids (N,).
        vectors: Entity type to vectors (N, D) float32; of mixtures (N, C D), the components side by side.
        biases: Entity type to biases (N,) float32; empty where the model has none.
        parameters: Relation to parameters (P,) float32; reciprocal ones stand under ``reverse_name``.
        vector_state: Entity type to the optimizer's accumulators (N,), of mixtures (N, C); of all numbers under
            ``optimizer="adagrad"``.
        bias_state: Entity type to those of the biases (N,).
        parameter_state: Relation to the optimizer's accumulators (P,).
        degrees: Entity type to the number of training edges (N,) that each entity takes part in; 0 is "never trained".
        epochs: One record per epoch: epoch, loss per edge, and losses, of every relation per unit of edge weight.
        meta: Where the edges came from, how they were split, how many there were.
        mixture_weights: Entity type to the weights (N, C) float32 of its components, where it has several.
    """

    config: TrainConfig
    relations: Mapping[str, Relation]
    entities: Mapping[str, pa.Array]
    vectors: Mapping[str, Tensor]
    biases: Mapping[str, Tensor]
    parameters: Mapping[str, Tensor]
    vector_state: Mapping[str, Tensor]
    bias_state: Mapping[str, Tensor]
    parameter_state: Mapping[str, Tensor]
    degrees: Mapping[str, NDArray[np.int64]]
    epochs: Sequence[Mapping[str, Any]]
    meta: Mapping[str, Any]
    mixture_weights: Mapping[str, NDArray[np.float32]] = dataclasses.field(default_factory=dict)

    def __repr__(self) -> str:
        entities = ", ".join(f"{len(ids):,} {name}" for name, ids in self.entities.items())
        relations = ", ".join(self.relations)
        return f"Model({entities}; relations: {relations}; dim {self.config.dim}, {len(self.epochs)} epochs)"

    @functools.cached_property
    def _columns(self) -> dict[str, IdColumn]:
        return {entity: IdColumn.of(ids) for entity, ids in self.entities.items()}

    def rows(self, entity: str, ids: Ids, what: str = "ids") -> NDArray[np.int64]:
        """Return the row (B,) of each id of an entity type, -1 where the model has none."""
        if isinstance(ids, pa.Array) and ids.equals(self.entities[entity]):
            return np.arange(len(ids))
        return self._columns[entity].rows(ids, what)

    def operator_name(self, relation: str) -> Operator:
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
        """Score pairs of ids: ``comparator(operator(source), target)`` (B,), higher is better; NaN for unknown ids.

        With ``operator_side="target"`` the operator moves the target; biases are added where the model has them. Pairs
        of components are pooled as training pools those of negatives.
        """
        ends = self.relation(relation)
        if len(sources) != len(targets):
            raise DataError(f"score: {len(sources)} sources and {len(targets)} targets do not make pairs")
        comparator, operator = comparator_of(self.config), OPERATORS[self.operator_name(relation)]
        prepared, bias, known = [], torch.zeros(()), torch.ones((), dtype=torch.bool)
        for side, entity, ids in (("source", ends.source, sources), ("target", ends.target, targets)):
            rows = torch.from_numpy(self.rows(entity, ids, f"{side}s"))
            known = known & (rows >= 0)
            rows = rows.clamp_min(0).to(self.vectors[entity].device)
            vectors = self.vectors[entity][rows]
            if side == ends.operator_side:
                each = vectors.reshape(-1, self.config.dim)  # components
                vectors = operator.forward(each, self.parameters[relation][None], None).view_as(vectors)
            prepared.append(comparator.prepare(vectors)[0])
            if self.biases:
                bias = bias.to(rows.device) + self.biases[entity][rows]
        scores = comparator.pairs(*prepared)[0] + bias.to(prepared[0].device)
        return scores.cpu().masked_fill(~known, torch.nan).numpy()

    def relation_parameters(self, name: str) -> RelationParameters:
        """Return a relation, or under its ``reverse_name`` a reciprocal one, with what it learned, for NumPy."""
        forward = name in self.relations
        relation = self.relations[name if forward else base_name(name)]
        other = reverse_name(name) if forward else base_name(name)
        learned = self.config.reciprocal and other in self.parameters and not (forward and other in self.relations)
        ends = (relation.source, relation.target) if forward else (relation.target, relation.source)
        return RelationParameters(
            name=name,
            source=ends[0],
            target=ends[1],
            operator=self.operator_name(relation.name),
            parameters=self.parameters[name].cpu().numpy(),
            reciprocal=other if learned else None,
            side=relation.operator_side if forward else "source",
        )

    def question(
        self, relation: str, side: Side, anchors: Tensor, *, prepared: dict[str, Tensor] | None = None
    ) -> Question:
        """Ask which entities stand at one end of a relation, given the other.

        Args:
            relation: Its name.
            side: ``"target"`` asks for targets and takes sources, ``"source"`` asks for sources and takes targets.
            anchors: Rows (B,) of the given end.
            prepared: Entity type to its vectors (N, D), prepared by earlier questions that moved their anchors. It is
                read and added to: hand the same one to all questions between which the model does not change.
        """
        ends, comparator, mixed = self.relation(relation), comparator_of(self.config), self.config.has_mixtures
        given, asked = (ends.source, ends.target) if side == "target" else (ends.target, ends.source)
        reciprocal = self.config.reciprocal and (side == "target" or reverse_name(relation) in self.parameters)
        name = reverse_name(relation) if reciprocal and side == "source" else relation
        operator = self.operator_name(relation)
        inner = self.config.comparator
        form = forms(operator, ends.operator_side, inner, reciprocal=reciprocal, offsets=not mixed)[side]
        mover = Widened(form.mover, self.config.dim) if mixed else form.mover
        vectors, candidates = self.vectors[given], self.vectors[asked]
        vectors, block = vectors[anchors.to(vectors.device)], self.parameters[name][None]
        if form.moves == "anchors":
            vectors = mover.forward(vectors, block, None)[0]
            prepared = {} if prepared is None else prepared
            if asked not in prepared:
                prepared[asked] = comparator.prepare(candidates)[0]
            candidates = prepared[asked]
        else:
            candidates = comparator.prepare(mover.forward(candidates, block, None)[0])[0]
        return Question(comparator.prepare(vectors)[0], candidates, self.biases.get(asked))

    def save(self, path: str | Path) -> Path:
        """Write the model as a folder of plain files that appears whole or not at all.

        Raises:
            VersionError: ``path`` exists.
        """
        path = Path(path)
        with new_folder(path) as folder:
            files = {}
            for number, (entity, ids) in enumerate(self.entities.items()):
                # Entity types may be named in any way; file names are numbers.
                files[f"ids-{number}.parquet"] = write_parquet(folder / f"ids-{number}.parquet", pa.table({"id": ids}))
                for kind, arrays in (
                    ("vectors", self.vectors),
                    ("state", self.vector_state),
                    ("bias", self.biases),
                    ("bias-state", self.bias_state),
                    ("degrees", self.degrees),
                    ("mixture-weights", self.mixture_weights),
                ):
                    if entity in arrays:
                        array = arrays[entity]
                        name = f"{kind}-{number}.npy"
                        numbers = array.cpu().numpy() if isinstance(array, Tensor) else array
                        files[name] = write_npy(folder / name, numbers)
            blocks = self.blocks()
            for operator, names in blocks.items():
                both = [torch.stack([part[name] for name in names]) for part in (self.parameters, self.parameter_state)]
                files[f"{operator}.npy"] = write_npy(folder / f"{operator}.npy", torch.stack(both).cpu().numpy())
            write_json(
                folder / "model.json",
                {
                    "format": _FORMAT,
                    "config": dataclasses.asdict(self.config),
                    "relations": [dataclasses.asdict(relation) for relation in self.relations.values()],
                    "entities": {name: len(ids) for name, ids in self.entities.items()},
                    "blocks": blocks,
                    "epochs": list(self.epochs),
                    "meta": dict(self.meta),
                    "files": files,
                },
            )
        return path

    def digest(self) -> str:
        """SHA-256 of all ids and all numbers that a warm start may carry."""
        digest = hashlib.sha256()
        for ids in self.entities.values():
            digest.update(ids_digest(ids).encode())
        for part in (
            self.vectors,
            self.biases,
            self.parameters,
            self.vector_state,
            self.bias_state,
            self.parameter_state,
        ):
            for name, tensor in part.items():
                digest.update(f"{name} {npy_digest(tensor.cpu().numpy())}".encode())
        for degrees in self.degrees.values():
            digest.update(npy_digest(degrees).encode())
        return digest.hexdigest()

    def blocks(self) -> dict[str, list[str]]:
        """Return the relations, reciprocal ones too, by operator."""
        blocks: dict[str, list[str]] = {}
        for name in self.relations:
            for each in (name, reverse_name(name)):
                if each in self.parameters and (each == name or each not in self.relations):
                    blocks.setdefault(self.operator_name(name), []).append(each)
        return blocks

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
            counts, blocks = dict(manifest["entities"]), dict(manifest["blocks"])
            epochs, meta = list(manifest["epochs"]), dict(manifest["meta"])
            sizes = {operator: num_parameters(operator, config.dim) for operator in blocks}
            _check_relations(relations, counts, blocks, config)
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"{folder / 'model.json'} was written by another release: {error}") from error

        def array(kind: str, number: int, *shape: int, dtype: str = "float32") -> NDArray[Any]:
            return np.array(load_npy(folder / f"{kind}-{number}.npy", dtypes=(dtype,), shape=shape))

        def tensors(kind: str, shape: Callable[[str], tuple[int, ...]]) -> dict[str, Tensor]:
            return {
                entity: torch.from_numpy(array(kind, number, count, *shape(entity))).to(device)
                for number, (entity, count) in enumerate(counts.items())
            }

        parameters: dict[str, Tensor] = {}
        parameter_state: dict[str, Tensor] = {}
        for operator, names in blocks.items():
            shape = (2, len(names), sizes[operator])
            both = torch.from_numpy(np.array(load_npy(folder / f"{operator}.npy", dtypes=("float32",), shape=shape)))
            parameters |= dict(zip(names, both[0].to(device), strict=True))
            parameter_state |= dict(zip(names, both[1].to(device), strict=True))
        return cls(
            config=config,
            relations=relations,
            entities={
                entity: _read_ids(folder / f"ids-{number}.parquet", count)
                for number, (entity, count) in enumerate(counts.items())
            },
            vectors=tensors("vectors", lambda entity: (config.width(entity),)),
            biases=tensors("bias", lambda _: ()) if config.bias else {},
            parameters=parameters,
            vector_state=tensors("state", config.state_shape),
            bias_state=tensors("bias-state", lambda _: ()) if config.bias else {},
            parameter_state=parameter_state,
            degrees={
                entity: array("degrees", number, count, dtype="int64")
                for number, (entity, count) in enumerate(counts.items())
            },
            epochs=epochs,
            meta=meta,
            mixture_weights={
                entity: array("mixture-weights", number, count, config.components_of(entity))
                for number, (entity, count) in enumerate(counts.items())
                if config.components_of(entity) > 1
            },
        )


def _check_relations(
    relations: Mapping[str, Relation],
    counts: Mapping[str, int],
    blocks: Mapping[str, Sequence[str]],
    config: TrainConfig,
) -> None:
    """Raise a ValueError unless each relation has its entity types and, in its operator's block, its parameters."""
    found: dict[str, str] = {}
    for operator, names in blocks.items():
        for name in names:
            relation = relations.get(name) or relations.get(base_name(name))
            if relation is None or name in found or operator != (relation.operator or config.operator):
                raise ValueError(f"block {operator!r} has {name!r}, which does not belong there")
            found[name] = operator
    for name, relation in relations.items():
        if name not in found:
            raise ValueError(f"relation {name!r} has no parameters")
        for entity in (relation.source, relation.target):
            if entity not in counts:
                raise ValueError(f"relation {name!r} has entities of {entity!r}, which are missing")


def _read_ids(path: Path, count: int) -> pa.Array:
    try:
        ids = pq.read_table(path, columns=["id"]).column("id").combine_chunks()
    except (pa.ArrowException, OSError) as error:
        raise FormatError(f"{path} is not a readable Parquet file of ids: {error}") from error
    if len(ids) != count:
        raise FormatError(f"{path} has {len(ids)} ids, expected {count}")
    return ids
