"""Codes as layers: what the table decodes, what faiss decodes, and what a linear layer would make of it."""

import faiss
import numpy as np
import pytest
import torch
from torch import nn

from recokit.errors import ConfigError, DataError
from recokit.layers import FrozenEmbedding, LearnedUnknown, PQEmbedding, Projection, fold, fold_all, frozen_embedding
from recokit.table import EmbeddingTable, PQTable

CODECS = ["pq", "opq", "additive"]
DIM, PARTS, COUNT = 24, 8, 60


def table(codec: str = "pq", *, count: int = COUNT, parts: int = PARTS, size: int = 256, seed: int = 0) -> PQTable:
    generator = np.random.default_rng(seed)
    codebook = generator.standard_normal((parts, size, DIM if codec == "additive" else DIM // parts))
    rotation = np.linalg.qr(generator.standard_normal((DIM, DIM)))[0].astype(np.float32)
    return PQTable.from_arrays(
        np.arange(count),
        generator.integers(0, size, (count, parts), dtype=np.uint8),
        codebook.astype(np.float32),
        entity="item",
        version="v1",
        codec=codec,
        rotation=rotation if codec == "opq" else None,
    )


ROWS = torch.tensor([[3, -1, 59], [0, 3, -1]])


def test_codes_decode_to_the_bits_of_the_table():
    codes = table()
    np.testing.assert_array_equal(
        PQEmbedding(codes)(ROWS).numpy(), codes.decode(ROWS.numpy().reshape(-1)).reshape(2, 3, DIM)
    )


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("size", [256, 16])
def test_every_codec_is_a_loop_over_its_centroids(codec, size):
    codes = table(codec, size=size)
    books, expected = codes.codebook.astype(np.float64), []
    for row in range(COUNT):
        chosen = [books[part, code] for part, code in enumerate(codes.codes[row])]
        vector = np.sum(chosen, axis=0) if codec == "additive" else np.concatenate(chosen)
        expected.append(vector @ codes.rotation.astype(np.float64) if codec == "opq" else vector)
    found = PQEmbedding(codes)(torch.arange(COUNT)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_faiss_decodes_its_codes_to_the_same_bits():
    codebook = table().codebook
    quantizer = faiss.ProductQuantizer(DIM, PARTS, 8)
    faiss.copy_array_to_vector(codebook.reshape(-1), quantizer.centroids)
    codes = quantizer.compute_codes(np.random.default_rng(1).standard_normal((400, DIM)).astype(np.float32))
    ours = PQTable.from_arrays(np.arange(400), codes, codebook, entity="item", version="v1")
    np.testing.assert_array_equal(PQEmbedding(ours)(torch.arange(400)).numpy(), quantizer.decode(codes))


@pytest.mark.parametrize("codec", CODECS)
def test_an_unknown_row_gives_zeros_and_no_other_row_does(codec):
    found = PQEmbedding(table(codec))(ROWS)
    assert found[0, 1].tolist() == [0.0] * DIM
    assert found[1, 2].tolist() == [0.0] * DIM
    assert (found[0, [0, 2]] != 0).all()


@pytest.mark.parametrize("codec", CODECS)
def test_codes_from_elsewhere_decode_as_rows_do(codec):
    layer, codes = PQEmbedding(table(codec)), table(codec).codes
    torch.testing.assert_close(layer.decode(torch.tensor(codes[[[5, 59]]])), layer(torch.tensor([[5, 59]])))


def test_nothing_trains_nothing_is_saved_and_the_codes_are_the_tables_own_memory(tmp_path):
    saved = PQTable.load(table("opq").save(tmp_path / "item-opq"))
    layer, again = PQEmbedding(saved), PQEmbedding(saved, unknown="learned")
    assert list(layer.parameters()) == []
    assert layer.state_dict() == {}
    assert layer.codes.data_ptr() == again.codes.data_ptr() == saved.codes.ctypes.data
    assert layer.codes.dtype == torch.uint8
    assert (layer.entity, layer.version, layer.count, layer.dim) == ("item", "v1", COUNT, DIM)
    assert layer.known(torch.tensor([4, -1])).tolist() == [True, False]


@pytest.mark.parametrize("codec", CODECS)
def test_a_learned_unknown_is_all_that_trains(codec):
    layer = PQEmbedding(table(codec), unknown="learned")
    layer(ROWS).sum().backward()
    ((name, vector),) = layer.named_parameters()
    assert name == "unknown"
    assert vector.grad.tolist() == [2.0] * DIM
    with torch.no_grad():
        vector += torch.arange(DIM)
    assert layer(ROWS)[1, 2].tolist() == list(range(DIM))
    torch.testing.assert_close(layer(ROWS)[0, 0], PQEmbedding(table(codec))(ROWS)[0, 0])


def test_an_optimizer_leaves_codes_and_codebook_alone():
    codes = table()
    layer = PQEmbedding(codes)
    model = nn.Sequential(layer, nn.Linear(DIM, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    for _ in range(3):
        model(torch.arange(COUNT)).square().sum().backward()
        optimizer.step()
    np.testing.assert_array_equal(layer(torch.arange(COUNT)).numpy(), codes.decode())


def test_a_row_of_another_table_is_refused():
    for layer in (PQEmbedding(table()), fold(PQEmbedding(table()), nn.Linear(DIM, 2))):
        with pytest.raises(DataError, match="row 60 of a table 'item' of 60 rows"):
            layer(torch.tensor([0, 60]))
    with pytest.raises(ConfigError, match="unknown='mean'"):
        PQEmbedding(table(), unknown="mean")
    with pytest.raises(DataError, match="is empty"):
        PQEmbedding(table(count=0))


@pytest.mark.parametrize("unknown", ["zero", "learned"])
@pytest.mark.parametrize("codec", CODECS)
def test_a_fold_equals_decoding_and_the_linear_layer(codec, unknown):
    layer = PQEmbedding(table(codec), unknown=unknown)
    if layer.unknown is not None:
        nn.init.normal_(layer.unknown)
    linear, project = nn.Linear(DIM, 5), Projection(DIM, 5, scale=3.0)
    for above in (linear, nn.Linear(DIM, 5, bias=False), project):
        folded, expected = fold(layer, above), above(layer(ROWS)).detach()
        error = (folded(ROWS) - expected).abs().max() / expected.abs().max()
        assert error < 1e-6
    codes = torch.tensor(table(codec).codes[:4])
    torch.testing.assert_close(fold(layer, linear).decode(codes), linear(layer.decode(codes)).detach())


def test_a_learned_unknown_over_a_shared_layer_is_folded_in_too():
    codes, linear = PQEmbedding(table("opq")), nn.Linear(DIM, 5)
    one, other = LearnedUnknown(codes), LearnedUnknown(codes)
    nn.init.normal_(one.unknown)
    torch.testing.assert_close(one(ROWS)[0, 1], one.unknown)
    torch.testing.assert_close(one(ROWS)[0, 0], codes(ROWS)[0, 0])
    for layer in (one, other):
        torch.testing.assert_close(fold(layer, linear)(ROWS), linear(layer(ROWS)).detach(), rtol=1e-5, atol=1e-5)
    folded = fold_all(nn.ModuleList([nn.Sequential(one, linear)]))
    torch.testing.assert_close(folded[0](ROWS), linear(one(ROWS)).detach(), rtol=1e-5, atol=1e-5)
    vectors = EmbeddingTable.from_arrays([1], np.ones((1, 2), np.float32), entity="item", version="v1")
    with pytest.raises(ConfigError, match="FrozenEmbedding of 'item' has no codebook"):
        fold(LearnedUnknown(FrozenEmbedding(vectors)), nn.Linear(2, 2))


def test_the_fold_of_an_unknown_row_is_the_bias():
    linear = nn.Linear(DIM, 3)
    assert fold(PQEmbedding(table("opq")), linear)(torch.tensor([-1])).tolist() == [linear.bias.tolist()]
    assert fold(PQEmbedding(table()), Projection(DIM, 2))(torch.tensor([-1])).tolist() == [[0.0, 0.0]]


def test_a_fold_holds_what_the_linear_layer_was_and_takes_no_gradient():
    layer, linear = PQEmbedding(table()), nn.Linear(DIM, 3)
    folded = fold(layer, linear)
    before = folded(ROWS)
    with torch.no_grad():
        linear.weight += 1.0
        linear.bias += 1.0
    assert torch.equal(folded(ROWS), before)
    assert not before.requires_grad
    assert list(folded.parameters()) == []
    assert folded.codes.data_ptr() == layer.codes.data_ptr()
    with pytest.raises(ConfigError, match="folded layer of 'item' is for inference"):
        nn.Sequential(folded).train()
    assert not nn.Sequential(folded).eval().training


def test_fold_all_folds_the_pairs_of_a_model_and_leaves_the_rest():
    codes = PQEmbedding(table("opq"))
    vectors = FrozenEmbedding(EmbeddingTable.from_arrays(np.arange(COUNT), table().decode(), entity="a", version="v"))
    pairs = [nn.Sequential(layer, Projection(DIM, 4, scale=0.5)) for layer in (codes, vectors, codes)]
    model = nn.ModuleDict({"features": nn.ModuleList(pairs), "head": nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))})

    def run() -> torch.Tensor:
        return torch.stack([model["head"](layer(ROWS)) for layer in model["features"]])

    expected = run().detach()
    assert fold_all(model) is model
    torch.testing.assert_close(run(), expected, rtol=1e-5, atol=1e-6)
    assert [type(layer).__name__ for layer in model["features"]] == ["FoldedEmbedding", "Sequential", "FoldedEmbedding"]
    assert model["features"][0].codes.data_ptr() == model["features"][2].codes.data_ptr() == codes.codes.data_ptr()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("codec", CODECS)
def test_the_gpu_decodes_the_same(codec):
    layer, linear = PQEmbedding(table(codec)), nn.Linear(DIM, 5)
    expected = layer(ROWS), linear(layer(ROWS)).detach()
    found = layer.cuda()(ROWS.cuda()).cpu(), fold(layer, linear.cuda())(ROWS.cuda()).cpu()
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_frozen_embedding_gives_codes_their_layer():
    assert isinstance(frozen_embedding(table(), unknown="learned").unknown, nn.Parameter)


@pytest.mark.parametrize("width", [1, 4, 8, 16, 17])
def test_many_short_rows_are_gathered_as_few_are(width):
    from recokit.layers.bags import gather_rows

    matrix = torch.randn(300, width, generator=torch.Generator().manual_seed(0))
    places = torch.randint(0, 300, (2500, 8), generator=torch.Generator().manual_seed(1), dtype=torch.int32)
    for many in (places, places[:5], places.long(), places.view(50, 50, 8)):
        assert torch.equal(gather_rows(many, matrix), matrix[many.long()])
    with torch.inference_mode():
        inside = gather_rows(places, matrix)
    assert torch.equal(gather_rows(places, matrix), inside)
