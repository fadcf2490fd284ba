"""What tells one frame from another: the SHA-256 of its columns as Arrow writes them."""

__all__ = ["frame_digest"]

import hashlib
from typing import Any

import pandas as pd
import pyarrow as pa

from recokit.errors import DataError


def frame_digest(frame: pd.DataFrame) -> str:
    """Return the SHA-256 of a frame's columns, in hexadecimal; the index does not count.

    Raises:
        DataError: A column holds what Arrow has no form for.
    """
    digest = _Digest()
    try:
        table = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
    except (pa.ArrowException, TypeError) as error:
        raise DataError(f"the frame's columns hold what a checkpoint cannot tell from others: {error}") from error
    with pa.ipc.new_stream(pa.PythonFile(digest, "w"), table.schema) as writer:
        writer.write_table(table)
    return digest.value


class _Digest:
    """A file that hashes what is written to it."""

    closed = False

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    @property
    def value(self) -> str:
        return self._hash.hexdigest()

    def write(self, data: Any) -> int:
        self._hash.update(data)
        return len(data)

    def flush(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """Nothing is open."""
