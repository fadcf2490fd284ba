"""A ranker that onnxruntime runs: frames in, probabilities out, without torch.

``recokit.rankers.export_onnx`` writes the folder. Here are the features, read from a frame as in training, and the
session; a service that has its arrays already calls ``run``.
Shapes: N rows of a frame, B rows of a batch, T labels, n ids of a request, M sub-quantizers, D dimension.
"""

__all__ = ["OnnxRanker"]

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit

from recokit.errors import DataError, FormatError, MissingDependencyError, VersionError, closest
from recokit.feature_batch import flatten
from recokit.feature_files import Tables, features_from_json
from recokit.features import FeatureSpec
from recokit.table import FeatureTable, PQTable
from recokit.table.folder import check_files, file_entries, local_folder, manifest_value, read_manifest

FORMAT = "onnx-ranker/1"
MANIFEST = "ranker.json"
MODEL = "model.onnx"


class OnnxRanker:
    """An exported ranker: ``predict`` as the ranker itself does, ``run`` for arrays.

    Attributes:
        features: What it reads; its tables are those that the ranker was trained with.
        inputs: The names of the model's inputs.
        given: The inputs that are rows of a table, codes or vectors, and those tables.
        codebooks: Of inputs that are codes, the SHA-256 of the codebook that they have to be made with
            (``PQTable.codebook_sha256``): ``run`` cannot tell.
    """

    def __init__(
        self,
        session: Any,
        features: FeatureSpec,
        inputs: tuple[str, ...],
        given: Mapping[str, FeatureTable],
        codebooks: Mapping[str, str],
    ) -> None:
        self.features, self.inputs, self.given, self.codebooks = features, inputs, given, codebooks
        self._session = session

    @classmethod
    def load(
        cls,
        path: str | Path,
        tables: Tables | None = None,
        *,
        threads: int | None = None,
        verify: bool = False,
        allow_drift: bool = False,
    ) -> "OnnxRanker":
        """Open an exported ranker.

        Args:
            path: The folder.
            tables: Where its tables are, as ``load_ranker`` takes them; their ids, and codes or vectors where those are
                inputs, are read from there.
            threads: Of onnxruntime, for one request; its own choice where not given.
            verify: Check checksums too; sizes are always checked.
            allow_drift: Whether a table of another version may take the place of one that comes with requests, as in
                ``load_ranker``; its codes have to be made with the model's codebook. What is inside the model stays.

        Raises:
            FormatError: The folder is no exported ranker, or damaged.
            VersionError: A table is of another version, or of other bytes, than the ranker was trained with; or codes
                are made with another codebook.
            MissingDependencyError: onnxruntime is not installed.
        """
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingDependencyError("onnxruntime", extra="onnx", needed_for="OnnxRanker") from error
        folder = local_folder(path)
        manifest = read_manifest(folder, MANIFEST, FORMAT)
        check_files(folder, file_entries(folder, manifest, MANIFEST, required=(MODEL,)), verify=verify)
        features = features_from_json(manifest, tables, folder, allow_drift=allow_drift)
        options = onnxruntime.SessionOptions()
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            session = onnxruntime.InferenceSession(folder / MODEL, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors share no class of their own
            raise FormatError(f"{folder / MODEL}: onnxruntime cannot open it: {error}") from error
        inputs = tuple(manifest_value(folder / MANIFEST, manifest, "inputs", list))
        said = manifest_value(folder / MANIFEST, manifest, "given", dict)
        given = {name: features.tables[each["table"]] for name, each in said.items()}
        codebooks = {name: each["codebook_sha256"] for name, each in said.items() if each["codebook_sha256"]}
        for number, (table, reference) in enumerate(zip(features.tables, manifest["tables"], strict=True)):
            name = next((name for name, each in said.items() if each["table"] == number), None)
            if name is None and table.fingerprint != reference["fingerprint"]:
                raise VersionError(
                    f"{folder} holds the table {table!r} of another version inside: export the ranker anew"
                )
            if isinstance(table, PQTable) and codebooks.get(name, table.codebook_sha256) != table.codebook_sha256:
                raise VersionError(f"{table!r} is made with another codebook than the model {folder} has for {name!r}")
        return cls(session, features, inputs, given, codebooks)

    def predict(self, frame: pd.DataFrame, *, batch_size: int = 16_384) -> NDArray[np.float64]:
        """Return the probability of the label (N,), or of each label (N, T), for every row of a frame."""
        parts = []
        for start in range(0, max(len(frame), 1), batch_size):
            batch = self.features.batch(frame.iloc[start : start + batch_size], labels=False)
            # float64: a probability rounded to 1 would be a log loss of infinity
            parts.append(expit(self._logits(self._with_tables(flatten(batch))).astype(np.float64)))
        return np.concatenate(parts)

    def run(self, arrays: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Return the probabilities (B,), or (B, T), of arrays by the names of the model's inputs.

        Where tables are inputs, ``codes.<entity>`` (n, M) uint8 or ``vectors.<entity>`` (n, D) hold what the request
        is about, and ``rows.<feature>`` (B,) count them; -1 is an unknown id.

        Raises:
            DataError: An input is missing, or unknown, or onnxruntime refuses it.
        """
        return np.asarray(self._run("probabilities", arrays), dtype=np.float32)

    def _logits(self, arrays: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        return np.asarray(self._run("logits", arrays), dtype=np.float32)

    def _run(self, output: str, arrays: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        for name in arrays:
            if name not in self.inputs:
                raise DataError(f"the model has no input {name!r}; {closest(name, self.inputs)}")
        if missing := [name for name in self.inputs if name not in arrays]:
            raise DataError(f"the model needs {missing[0]!r} too; its inputs are {', '.join(self.inputs)}")
        taken = {each.name for each in self._session.get_inputs()}  # what no layer reads, the exporter left out
        try:
            (found,) = self._session.run([output], {name: arrays[name] for name in arrays if name in taken})
        except Exception as error:  # onnxruntime's errors share no class of their own
            raise DataError(f"onnxruntime refuses the inputs: {error}") from error
        return np.asarray(found)

    def _with_tables(self, arrays: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Add, where tables are inputs, their rows that a batch asks for, each once, and count those."""
        for name, table in self.given.items():
            # A feature that starts from a table has its own copy in the model, asked for by the rows of the table.
            own = [each for each in self.features.pretrained if each.table is table and each.usage != "init"]
            keys = [f"rows.{each.key}" for each in own]
            keys += [f"bags.{bag.key}.values" for bag in self.features.bags if bag.table is table]
            asked, places = np.unique(np.concatenate([arrays[key] for key in keys]), return_inverse=True)
            asked, places = (asked[1:], places - 1) if len(asked) and asked[0] < 0 else (asked, places)
            parts = np.split(places, np.cumsum([len(arrays[key]) for key in keys])[:-1])
            arrays |= dict(zip(keys, (part.astype(np.int64) for part in parts), strict=True))
            kept = (
                asked if len(asked) else np.zeros(1, dtype=np.int64)
            )  # one row at least: row 0 of none cannot be read
            arrays[name] = np.asarray((table.codes if isinstance(table, PQTable) else table.vectors)[kept])  # type: ignore[union-attr]
        return arrays
