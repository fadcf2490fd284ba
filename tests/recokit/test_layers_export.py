"""The layers under torch.compile, torch.export and ONNX Runtime: one graph, any batch, the same numbers."""

import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from recokit.layers import DeepHashEmbedding, FrozenEmbedding, MixtureEmbedding, PQEmbedding, fold, pool
from recokit.table import EmbeddingTable, Mixture, PQTable

COUNT, PARTS, DIM = 30, 8, 16
RNG = np.random.default_rng(0)
IDS = np.arange(COUNT)


def vectors(comparator: str = "dot") -> EmbeddingTable:
    numbers = RNG.standard_normal((COUNT, DIM)).astype(np.float32)
    return EmbeddingTable.from_arrays(IDS, numbers, entity="item", version="v1", comparator=comparator)


def codes(codec: str) -> PQTable:
    return PQTable.from_arrays(
        IDS,
        RNG.integers(0, 256, (COUNT, PARTS), dtype=np.uint8),
        RNG.standard_normal((PARTS, 256, DIM if codec == "additive" else DIM // PARTS)).astype(np.float32),
        entity="item",
        version="v1",
        codec=codec,
        rotation=np.linalg.qr(RNG.standard_normal((DIM, DIM)))[0].astype(np.float32) if codec == "opq" else None,
    )


def mixture(comparator: str) -> Mixture:
    rows = RNG.integers(0, COUNT, (COUNT, 3))
    rows[::3, 2] = -1
    weights = np.where(rows < 0, 0, RNG.random((COUNT, 3)))
    return Mixture.from_rows(IDS, rows, weights, components=vectors(comparator), entity="user")


class Some(nn.Module):
    """Each kind of layer once, and a weighted bag."""

    def __init__(self) -> None:
        super().__init__()
        self.of_rows = nn.ModuleList([PQEmbedding(codes("additive")), FrozenEmbedding(vectors(), dtype="float16")])
        self.of_rows += [fold(PQEmbedding(codes("opq")), nn.Linear(DIM, 5)), MixtureEmbedding(mixture("dot"))]
        self.bag = PQEmbedding(codes("pq"), unknown="learned")
        self.of_targets = nn.ModuleList([MixtureEmbedding(mixture("cos"), pooling="attention")])
        self.of_ids = nn.ModuleList([DeepHashEmbedding(4, num_hashes=16, hidden=(8,))])
        nn.init.normal_(self.bag.unknown)

    def forward(self, rows: Tensor, ids: Tensor, target: Tensor, bag: tuple[Tensor, Tensor, Tensor]) -> list[Tensor]:
        values, offsets, weights = bag
        return [
            *(layer(rows) for layer in self.of_rows),
            *(layer(rows, target) for layer in self.of_targets),
            *(layer(ids) for layer in self.of_ids),
            pool(self.bag(values), values >= 0, offsets, "mean", weights),
        ]


class All(Some):
    """Every codec, pooling, comparator and option."""

    def __init__(self) -> None:
        super().__init__()
        self.of_rows += [PQEmbedding(codes(codec), unknown="learned") for codec in ("pq", "opq")]
        self.of_rows += [fold(PQEmbedding(codes(codec)), nn.Linear(DIM, 5)) for codec in ("pq", "additive")]
        self.of_rows += [MixtureEmbedding(mixture("dot"), unknown="learned")]
        for comparator in ("dot", "l2", "squared_l2"):
            table = mixture(comparator)
            self.of_targets += [MixtureEmbedding(table, pooling=pooling) for pooling in ("max", "smoothmax")]
        self.of_ids += [DeepHashEmbedding(4, num_hashes=16, hidden=(8,), codes="normal")]


def inputs(batch: int, values: int, seed: int) -> tuple:
    generator = torch.Generator().manual_seed(seed)
    inner = torch.randint(0, values + 1, (batch - 1,), generator=generator).sort().values
    bag = torch.randint(-1, COUNT, (values,), generator=generator), torch.rand(values, generator=generator)
    return (
        torch.randint(-1, COUNT, (batch,), generator=generator),
        torch.randint(-(2**63), 2**63 - 1, (batch,), generator=generator),
        torch.randn(batch, DIM, generator=generator),
        (bag[0], torch.cat([torch.tensor([0]), inner, torch.tensor([values])]), bag[1]),
    )


def agree(found, expected) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(torch.as_tensor(ours), theirs, rtol=1e-5, atol=1e-5)


def run_compiled(model: nn.Module, backend: str) -> None:
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=backend)
    for size in (5, 7):
        given = inputs(size, 3 * size, size)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*torch.jit", category=DeprecationWarning)  # torch's own
            agree(compiled(*given), model(*given))


def run_exported(model: nn.Module) -> None:
    """Export at one number of rows and of values, run at another."""
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    automatic = {0: torch.export.Dim.AUTO}
    shapes = (automatic, automatic, automatic, (automatic,) * 3)
    given = inputs(9, 23, 1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)  # torch's own
        program = torch.export.export(model, inputs(6, 11, 0), dynamic_shapes=shapes)
        written = torch.onnx.export(program, dynamo=True, verbose=False)
    with torch.no_grad():
        expected = model(*given)
    agree(program.module()(*given), expected)
    session = onnxruntime.InferenceSession(written.model_proto.SerializeToString())
    flat = [*given[:3], *given[3]]
    names = [entry.name for entry in session.get_inputs()]
    agree(session.run(None, {name: each.numpy() for name, each in zip(names, flat, strict=True)}), expected)


def test_compile_without_graph_breaks_gives_the_same():
    run_compiled(Some().eval(), "eager")


def test_torch_export_and_onnx_give_the_same_at_other_sizes():
    run_exported(Some().eval())


@pytest.mark.slow
def test_all_of_them_compile():
    run_compiled(All().eval(), "inductor")


@pytest.mark.slow
def test_all_of_them_export():
    run_exported(All().eval())
