"""Product-quantized vectors: a few bytes for each id and one codebook, decoded where they are used.

    table.json       what is here: entity, version, codec, the codebook's checksum
    ids.parquet      one column ``id``, int64 or string, unique
    codes.npy        (N, M) uint8
    codebook.npy     (M, K, D / M) float32; (M, K, D) where the codec is ``additive``
    rotation.npy     (D, D) float32, where the codec is ``opq``

A vector is put together from one centroid per sub-quantizer (Jegou et al. 2010, 10.1109/TPAMI.2010.57): ``pq`` puts
them side by side, ``opq`` (Ge et al. 2013) turns that back by a rotation, ``additive`` sums them (residual
quantization).
Codes of one codebook are silent garbage with another, so the codebook's bytes are compared with the manifest at every
load; they are few.

Shapes: N ids, M sub-quantizers, K codes in each, D dimension, B batch.
"""

__all__ = ["Codec", "PQTable", "check_codec", "decode_codes", "joined_digests"]

import hashlib
import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from recokit.errors import ChecksumError, ConfigError, DataError, FormatError, closest
from recokit.table.folder import (
    FileEntry,
    check_files,
    file_entries,
    json_object,
    load_npy,
    local_folder,
    manifest_value,
    new_folder,
    npy_digest,
    read_manifest,
    sha256_of,
    write_json,
    write_npy,
)
from recokit.table.id_column import IdColumn, WithIds
from recokit.table.ids import Ids
from recokit.table.vectors import Comparator, EmbeddingTable, check_comparator

Codec = Literal["pq", "opq", "additive"]

FORMAT = "pq-table/1"
_MANIFEST = "table.json"
_BLOCK = 1 << 16  # rows decoded or written at once


@dataclass(frozen=True, eq=False, repr=False)
class PQTable(WithIds):
    """Ids, codes and the codebook that decodes them, of one entity type at one version; immutable.

    Made by ``recokit.quantize``, ``from_arrays`` or ``load``.

    Attributes:
        entity: The entity type, such as ``"item"``.
        version: The name of the version that the vectors belong to.
        comparator: What makes a score of two decoded vectors.
        codec: How centroids make a vector.
        codes: (N, M) uint8, memory-mapped when loaded.
        codebook: (M, K, D / M) float32, or (M, K, D) where the codec is ``additive``.
        rotation: (D, D) float32 where the codec is ``opq``: a decoded vector is ``side by side @ rotation``.
        meta: Whatever the producer wants known; kept as it is.
        path: The folder it was loaded from, or None.

    >>> codebook = np.array([[[1.0], [2.0]], [[10.0], [20.0]]], dtype=np.float32)
    >>> codes = np.array([[0, 1]], dtype=np.uint8)
    >>> table = PQTable.from_arrays(["a"], codes, codebook, entity="item", version="v1")
    >>> table.decode(table.rows(["a", "never-seen"]))
    array([[ 1., 20.],
           [ 0.,  0.]], dtype=float32)
    """

    entity: str
    version: str
    comparator: Comparator
    codec: Codec
    codes: NDArray[np.uint8]
    codebook: NDArray[np.float32]
    rotation: NDArray[np.float32] | None
    meta: dict[str, Any]
    path: Path | None
    _column: IdColumn
    _called: ClassVar[str] = "code table"
    _fingerprint: str | None = None

    @property
    def kind(self) -> Literal["codes"]:
        """What a version calls tables like this one."""
        return "codes"

    @property
    def sub_quantizers(self) -> int:
        """M, the bytes of a row."""
        return int(self.codebook.shape[0])

    @property
    def dim(self) -> int:
        """D, the length of a decoded vector."""
        parts, _, width = self.codebook.shape
        return int(width if self.codec == "additive" else parts * width)

    @cached_property
    def codebook_sha256(self) -> str:
        """The SHA-256 of what decodes: of ``codebook.npy``, and of ``rotation.npy`` where there is one."""
        digests = npy_digest(self.codebook)
        return digests if self.rotation is None else joined_digests(digests, npy_digest(self.rotation))

    @cached_property
    def fingerprint(self) -> str:
        """The SHA-256 of the digests of codes and codebook, in hexadecimal."""
        return self._fingerprint or joined_digests(npy_digest(self.codes), self.codebook_sha256)

    @property
    def compression(self) -> float:
        """Bytes of the float32 vectors over bytes of codes, codebook and rotation."""
        rotation = 0 if self.rotation is None else self.rotation.nbytes
        return 4.0 * self.count * self.dim / (self.codes.nbytes + self.codebook.nbytes + rotation)

    def __repr__(self) -> str:
        where = f", path={str(self.path)!r}" if self.path else ""
        return (
            f"PQTable(entity={self.entity!r}, version={self.version!r}, count={self.count}, dim={self.dim}, "
            f"codec={self.codec!r}, sub_quantizers={self.sub_quantizers}, comparator={self.comparator!r}{where})"
        )

    def __reduce__(self) -> tuple[Callable[..., "PQTable"], tuple[Any, ...]]:
        # A worker process maps the same files instead of receiving their bytes.
        if self.path is not None:
            return PQTable.load, (self.path.absolute(),)
        names = ("entity", "version", "comparator", "codec", "rotation", "meta")
        make = partial(PQTable.from_arrays, **{name: getattr(self, name) for name in names})
        return make, (self.ids, self.codes, self.codebook)

    def decode(self, rows: NDArray[Any] | None = None) -> NDArray[np.float32]:
        """Return the vectors (B, D) of rows (B,), zeros for row -1; of all rows where none are given."""
        rows = np.arange(self.count) if rows is None else np.asarray(rows)
        if rows.size and (rows.min() < -1 or rows.max() >= self.count):
            raise DataError(f"rows run from {rows.min()} to {rows.max()}, expected -1 to {self.count - 1}")
        vectors = np.zeros((len(rows), self.dim), np.float32)
        known = np.flatnonzero(rows >= 0)
        for start in range(0, len(known), _BLOCK):
            part = known[start : start + _BLOCK]
            vectors[part] = decode_codes(self.codes[rows[part]], self.codebook, self.rotation, codec=self.codec)
        return vectors

    @classmethod
    def from_arrays(
        cls,
        ids: Ids,
        codes: NDArray[np.uint8],
        codebook: NDArray[np.float32],
        *,
        entity: str,
        version: str,
        codec: Codec = "pq",
        comparator: Comparator = "dot",
        rotation: NDArray[np.float32] | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> "PQTable":
        """Make a table of ids (N,), codes (N, M) and a codebook, which are not copied: do not change them.

        Raises:
            DataError: An id is null or there twice, shapes or types do not fit, or a code points past the codebook.
            ConfigError: The codec or the comparator does not exist.
        """
        what = f"the {entity!r} code table"
        column = IdColumn.of(ids, f"ids of {what}")
        codes = _view(codes, "uint8", 2, f"codes of {what}")
        codebook = _view(codebook, "float32", 3, f"codebook of {what}")
        (count, parts), (books, size, _) = codes.shape, codebook.shape
        if count != column.count or parts != books or not 1 <= size <= 256 or not codebook.size:
            raise DataError(
                f"{what}: {column.count} ids, codes {codes.shape}, codebook {codebook.shape}; expected (N, M) codes "
                "and an (M, K, width) codebook with K from 1 to 256"
            )
        if count and size < 256 and int(codes.max()) >= size:
            raise DataError(f"{what}: code {int(codes.max())} of a codebook of {size} centroids a sub-quantizer")
        table = cls(
            entity=entity,
            version=version,
            comparator=check_comparator(comparator),
            codec=check_codec(codec),
            codes=codes,
            codebook=codebook,
            rotation=None if rotation is None else _view(rotation, "float32", 2, f"rotation of {what}"),
            meta=json_object(meta or {}, f"meta of {what}"),
            path=None,
            _column=column,
        )
        if (codec == "opq") != (rotation is not None) or (rotation is not None and rotation.shape != (table.dim,) * 2):
            shape = None if rotation is None else rotation.shape
            raise DataError(f"{what}: a rotation of shape {shape}, expected ({table.dim}, {table.dim}) with opq alone")
        return table

    @classmethod
    def from_blocks(
        cls,
        table: EmbeddingTable,
        blocks: Iterable[NDArray[np.uint8]],
        codebook: NDArray[np.float32],
        *,
        codec: Codec,
        rotation: NDArray[np.float32] | None = None,
        meta: Mapping[str, Any] | None = None,
        path: str | Path | None = None,
    ) -> "PQTable":
        """Make the code table of a table's ids, of codes that come block by block (b, M), in row order.

        Args:
            table: Whose ids, entity, version and comparator it takes.
            blocks: The codes; with ``path`` they never are in memory whole.
            codebook: (M, K, D / M) float32, or (M, K, D) where the codec is ``additive``.
            codec: How centroids make a vector.
            rotation: (D, D) float32 where the codec is ``opq``.
            meta: What should be known; JSON.
            path: A folder to write, which appears whole or not at all, and is then opened.

        Raises:
            DataError: The codes are not one row for each id.
            VersionError: ``path`` exists.
        """
        parts = codebook.shape[0]
        made = cls(
            entity=table.entity,
            version=table.version,
            comparator=table.comparator,
            codec=check_codec(codec),
            codes=np.broadcast_to(np.uint8(0), (table.count, parts)),  # takes no memory
            codebook=_view(codebook, "float32", 3, "the codebook"),
            rotation=None if rotation is None else _view(rotation, "float32", 2, "the rotation"),
            meta=json_object(meta or {}, f"meta of the {table.entity!r} code table"),
            path=None,
            _column=table._column,
        )
        if path is not None:
            return cls.load(made._write(path, blocks))
        return replace(made, codes=_view(_gathered(blocks, (table.count, parts)), "uint8", 2, "the codes"))

    @classmethod
    def load(cls, path: str | Path, *, verify: bool = False) -> "PQTable":
        """Open a folder; codes are memory-mapped, ids are read at first use, the codebook is read and compared.

        Raises:
            FormatError: The folder is no table of codes, damaged, or of a format that this release does not read.
            ChecksumError: The codebook or the rotation is another than the codes were made with; with ``verify``, any
                file's bytes have changed.
        """
        folder = local_folder(path)
        manifest = read_manifest(folder, _MANIFEST, FORMAT)
        value = partial(manifest_value, folder / _MANIFEST, manifest)
        codec, comparator = value("codec", str), value("comparator", str)
        if codec not in get_args(Codec) or comparator not in get_args(Comparator):
            raise FormatError(f"{folder / _MANIFEST}: codec {codec!r}, comparator {comparator!r}: not of {FORMAT}")
        decoding = ["codebook.npy", *(["rotation.npy"] if codec == "opq" else [])]
        files = file_entries(folder, manifest, _MANIFEST, required=("ids.parquet", "codes.npy", *decoding))
        check_files(folder, files, verify=verify)
        for name in decoding:
            if (digest := sha256_of(folder / name)) != files[name]["sha256"]:
                raise ChecksumError(
                    f"{folder / name} has the sha256 {digest}, its codes were made with {files[name]['sha256']}: it is "
                    "of another version, or damaged, and what it decodes would mean nothing"
                )
        count, dim, parts, size = (value(name, int) for name in ("count", "dim", "sub_quantizers", "num_codes"))
        if not parts or not dim or not 1 <= size <= 256 or (codec != "additive" and dim % parts):
            raise FormatError(f"{folder / _MANIFEST}: dim {dim}, sub_quantizers {parts}, num_codes {size} do not fit")
        width = dim if codec == "additive" else dim // parts
        digest = files["codebook.npy"]["sha256"]
        if codec == "opq":
            digest = joined_digests(digest, files["rotation.npy"]["sha256"])
        codes = load_npy(folder / "codes.npy", dtypes=("uint8",), shape=(count, parts))
        if size < 256 and count and int(codes.max()) >= size:  # only small tables have fewer
            raise FormatError(f"{folder / 'codes.npy'} holds code {int(codes.max())} of a codebook of {size}")
        return cls(
            entity=value("entity", str),
            version=value("version", str),
            comparator=comparator,  # type: ignore[arg-type]
            codec=codec,  # type: ignore[arg-type]
            codes=codes,
            codebook=load_npy(folder / "codebook.npy", dtypes=("float32",), shape=(parts, size, width)),
            rotation=load_npy(folder / "rotation.npy", dtypes=("float32",), shape=(dim, dim))
            if codec == "opq"
            else None,
            meta=value("meta", dict),
            path=folder,
            _column=IdColumn.stored(folder, files, count),
            _fingerprint=joined_digests(files["codes.npy"]["sha256"], digest),
        )

    def save(self, path: str | Path) -> Path:
        """Write the table as a folder, which appears whole or not at all.

        Raises:
            VersionError: ``path`` exists.
        """
        return self._write(path, (self.codes[start : start + _BLOCK] for start in range(0, self.count, _BLOCK)))

    def _write(self, path: str | Path, blocks: Iterable[NDArray[np.uint8]]) -> Path:
        """Write the table with codes that come block by block (b, M), in row order."""
        target = local_folder(path)
        with new_folder(target) as folder:
            files = self._column.write(folder)
            files["codes.npy"] = _write_blocks(folder / "codes.npy", blocks, (self.count, self.sub_quantizers))
            files["codebook.npy"] = write_npy(folder / "codebook.npy", self.codebook)
            if self.rotation is not None:
                files["rotation.npy"] = write_npy(folder / "rotation.npy", self.rotation)
            manifest = {
                "format": FORMAT,
                "entity": self.entity,
                "count": self.count,
                "dim": self.dim,
                "version": self.version,
                "comparator": self.comparator,
                "codec": self.codec,
                "sub_quantizers": self.sub_quantizers,
                "num_codes": self.codebook.shape[1],
                "files": files,
                "meta": self.meta,
            }
            write_json(folder / _MANIFEST, manifest)
        return target


def check_codec(codec: str) -> Codec:
    """Return a codec that exists."""
    if codec not in get_args(Codec):
        raise ConfigError(f"codec {codec!r} does not exist; {closest(str(codec), get_args(Codec))}")
    return codec  # type: ignore[return-value]


def decode_codes(
    codes: NDArray[np.uint8], codebook: NDArray[np.float32], rotation: NDArray[np.float32] | None, *, codec: Codec
) -> NDArray[np.float32]:
    """Return the vectors (B, D) of codes (B, M)."""
    parts, size, width = codebook.shape
    vectors: NDArray[np.float32]
    if codec == "additive":
        vectors = codebook[0][codes[:, 0]]
        for part in range(1, parts):  # in this order, as faiss adds them
            vectors += codebook[part][codes[:, part]]
        return vectors
    flat = codes + np.arange(parts) * size  # (B, M) int64: uint8 would wrap around
    vectors = codebook.reshape(parts * size, width)[flat].reshape(len(codes), parts * width)
    return vectors if rotation is None else vectors @ rotation


def joined_digests(*digests: str) -> str:
    """Return one digest for several, in their order."""
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def _write_blocks(path: Path, blocks: Iterable[NDArray[np.uint8]], shape: tuple[int, int]) -> FileEntry:
    """Write codes as the ``.npy`` file that ``write_npy`` makes of the whole of them."""
    header, digest = io.BytesIO(), hashlib.sha256()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    with path.open("xb") as file:
        digest.update(header.getvalue())
        file.write(header.getvalue())
        for block in _checked(blocks, shape):
            content = np.ascontiguousarray(block).data
            digest.update(content)
            file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return {"bytes": len(header.getvalue()) + shape[0] * shape[1], "sha256": digest.hexdigest()}


def _gathered(blocks: Iterable[NDArray[np.uint8]], shape: tuple[int, int]) -> NDArray[np.uint8]:
    codes, start = np.empty(shape, np.uint8), 0
    for block in _checked(blocks, shape):
        codes[start : start + len(block)] = block
        start += len(block)
    return codes


def _checked(blocks: Iterable[NDArray[np.uint8]], shape: tuple[int, int]) -> Iterator[NDArray[np.uint8]]:
    """Yield blocks of codes, and raise where they do not make up ``shape``."""
    rows = 0
    for block in blocks:
        rows += len(block)
        if block.dtype != np.uint8 or block.shape[1:] != shape[1:] or rows > shape[0]:
            raise DataError(f"codes came as {block.dtype} of shape {block.shape}, up to row {rows}, expected {shape}")
        yield block
    if rows != shape[0]:
        raise DataError(f"codes came for {rows} rows, expected {shape[0]}")


def _view(values: NDArray[Any], dtype: str, ndim: int, what: str) -> NDArray[Any]:
    array = np.asarray(values)
    if array.dtype.name != dtype or array.ndim != ndim:
        raise DataError(f"{what}: {array.dtype.name} of shape {array.shape}, expected {dtype} of {ndim} dimensions")
    if dtype == "float32" and not np.isfinite(array).all():
        raise DataError(f"{what}: NaN or infinity")
    array = np.ascontiguousarray(array).view()
    array.flags.writeable = False
    return array
