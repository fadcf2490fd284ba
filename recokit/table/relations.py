"""Relations: how an operator and its parameters move a source vector to where its targets are.

score(source, relation, target) = comparator(operator(source; parameters), target), or, where the operator stands on
the other side, comparator(source, operator(target; parameters)). A relation is a row of its operator's block, so a
version holds one file an operator, however many relations there are.

Complex vectors hold the real parts in their first half, the imaginary parts in the second.

Shapes: B batch, D dimension, P parameters, R relations.
"""

__all__ = ["Operator", "RelationParameters", "Side", "num_parameters", "read_relations", "write_relations"]

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from recokit.errors import ConfigError, DataError, FormatError, closest
from recokit.table.folder import FileEntry, check_inside, load_npy, manifest_value, read_json, write_json, write_npy
from recokit.table.vectors import Comparator, check_comparator

Operator = Literal["identity", "translation", "diagonal", "complex_diagonal", "linear", "affine", "rotation"]
Side = Literal["source", "target"]

_MANIFEST = "relations.json"
_SMALLEST_GAIN = 0.01  # what an operator shrinks below this part of its largest gain, its inverse does not blow up


def num_parameters(operator: Operator, dim: int) -> int:
    """Return P, the number of parameters that a relation with this operator has for vectors of ``dim``.

    >>> [num_parameters(operator, 4) for operator in ("identity", "translation", "affine", "rotation")]
    [0, 4, 20, 2]
    """
    _check_operator(operator)
    if operator in ("complex_diagonal", "rotation") and dim % 2:
        raise ConfigError(f"operator {operator!r} needs an even dim, got {dim}: half is real, half imaginary")
    match operator:
        case "identity":
            return 0
        case "translation" | "diagonal" | "complex_diagonal":
            return dim
        case "linear":
            return dim * dim
        case "affine":
            return dim * dim + dim
        case "rotation":
            return dim // 2


@dataclass(frozen=True, eq=False)
class RelationParameters:
    """One relation: what it joins, its operator, and the operator's parameters.

    Attributes:
        name: Such as ``"follows"``.
        source: The entity type of its sources.
        target: The entity type of its targets.
        operator: What moves a source vector.
        parameters: (P,) float32; ``num_parameters`` says how many. In this order:
            translation t: x + t. diagonal d: x * d. linear W (D, D), row by row: W x. affine: W, then t: W x + t.
            complex_diagonal r: complex x * r. rotation (RotatE): complex x * exp(i phase), D/2 phases in radians.
        reciprocal: The name of the relation with the parameters of the reverse direction, where one was learned.
        side: The end whose vectors the operator moves; score = comparator(operator(source), target), or
            comparator(source, operator(target)) for ``"target"``.
    """

    name: str
    source: str
    target: str
    operator: Operator
    parameters: NDArray[np.float32]
    reciprocal: str | None = None
    side: Side = "source"

    def __post_init__(self) -> None:
        _check_operator(self.operator)
        if self.side not in get_args(Side):
            raise ConfigError(f"relation {self.name!r}: side is {self.side!r}, expected 'source' or 'target'")
        parameters = np.asarray(self.parameters)
        if parameters.ndim != 1 or parameters.dtype.kind not in "fi":
            raise DataError(
                f"relation {self.name!r}: parameters are {parameters.dtype} {parameters.shape}, expected (P,) float32"
            )
        if not np.isfinite(parameters).all():
            first = int(np.flatnonzero(~np.isfinite(parameters))[0])
            raise DataError(f"relation {self.name!r}: parameter {first} is {parameters[first]}, expected finite ones")
        parameters = parameters.astype(np.float32, copy=False).view()
        parameters.flags.writeable = False
        object.__setattr__(self, "parameters", parameters)

    def apply(self, vectors: NDArray[Any]) -> NDArray[Any]:
        """Return vectors (B, D) of the end ``side`` as the operator moves them: float32, or float64 if they are.

        Raises:
            DataError: The parameters are not as many as the operator needs for vectors of this dimension.
        """
        x, p = self._checked(vectors), self.parameters
        dim = x.shape[-1]
        match self.operator:
            case "identity":
                return x
            case "translation":
                return x + p
            case "diagonal":
                return x * p
            case "complex_diagonal":
                return _complex_product(x, p[: dim // 2], p[dim // 2 :])
            case "linear":
                return x @ p.reshape(dim, dim).T
            case "affine":
                return x @ p[: dim * dim].reshape(dim, dim).T + p[dim * dim :]
            case "rotation":
                return _complex_product(x, np.cos(p), np.sin(p))

    def pull(self, vectors: NDArray[Any], comparator: Comparator) -> NDArray[Any]:
        """Return the vectors (B, D) of the end ``side`` that suit given ones (B, D) of the other end best.

        A translation is subtracted, a rotation turned back. The products y = A x are taken back, under dot, by their
        adjoint, because dot(A x, y) = dot(x, Aᵀ y): Wᵀ y for linear and affine, whose translation adds the same to
        every x; y * d; y * conj(r). Under cos, l2 and squared_l2 it is the inverse, in which what the operator shrinks
        to less than 1 % of its largest gain is 0: A⁺ y, and A⁺ (y - t) for affine.

        Raises:
            DataError: The parameters are not as many as the operator needs for vectors of this dimension.
        """
        y, p, adjoint = self._checked(vectors), self.parameters, check_comparator(comparator) == "dot"
        dim = y.shape[-1]
        match self.operator:
            case "identity":
                return y
            case "translation":
                return y - p
            case "rotation":
                return _complex_product(y, np.cos(p), -np.sin(p))
            case "diagonal":
                return y * (p if adjoint else p * _inverse(p * p))
            case "complex_diagonal":
                real, imaginary = p[: dim // 2], p[dim // 2 :]
                scale = 1 if adjoint else _inverse(real * real + imaginary * imaginary)
                return _complex_product(y, real * scale, -imaginary * scale)
            case "linear" | "affine":
                matrix, shift = p[: dim * dim].reshape(dim, dim), p[dim * dim :]
                if adjoint:
                    return y @ matrix
                return (y - shift if shift.size else y) @ np.linalg.pinv(matrix, rcond=_SMALLEST_GAIN).T

    def _checked(self, vectors: NDArray[Any]) -> NDArray[Any]:
        """Return vectors in at least single precision, if the parameters are made for their dimension."""
        x = np.asarray(vectors)
        x = x.astype(np.result_type(x.dtype, np.float32), copy=False)
        dim = x.shape[-1]
        if len(self.parameters) != (expected := num_parameters(self.operator, dim)):
            raise DataError(
                f"relation {self.name!r} ({self.operator}) has {len(self.parameters)} parameters, "
                f"expected {expected} for dim {dim}"
            )
        return x


def write_relations(folder: Path, relations: Sequence[RelationParameters]) -> dict[str, FileEntry]:
    """Write ``relations.json`` and the blocks into a new folder, and return what a manifest says of them."""
    names = Counter(relation.name for relation in relations)
    for relation in relations:
        if names[relation.name] > 1:
            raise DataError(f"relation {relation.name!r} is there {names[relation.name]} times, expected once")
        if relation.reciprocal is not None and relation.reciprocal not in names:
            raise DataError(
                f"relation {relation.name!r} names the reciprocal {relation.reciprocal!r}, which is not among the "
                f"relations; {closest(relation.reciprocal, names)}"
            )
    folder.mkdir()
    blocks: dict[str, list[NDArray[np.float32]]] = {}
    content = []
    for relation in relations:
        # Networks of different dimensions in one version have blocks of their own.
        first = blocks.get(relation.operator, [relation.parameters])[0]
        same = len(first) == len(relation.parameters)
        block = relation.operator if same else f"{relation.operator}-{len(relation.parameters)}"
        rows = blocks.setdefault(block, [])
        content.append(
            {
                "name": relation.name,
                "source": relation.source,
                "target": relation.target,
                "operator": relation.operator,
                "block": block,
                "row": len(rows),
                "reciprocal": relation.reciprocal,
                **({} if relation.side == "source" else {"side": relation.side}),
            }
        )
        rows.append(relation.parameters)
    files = {f"{block}.npy": write_npy(folder / f"{block}.npy", np.stack(rows)) for block, rows in blocks.items()}
    return files | {_MANIFEST: write_json(folder / _MANIFEST, content)}


def read_relations(folder: Path) -> dict[str, RelationParameters]:
    """Read the relations of a version by name; their parameters are views of the mapped blocks.

    Raises:
        FormatError: An entry is incomplete, its row is not in its block, or its reciprocal is not among them.
    """
    path = folder / _MANIFEST
    entries = read_json(path)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise FormatError(f"{path} is not an array of objects")
    blocks: dict[str, NDArray[np.float32]] = {}
    relations: dict[str, RelationParameters] = {}
    for entry in entries:
        name, source, target, operator, block = (
            manifest_value(path, entry, key, str) for key in ("name", "source", "target", "operator", "block")
        )
        row = manifest_value(path, entry, "row", int)
        if block not in blocks:
            check_inside(path, block)
            blocks[block] = load_npy(folder / f"{block}.npy", dtypes=("float32",), shape=(-1, -1))  # (R, P)
        if row >= len(blocks[block]) or name in relations:
            raise FormatError(f"{path}: relation {name!r} is there twice, or row {row} is not in block {block!r}")
        try:
            relations[name] = RelationParameters(
                name,
                source,
                target,
                operator,  # type: ignore[arg-type]
                blocks[block][row],
                entry.get("reciprocal"),
                entry.get("side", "source"),
            )
        except (ConfigError, DataError) as error:
            raise FormatError(f"{path}: {error}") from error
    for name, relation in relations.items():
        other = relation.reciprocal
        if other is not None and not (isinstance(other, str) and other in relations):
            raise FormatError(
                f"{path}: relation {name!r} names the reciprocal {other!r}, which is not among the relations; "
                f"{closest(str(other), relations)}"
            )
    return relations


def _check_operator(operator: str) -> None:
    if operator not in get_args(Operator):
        raise ConfigError(f"operator {operator!r} does not exist; {closest(str(operator), get_args(Operator))}")


def _inverse(squared: NDArray[Any]) -> NDArray[Any]:
    """Return 1 / squared gains, 0 for a gain below ``_SMALLEST_GAIN`` of the largest."""
    kept = squared > _SMALLEST_GAIN**2 * squared.max(initial=0)
    inverse: NDArray[Any] = np.divide(1, squared, out=np.zeros_like(squared), where=kept)
    return inverse


def _complex_product(x: NDArray[Any], real: NDArray[Any], imaginary: NDArray[Any]) -> NDArray[Any]:
    """Return x (B, D) times complex numbers, given as parts (D/2,)."""
    half = x.shape[-1] // 2
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * real - b * imaginary, a * imaginary + b * real], axis=-1)
