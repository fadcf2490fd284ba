"""The service in this process: it answers what tables, generator and index say, and refuses what is bad."""

import asyncio
import gzip
import json
import re
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import ValidationError

from recokit import CandidateGenerator, EmbeddingTable, ExactIndex, Mixture, PQTable, RelationParameters
from recokit.errors import ConfigError, FormatError
from recokit.serve import ServeSettings, create_app
from recokit.serve.answers import lists_of_ids
from recokit.serve.batching import Batcher
from recokit.serve.follow import source_of
from recokit.serve.guard import Guard, _read
from recokit.serve.metrics import Metrics
from recokit.serve.models import (
    CandidatesRequest,
    ListsAnswer,
    NeighborsRequest,
    VectorsAnswer,
    VectorsRequest,
    VersionCard,
)
from recokit.serve.service import Service
from recokit.serve.serving import Query, Serving
from recokit.table import write_version

with warnings.catch_warnings():  # that httpx may be followed by another package
    warnings.simplefilter("ignore")
    from starlette.testclient import TestClient

USERS = [f"u{n}" for n in range(7)]
RNG = np.random.default_rng(0)


def tables_of(name):
    def table(ids, entity, count, dim=4):
        vectors = RNG.normal(size=(count, dim)).astype(np.float32)
        return EmbeddingTable.from_arrays(ids, vectors, entity=entity, version=name, comparator="cos")

    def mixture(ids, entity, count):
        vectors, weights = RNG.normal(size=(count, 3, 4)).astype(np.float32), RNG.random((count, 3))
        return Mixture.from_components(
            ids, vectors, weights, entity=entity, version=name, name=f"{entity}-parts", comparator="cos"
        )

    codes = RNG.integers(0, 5, (20, 2), dtype=np.uint8)
    book = RNG.normal(size=(2, 5, 2)).astype(np.float32)
    interests, albums = mixture(USERS, "user", 7), mixture(np.arange(9), "item", 9)
    return {
        "user": table(USERS, "user", 7),
        "item": table(np.arange(20), "item", 20),
        "interests": interests,
        "albums": albums,
        "user-parts": interests.components,
        "item-parts": albums.components,
        "dots": EmbeddingTable.from_arrays(
            np.arange(3), np.float32([[1] * 4, [1e30] * 4, [1e30] * 4]), entity="dot", version=name, comparator="dot"
        ),
        "item-pq": PQTable.from_arrays(np.arange(20), codes, book, entity="item", version=name),
    }


@pytest.fixture(scope="module")
def version(tmp_path_factory):
    shift = RNG.normal(size=4).astype(np.float32)
    relations = [
        RelationParameters("clicks", "user", "item", "translation", shift),
        RelationParameters("shown", "user", "item", "translation", shift, side="target"),
    ]
    return write_version(tmp_path_factory.mktemp("store") / "v1", tables_of("v1"), relations=relations)


@pytest.fixture(scope="module")
def client(version):
    with ready(create_app(version.path, settings=LIMITED)) as made:
        yield made


LIMITED = ServeSettings(max_k=100, max_ids=10, max_results=200, max_body=2000, poll=60)


class ready(TestClient):
    """A client that waits for the first version."""

    def __enter__(self):
        super().__enter__()
        for _ in range(500):
            if self.get("/readyz").status_code == 200:
                return self
            threading.Event().wait(0.01)
        raise AssertionError(self.get("/readyz").text)


def post(client, path, **body):
    answer = client.post(f"/v1/{path}", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-recokit-version"] == answer.json()["version"]
    return answer.json()


def lists_of(frame, ids):
    """Return candidates and scores of each id as the generator's frame has them."""
    groups = dict(list(frame.groupby("query")))
    return [(groups[i]["candidate"].tolist(), groups[i]["score"].tolist()) if i in groups else ([], []) for i in ids]


def answered(content):
    return [(one["candidates"], one["scores"]) for one in content["lists"]]


def generator(version, queries, items, relation=None, **choices):
    found = version.open(items)
    mixed = {"items": found} if isinstance(found, Mixture) else {}
    chosen = None if relation is None else version.relations[relation]
    index = ExactIndex(found.components if mixed else found)
    return CandidateGenerator(index, version.open(queries), chosen, **mixed, **choices)


def test_vectors_are_the_rows_of_the_table_and_unknown_ids_are_zeros(client, version):
    got = post(client, "vectors", table="item", ids=[3, 99, 0, 3])
    vectors = version.table("item").vectors
    assert got["known"] == [True, False, True, True]
    assert np.array_equal(np.float32(got["vectors"]), [vectors[3], np.zeros(4), vectors[0], vectors[3]])
    assert VectorsAnswer.model_validate(got).weights is None


def test_vectors_as_bytes_are_float32_and_a_byte_for_each_id(client, version):
    got = client.post(
        "/v1/vectors", json={"table": "user", "ids": ["u5", "x", "u0"]}, headers={"Accept": "application/octet-stream"}
    )
    assert got.headers["content-type"] == "application/octet-stream"
    assert (got.headers["x-recokit-shape"], got.headers["x-recokit-version"]) == ("3,4", "v1")
    vectors = version.table("user").vectors
    assert got.content == np.stack([vectors[5], np.zeros(4, np.float32), vectors[0]]).tobytes() + b"\1\0\1"


def test_vectors_of_codes_are_decoded_and_of_mixtures_come_with_weights(client, version):
    codes = version.codes("item-pq")
    got = post(client, "vectors", table="item-pq", ids=[7, 70])
    parts = [codes.codebook[m][codes.codes[7, m]] for m in range(2)]
    assert np.array_equal(np.float32(got["vectors"]), [np.concatenate(parts), np.zeros(4)])
    mixture = version.mixture("interests")
    got = post(client, "vectors", table="interests", ids=["u2", "x"])
    assert np.array_equal(np.float32(got["vectors"][0]), mixture.components.vectors[mixture.component_rows[2]])
    assert np.array_equal(np.float32(got["weights"]), [mixture.weights[2], np.zeros(3)])
    accept = {"Accept": "Application/Octet-Stream"}
    raw = client.post("/v1/vectors", json={"table": "interests", "ids": ["u2"]}, headers=accept)
    assert raw.headers["x-recokit-shape"] == "1,3,4"
    assert np.array_equal(np.frombuffer(raw.content[48:60], "<f4"), mixture.weights[2])


def test_neighbors_are_those_of_the_generator_and_not_the_id_itself(client, version):
    ids = ["u3", "never", "u0", "u3"]
    got = post(client, "neighbors", table="user", ids=ids, k=3)
    known = [i for i in ids if i != "never"]
    expected = dict(zip(known, lists_of(generator(version, "user", "user")(known, 3), known), strict=True))
    assert answered(got) == [expected.get(i, ([], [])) for i in ids]
    assert [(one["query"], one["known"]) for one in got["lists"]] == [(i, i != "never") for i in ids]
    assert all("u3" not in got["lists"][at]["candidates"] for at in (0, 3))
    ListsAnswer.model_validate(got)


def test_neighbors_along_a_relation(client, version):
    got = post(client, "neighbors", table="user", ids=["u1"], k=4, relation="clicks")
    assert got["items"] == "item"
    assert answered(got) == lists_of(generator(version, "user", "item", "clicks")(["u1"], 4), ["u1"])


def test_neighbors_of_vectors_are_those_of_a_float64_loop(client, version):
    vectors = RNG.normal(size=(2, 4)).astype(np.float32)
    items = version.table("item").vectors.astype(np.float64)
    for relation, table in ((None, "item"), ("clicks", "user")):
        more = {} if relation is None else {"relation": relation}
        got = post(client, "neighbors", table=table, vectors=vectors.tolist(), k=30, **more)
        moved = vectors if relation is None else vectors + version.relations["clicks"].parameters
        for vector, (candidates, scores) in zip(moved.astype(np.float64), answered(got), strict=True):
            cosines = items @ vector / np.linalg.norm(items, axis=1) / np.linalg.norm(vector)
            assert candidates == np.argsort(-cosines).tolist()
            assert np.allclose(scores, np.sort(cosines)[::-1], atol=1e-6)
        assert got["lists"][0]["query"] is None


def test_candidates_leave_out_what_is_excluded_for_their_own_query_alone(client, version):
    ids, pairs = ["u1", "u2", "u6"], [["u1", 3], ["u1", 5], ["u2", 0], ["u4", 1], ["u6", 777]]
    got = post(client, "candidates", relation="clicks", ids=ids, k=20, exclude=pairs)
    found = [set(one["candidates"]) for one in got["lists"]]
    assert found == [set(range(20)) - {3, 5}, set(range(20)) - {0}, set(range(20))]
    assert (got["table"], got["items"]) == ("user", "item")


@pytest.mark.parametrize("allocation", ["round_robin", "proportional", "min_one"])
def test_candidates_of_mixtures_share_their_lists_as_told(client, version, allocation):
    got = post(client, "candidates", table="interests", items="item", ids=["u0", "u4"], k=6, allocation=allocation)
    frame = generator(version, "interests", "item", allocation=allocation)(["u0", "u4"], 6)
    assert answered(got) == lists_of(frame, ["u0", "u4"])
    assert [place for one in got["lists"] for place in one["components"]] == frame["component"].tolist()


def test_candidates_that_are_mixtures(client, version):
    got = post(client, "candidates", table="user", items="albums", ids=["u0"], k=5)
    assert answered(got) == lists_of(generator(version, "user", "albums")(["u0"], 5), ["u0"])
    got = post(client, "neighbors", table="albums", ids=[4], k=3)
    assert answered(got) == lists_of(generator(version, "albums", "albums")([4], 3), [4])


def test_requests_that_are_merged_get_what_they_would_get_alone(version):
    serving = Serving.load(version, ServeSettings())
    search = serving.search(None, "clicks", None, k=4)
    requests = [
        Query(["u1", "u2"]),
        Query(["u2"], [("u2", 1), ("u1", 19)]),  # of u1 it wants nothing, so excludes nothing for the others
        Query(["u1"], [("u1", item) for item in range(17)]),
        Query(["u5", "never"]),
        Query(["u6"], [("u6", 0)]),
        Query(["u1"]),
    ]
    together = serving.candidates(search, requests)
    for request, found in zip(requests, together, strict=True):
        alone = serving.candidates(search, [request])[0]
        assert (found.known, found.candidates, found.scores) == (alone.known, alone.candidates, alone.scores)
    assert [len(found.candidates[0]) for found in together] == [4, 4, 3, 4, 4, 4]
    some = [serving.vectors("user", [["u1", "x"], [], ["u2"]]), serving.vectors("user", [["u1", "x"]])]
    assert np.array_equal(some[0][0].vectors, some[1][0].vectors)
    assert [len(rows.known) for rows in some[0]] == [2, 0, 1]


def test_many_clients_at_once_each_get_their_own(client, version):
    expected = {i: post(client, "candidates", relation="clicks", ids=[i], k=5) for i in USERS}

    def ask(number):
        i = USERS[number % 7]
        assert post(client, "candidates", relation="clicks", ids=[i], k=5) == expected[i]
        return len(post(client, "vectors", table="user", ids=[i])["vectors"])

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(60))) == [1] * 60


@pytest.mark.parametrize("index", ["hnsw", "faiss"])
def test_an_approximate_index_finds_the_same_in_a_small_table(version, index):
    serving = Serving.load(version, ServeSettings(index=index, index_tables=("item",)))
    exact = Serving.load(version, ServeSettings())
    search = serving.search("user", "clicks", None, k=5)
    asked = [Query(USERS)]
    assert serving.candidates(search, asked)[0].candidates == exact.candidates(search, asked)[0].candidates
    assert type(serving._index(version.table("item"))).__name__.lower() == f"{index}index"
    assert isinstance(serving._index(version.table("user")), ExactIndex)
    with pytest.raises(ConfigError, match="no table 'itm'; did you mean 'item'"):
        Serving.load(version, ServeSettings(index_tables=("itm",)))


BAD = [
    ("vectors", {"table": "itm", "ids": [1]}, "version 'v1' has no table 'itm'; did you mean 'item'?"),
    ("vectors", {"table": "item", "ids": ["1"]}, "got string ids, expected int64"),
    ("vectors", {"table": "item", "ids": [1, "a"]}, "body.ids: expected integers or strings, and not both"),
    ("vectors", {"table": "item", "ids": [True]}, "body.ids: expected integers or strings, and not both"),
    ("vectors", {"table": "item", "ids": [1.5]}, "body.ids: expected integers or strings, and not both"),
    ("vectors", {"table": "item", "ids": []}, "body.ids: Value should have at least 1 item"),
    ("vectors", {"table": "item", "ids": [2**63]}, "9223372036854775808"),
    ("vectors", {"table": "item", "ids": list(range(11))}, "has 11 ids or vectors, expected at most 10"),
    ("vectors", {"table": "item"}, "body.ids: Field required"),
    ("vectors", {"table": "item", "ids": [1], "idz": 1}, "body.idz: Extra inputs are not permitted"),
    ("vectors", [1], "expected|no JSON object"),
    ("neighbors", {"table": "item", "ids": [1], "k": 101}, "k is 101, expected at most 100"),
    ("neighbors", {"table": "item", "ids": [1], "k": 0}, "body.k: .* greater than or equal to 1"),
    ("neighbors", {"table": "item", "ids": [1], "k": True}, "body.k: Input should be a valid integer"),
    ("neighbors", {"table": "item", "ids": [1], "k": "5"}, "body.k: Input should be a valid integer"),
    ("neighbors", {"table": "item", "ids": [1, 2, 3, 4, 5], "k": 41}, "5 lists of 41 are more than the 200 results"),
    ("neighbors", {"table": "item", "k": 3}, "body: expected either ids or vectors"),
    ("neighbors", {"table": "item", "ids": [1], "vectors": [[1, 2, 3, 4]]}, "expected either ids or vectors"),
    ("neighbors", {"table": "item", "vectors": [[1, 2, 3, 4], [1]]}, "vectors differ in length"),
    ("neighbors", {"table": "item", "vectors": [[1, 2, 3]]}, "vectors have 3 numbers, expected 4"),
    ("neighbors", {"table": "item", "vectors": [[]]}, "vectors have 0 numbers, expected 4"),
    ("neighbors", {"table": "item", "vectors": [[1, 2, 3, 1e300]]}, "vector 0 is not finite"),
    ("neighbors", {"table": "item", "vectors": [[1, 2, 3, "4"]]}, "body.vectors.0.3: .* valid number"),
    ("neighbors", {"table": "item", "vectors": [[1, 2, 3, -4e18]]}, "vector 0 holds a number beyond 1e.18"),
    ("neighbors", {"table": "dots", "ids": [1]}, "scores in table 'dots' are beyond float32"),
    ("neighbors", {"table": "item", "vectors": [[1, 2, 3, 4]], "relation": "clicks"}, "moves 'user', table 'item' is"),
    ("neighbors", {"table": "albums", "vectors": [[1, 2, 3, 4]]}, "expected a table of vectors"),
    ("neighbors", {"table": "item-pq", "ids": [1]}, "holds codes, expected vectors"),
    ("neighbors", {"table": "item", "ids": [1], "relation": "clicks"}, "goes from 'user' to 'item'"),
    ("neighbors", {"table": "user", "ids": ["u1"], "relation": "clickz"}, "did you mean 'clicks'"),
    ("neighbors", {"table": "user", "vectors": [[1, 2, 3, 4]], "relation": "shown"}, "moves its targets"),
    ("candidates", {"ids": [1]}, "expected a table, a relation, or both"),
    ("candidates", {"relation": "shown", "ids": ["u1"]}, "moves its targets"),
    ("candidates", {"table": "item", "ids": [1], "allocation": "fair"}, "body.allocation: Input should be"),
    ("candidates", {"table": "item", "ids": [1], "exclude": [[1, 2.5]]}, "body.exclude.0.1: expected an integer or"),
    ("candidates", {"table": "item", "ids": [1], "exclude": [[1, "x"]]}, "got string ids, expected int64"),
    ("candidates", {"table": "item", "ids": [1], "exclude": [["1", 2]]}, "some are integers and some are strings"),
    ("candidates", {"table": "item", "ids": [1], "exclude": [[1, 2**64]]}, "18446744073709551616"),
    ("vectors", {"table": "i" * 1001, "ids": [1]}, "body.table: String should have at most 1000 characters"),
]


@pytest.mark.parametrize(("path", "body", "said"), BAD)
def test_bad_input_gets_one_clear_answer(client, path, body, said):
    got = client.post(f"/v1/{path}", json=body)
    assert got.status_code == 422
    assert set(got.json()) == {"error", "detail"}
    assert got.json()["error"] == "invalid"
    assert re.search(said, got.json()["detail"]), got.json()["detail"]
    assert got.headers["x-recokit-version"] == "v1"


@pytest.mark.parametrize(
    ("content", "status", "said"),
    [
        (b"{", 422, "the body is not JSON"),
        (b"[" * 1500, 400, "parsing"),
        (b'{"table": "item", "ids": [' + b"9" * 1900 + b"]}", 422, "ids"),
        (b'{"table": "user", "ids": ["\\ud800"]}', 422, "surrogates|string"),
        (b'{"table": "item", "vectors": [[NaN, 1, 2, 3]]}', 422, "body.ids: Field required"),
        (b"\xff\xfe", 422, "the body is not JSON"),
        (b"\xff{}", 400, "parsing"),
        (b"", 422, "Field required"),
    ],
)  # fmt: skip
def test_what_is_no_json_is_refused(client, content, status, said):
    got = client.post("/v1/vectors", content=content, headers={"Content-Type": "application/json"})
    assert (got.status_code, got.json()["error"]) == (status, "invalid")
    assert re.search(said, got.json()["detail"]), got.json()["detail"]


def test_an_excluded_candidate_that_is_no_text_is_refused(client):
    content = b'{"table": "item", "ids": [1], "k": 3, "exclude": [[1, "\\ud800"]]}'
    got = client.post("/v1/candidates", content=content, headers={"Content-Type": "application/json"})
    assert (got.status_code, "surrogates not allowed" in got.json()["detail"]) == (422, True)


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (VectorsRequest, {"table": "item", "ids": [1.5] * 1000}),
        (NeighborsRequest, {"table": "item", "vectors": [["x"]] * 1000}),
        (NeighborsRequest, {"table": "item", "vectors": [["x"] * 1000]}),
        (CandidatesRequest, {"table": "item", "ids": [1], "exclude": [[1.5, 1]] * 1000}),
        (VectorsRequest, {"table": "item", "ids": [1], **{f"no{n}": 1 for n in range(1000)}}),
    ],
)
def test_the_first_thing_that_is_wrong_ends_the_check(kind, wrong):
    # It is made in the event loop: 800,000 ids that were all noted held every other request up for 17 s.
    with pytest.raises(ValidationError) as caught:
        kind.model_validate(wrong)
    assert caught.value.error_count() <= 2  # one for each type of a union


def test_a_k_that_is_not_given_is_no_more_than_may_be_asked_for(version):
    with ready(create_app(version.path, settings=ServeSettings(max_k=4, poll=60))) as client:
        for path, body in (("neighbors", {"table": "item"}), ("candidates", {"table": "item"})):
            found = post(client, path, ids=[1], **body)["lists"][0]["candidates"]
            assert found == lists_of(generator(version, "item", "item")([1], 4), [1])[0][0]
        said = client.post("/v1/candidates", json={"table": "item", "ids": [1], "k": 100}).json()["detail"]
    assert said == "k is 100, expected at most 4"


def test_only_one_of_merged_requests_has_scores_that_json_cannot_hold(version):
    serving = Serving.load(version, ServeSettings())
    search = serving.search("dots", None, None, k=1)
    small, large, merged = Query([0]), Query([1]), []

    async def ask():
        batcher = Batcher(threads=1, queue=9, most=99, observe=merged.append)
        runs = [
            batcher.run("ids", partial(lists_of_ids, serving, search), query, size=1, timeout=10)
            for query in (small, large, small)
        ]
        waiting = asyncio.gather(*runs, return_exceptions=True)
        batcher._stopped = False
        await asyncio.sleep(0)
        batcher.start()
        answers = await waiting
        batcher.stop()
        return answers

    first, refused, last = asyncio.run(ask())
    assert [json.loads(each.body)["lists"][0]["scores"] for each in (first, last)] == [[np.float32(4e30)]] * 2
    assert merged == [3]
    assert "beyond float32" in str(refused)


def test_merged_answers_of_vectors_are_no_larger_than_those_of_searches(version, monkeypatch):
    calls, look_up = [], Serving.vectors

    def noting(self, table, requests):
        calls.append(len(requests))
        return look_up(self, table, requests)

    monkeypatch.setattr(Serving, "vectors", noting)
    service = Service(source_of(version.path, LIMITED), LIMITED)  # of 200 results
    serving = Serving.load(version, LIMITED)
    asked = VectorsRequest(table="interests", ids=["u1", "u2", "u3"])  # three components of four numbers each

    async def ask():
        service._batcher._stopped = False
        waiting = asyncio.gather(*(service.vectors(serving, asked, binary=False) for _ in range(12)))
        await asyncio.sleep(0)
        service._batcher.start()
        await waiting
        service._batcher.stop()

    asyncio.run(ask())
    assert calls == [5, 5, 2]  # five times 36 numbers


def test_json_that_does_not_say_so_is_refused(client):
    got = client.post("/v1/vectors", content=b'{"table": "item", "ids": [1]}', headers={"Content-Type": "text/plain"})
    assert (got.status_code, "Content-Type: application/json" in got.json()["detail"]) == (422, True)


def test_large_bodies_and_unknown_places_are_refused(client):
    long = b'{"table": "item", "ids": [' + b"1," * 2000 + b"1]}"
    answers = [
        client.post("/v1/vectors", content=long),
        client.post("/v1/vectors", content=iter([long[:1500], long[1500:]])),  # no length told
        client.get("/v1/nowhere"),
        client.get("/v1/vectors"),
    ]
    said = [(each.status_code, each.json()["error"]) for each in answers]
    assert said == [(413, "too_large"), (413, "too_large"), (404, "not_found"), (405, "method_not_allowed")]
    assert answers[0].json()["detail"] == "the body has more than 2000 bytes"


def test_what_is_allowed_is_said_and_probes_may_ask_for_the_head_alone(client):
    got = client.put("/v1/vectors")
    assert (got.status_code, got.headers["allow"]) == (405, "POST")
    for path in ("/healthz", "/readyz", "/v1/version", "/metrics"):
        assert client.head(path).status_code == 200
    got = client.head("/v1/vectors")
    assert (got.status_code, got.headers["allow"]) == (405, "POST")


def test_a_compressed_body_is_refused_and_says_why(client):
    body = gzip.compress(b'{"table": "item", "ids": [1]}')
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    got = client.post("/v1/vectors", content=body, headers=headers)
    assert (got.status_code, got.json()["error"], got.headers["accept-encoding"]) == (415, "unsupported", "identity")
    assert got.json()["detail"] == "the body has Content-Encoding gzip, expected one that is not compressed"
    plain = client.post("/v1/vectors", json={"table": "item", "ids": [1]}, headers={"Content-Encoding": "identity"})
    assert plain.status_code == 200


def test_a_client_that_has_gone_is_no_bad_request():
    sent, metrics = [], Metrics()

    async def receive():
        return parts.pop(0)

    async def send(message):
        sent.append(message)

    parts = [{"type": "http.request", "body": b'{"table"', "more_body": True}, {"type": "http.disconnect"}]
    scope = {"type": "http", "method": "POST", "path": "/v1/vectors", "headers": []}
    asyncio.run(Guard(None, settings=ServeSettings(), metrics=metrics, endpoints=["/v1/vectors"])(scope, receive, send))
    assert sent == []
    assert 'recokit_requests_total{endpoint="/v1/vectors",status="499"} 1.0' in metrics.text().decode()


def test_a_body_that_says_it_is_far_too_large_is_not_read():
    async def never():
        raise AssertionError

    assert asyncio.run(_read(never, {b"content-length": b"32001"}, 2000)) is None


def test_the_version_says_what_it_holds(client, version):
    card = VersionCard.model_validate(client.get("/v1/version").json())
    assert (card.version, card.index, card.following, card.parent) == ("v1", "exact", str(version.path), None)
    shown = {table.name: (table.kind, table.count, table.dim, table.components, table.ids) for table in card.tables}
    assert shown["user"] == ("vectors", 7, 4, None, "string")
    assert shown["albums"] == ("mixture", 9, 4, 3, "int64")
    assert shown["item-pq"] == ("codes", 20, 4, None, "int64")
    first = card.relations[0]
    assert (first.name, first.source, first.target, first.operator) == ("clicks", "user", "item", "translation")
    assert client.get("/v1/versions").json() == {"version": "v1", "versions": ["v1"]}
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ready", "version": "v1", "problem": None}


def test_metrics_count_what_was_asked(version):
    with ready(create_app(version.path)) as client:
        for ids in (["u1"], ["u1", "x", "y"]):
            post(client, "vectors", table="user", ids=ids)
        client.post("/v1/vectors", json={})
        client.get("/some/secret/path")
        text = client.get("/metrics").text
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples["recokit_requests_total", "/v1/vectors", "200"] == 2
    assert samples["recokit_requests_total", "/v1/vectors", "422"] == 1
    assert samples["recokit_requests_total", "404", "other"] == 1
    assert samples["recokit_request_seconds_count", "/v1/vectors"] == 3
    assert samples["recokit_request_ids_sum", "/v1/vectors"] == 4
    assert samples["recokit_unknown_ids_total", "/v1/vectors"] == 2
    assert samples["recokit_version_info", "v1"] == 1
    assert samples["recokit_loads_total",] == 1
    assert samples["recokit_load_failures_total",] == 0
    assert samples["recokit_in_flight",] == 1  # the one that asks
    assert samples["recokit_call_requests_sum",] == 2
    assert "secret" not in text


def test_openapi_is_valid_and_its_examples_are_answered(client):
    from fastapi.openapi.models import OpenAPI

    document = client.get("/openapi.json").json()
    OpenAPI.model_validate(document)
    schemas = document["components"]["schemas"]

    def references(node):
        if isinstance(node, dict):
            yield from ([node["$ref"]] if "$ref" in node else [])
            node = list(node.values())
        for each in node if isinstance(node, list) else []:
            yield from references(each)

    assert {name.removeprefix("#/components/schemas/") for name in references(document)} <= set(schemas)
    tried = 0
    for path, methods in document["paths"].items():
        for method, card in methods.items():
            assert card["responses"]["200"]
            assert "HTTPValidationError" not in str(card)
            if method != "post":
                continue
            name = card["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
            for example in schemas[name]["examples"]:
                assert client.post(path, json=example).status_code == 200, example
                tried += 1
    assert tried == 5


def test_a_token_opens_everything_and_without_it_only_the_probe_is_open(version):
    with TestClient(create_app(version.path, settings=ServeSettings(token="s3cret"))) as client:
        assert client.get("/healthz").status_code == 200
        for headers in ({}, {"Authorization": "Bearer s3cre"}, {"Authorization": "s3cret"}, {"Authorization": "ü"}):
            for path in ("/readyz", "/metrics", "/v1/version", "/v1/versions", "/openapi.json", "/nowhere"):
                got = client.get(path, headers={key: value.encode() for key, value in headers.items()})
                assert (got.status_code, got.json()["error"]) == (401, "unauthorized")
                assert got.headers["www-authenticate"] == "Bearer"
        assert client.post("/v1/vectors", content=b"x" * 9_000_000).status_code == 401  # before the body is looked at
        for scheme in ("Bearer", "bearer", "BEARER "):  # a scheme has no case
            with_token = {"authorization": f"{scheme} s3cret"}
            assert client.get("/v1/versions", headers=with_token).json()["versions"] == ["v1"]
        assert client.get("/v1/versions", headers={"Authorization": "Basic s3cret"}).status_code == 401
    assert "s3cret" not in repr(ServeSettings(token="s3cret"))


def test_nobody_else_may_read_answers_in_a_browser(client):
    got = client.get("/v1/version", headers={"Origin": "https://elsewhere.example"})
    assert not [name for name in got.headers if name.startswith("access-control")]


def test_before_the_first_version_the_service_lives_and_is_not_ready(tmp_path):
    app = create_app(tmp_path, settings=ServeSettings(poll=60))
    with TestClient(app) as client:
        assert client.get("/healthz").status_code == 200
        for got in (client.get("/readyz"), client.post("/v1/vectors", json={"table": "user", "ids": ["u1"]})):
            assert (got.status_code, got.json()["error"], got.headers["retry-after"]) == (503, "not_ready", "1")
        assert client.get("/v1/versions").json() == {"version": None, "versions": []}
        write_version(tmp_path / "v1", {"item": tables_of("v1")["item"]})
        assert app.state.service.follower.check()
        assert client.get("/readyz").json()["version"] == "v1"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"index": "hsnw"}, "did you mean 'hnsw'"),
        ({"alias": "a", "version": "v"}, "alias 'a' and version 'v'"),
        ({"max_k": 0}, "max_k is 0, expected an integer of at least 1"),
        ({"threads": True}, "threads is True"),
        ({"poll": float("nan")}, "poll is nan"),
        ({"timeout": 0.0}, "timeout is 0.0, expected seconds, more than 0"),
        ({"token": ""}, "token holds no token"),
        ({"token": "two words"}, "token holds no token"),
    ],
)
def test_settings_that_cannot_be(settings, said):
    with pytest.raises(ConfigError, match=said):
        ServeSettings(**settings)


def test_a_source_that_is_none(tmp_path, version):
    with pytest.raises(FormatError, match="neither a version nor a store"):
        create_app(tmp_path / "nothing")
    with pytest.raises(FormatError, match="neither a version nor a store"):
        create_app(version.path / "user")
    with pytest.raises(ConfigError, match="in which there is no 'production'"):
        create_app(version.path, settings=ServeSettings(alias="production"))
    with pytest.raises(ConfigError, match="names 'v1', and 'production' is given too"):
        create_app(f"{version.path.parent}@v1", settings=ServeSettings(alias="production"))


def test_a_full_queue_and_a_late_answer_say_when_to_ask_again(version, monkeypatch):
    free, begun, look_up = threading.Event(), threading.Event(), Serving.vectors

    def slow(self, table, requests):
        begun.set()
        free.wait(10)
        return look_up(self, table, requests)

    monkeypatch.setattr(Serving, "vectors", slow)
    body = {"table": "user", "ids": ["u1"]}
    with ready(create_app(version.path, settings=ServeSettings(queue=1, timeout=0.3))) as client:

        def ask(_=None):
            got = client.post("/v1/vectors", json=body)
            return got.status_code, got.json()["error"], got.headers["retry-after"], got.headers["x-recokit-version"]

        with ThreadPoolExecutor(8) as pool:
            first = pool.submit(ask)
            assert begun.wait(10)
            assert client.get("/healthz").status_code == 200  # the loop is free
            others = list(pool.map(ask, range(6)))
            late = first.result()
        assert late == (503, "timeout", "1", "v1")
        assert sorted(set(others)) == [(503, "busy", "1", "v1"), (503, "timeout", "1", "v1")]
        assert others.count((503, "busy", "1", "v1")) == 5
        free.set()
        for _ in range(30):  # what nobody waits for any more has to leave the queue first
            if (got := client.post("/v1/vectors", json=body)).status_code == 200:
                break
        assert got.status_code == 200


def test_a_failure_is_logged_and_not_shown(version, monkeypatch, caplog):
    def broken(self, table, requests):
        raise RuntimeError("a secret")

    monkeypatch.setattr(Serving, "vectors", broken)
    with ready(create_app(version.path)) as client:
        got = client.post("/v1/vectors", json={"table": "user", "ids": ["u1"]})
    assert (got.status_code, got.json()) == (
        500,
        {"error": "internal", "detail": "the service failed; its log says why"},
    )
    record = next(record for record in caplog.records if record.msg == "request failed")
    assert (record.fields["endpoint"], record.fields["error"], "a secret" in record.exc_text) == (
        "/v1/vectors", "RuntimeError", True,
    )  # fmt: skip


def test_a_body_that_does_not_come_is_not_waited_for():
    sent = []

    async def receive():
        await asyncio.sleep(10)

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/vectors", "headers": []}
    guard = Guard(None, settings=ServeSettings(timeout=0.01), metrics=Metrics(), endpoints=["/v1/vectors"])
    asyncio.run(guard(scope, receive, send))
    assert (sent[0]["status"], (b"connection", b"close") in sent[0]["headers"]) == (408, True)
