"""Exports to Parquet and SQLite: the same bytes, the same neighbours, whole or not at all."""

import json
from datetime import UTC, datetime
from importlib.metadata import EntryPoint

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recokit.errors import ConfigError, DataError, MissingDependencyError, VersionError
from recokit.exports import SqliteSpace, export_parquet, export_sqlite, feast, parquet, rows
from recokit.index import ExactIndex
from recokit.table import EmbeddingTable, Mixture, PQTable, RelationParameters, open_version, write_version
from recokit.table.folder import sha256_of

CREATED = datetime(2026, 6, 1, 4, 30, tzinfo=UTC)
USERS = ["u1", "u'2", "ü3"]
INTERESTS = np.array([[1, 3], [2, -1], [0, 1]])


@pytest.fixture(scope="module")
def version(tmp_path_factory):
    """Every kind of table, both types of ids, both widths of numbers."""
    rng = np.random.default_rng(0)
    about = {"version": "v1", "comparator": "dot"}
    items = EmbeddingTable.from_arrays(
        np.arange(300) * 2**40 - 7,
        rng.normal(size=(300, 6)).astype(np.float32),
        entity="item",
        bias=rng.normal(size=300).astype(np.float32),
        **about,
    )
    users = EmbeddingTable.from_arrays(
        USERS, rng.normal(size=(3, 6)).astype(np.float16), entity="user", version="v1", comparator="cos"
    )
    codes = rng.integers(0, 5, (300, 3), dtype=np.uint8)
    rotation = np.linalg.qr(rng.normal(size=(6, 6)))[0].astype(np.float32)
    book = rng.normal(size=(3, 5, 2)).astype(np.float32)
    tables = {
        "item": items,
        "user": users,
        "item-pq": PQTable.from_arrays(items.ids, codes, book, entity="item", codec="opq", rotation=rotation, **about),
        "interests": Mixture.from_rows(USERS, INTERESTS, [[1, 3], [1, 0], [1, 1]], components=items, entity="user"),
    }
    relations = [
        RelationParameters(
            "clicks", "user", "item", "translation", rng.normal(size=6).astype(np.float32), side="target"
        ),
        RelationParameters("follows", "user", "user", "identity", np.zeros(0, np.float32)),
    ]
    path = tmp_path_factory.mktemp("store") / "v1"
    write_version(
        path,
        tables,
        relations=relations,
        parent="v0",
        meta={"until": "2026-05-31"},
        created=CREATED,
        networks={"user": "n"},
    )
    return open_version(path)


@pytest.fixture(scope="module")
def exported(version, tmp_path_factory):
    return export_parquet(version, tmp_path_factory.mktemp("warehouse") / "v1")


# --- Parquet -------------------------------------------------------------------------------------------------------


def test_arrow_pandas_and_duckdb_read_the_very_numbers(version, exported):
    file, items = exported / "tables/item.parquet", version.table("item")
    table = pq.read_table(file)
    assert table.schema.field("vector").type == pa.list_(pa.float32(), 6)
    flat = table.column("vector").combine_chunks().flatten().to_numpy()
    assert flat.tobytes() == items.vectors.tobytes()
    assert table.column("id").combine_chunks().equals(items.ids)
    assert table.column("bias").to_numpy().tobytes() == items.bias.tobytes()
    assert np.stack(pd.read_parquet(file)["vector"]).tobytes() == items.vectors.tobytes()
    found = duckdb.sql(f"SELECT id, vector, bias, version, epoch_ms(created) FROM '{file}'").fetchall()
    assert [row[0] for row in found] == items.ids.to_pylist()
    assert np.array([row[1] for row in found], np.float32).tobytes() == items.vectors.tobytes()
    assert {row[3:] for row in found} == {("v1", CREATED.timestamp() * 1000)}


def test_float16_becomes_the_float32_that_it_is(version, exported):
    table = pq.read_table(exported / "tables/user.parquet")
    assert table.column("id").to_pylist() == USERS
    assert table.schema.field("id").type == pa.string()
    vectors = np.stack(table.column("vector").to_numpy())
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors.astype(np.float16), version.table("user").vectors)


def test_codes_decode_in_sql(version, exported):
    codes = version.codes("item-pq")
    stored = pq.read_table(exported / "tables/item-pq.parquet").column("codes").to_pylist()
    assert b"".join(stored) == codes.codes.tobytes()
    book = duckdb.sql(f"SELECT * FROM '{exported / 'codebooks/item-pq.parquet'}'").fetchall()
    centroids = {(part, code): centroid for part, code, centroid in book}
    rotation = np.stack(pq.read_table(exported / "rotations/item-pq.parquet").column("vector").to_numpy())
    side_by_side = [[x for part, code in enumerate(row) for x in centroids[part, code]] for row in stored]
    np.testing.assert_allclose(np.array(side_by_side) @ rotation, codes.decode(), atol=1e-6)


def test_a_mixture_is_a_component_a_row(version, exported):
    table = pq.read_table(exported / "tables/interests.parquet").to_pylist()
    items = version.table("item")
    assert [(row["id"], row["component"], row["weight"]) for row in table] == [
        ("u1", 0, 0.25), ("u1", 1, 0.75), ("u'2", 0, 1.0), ("ü3", 0, 0.5), ("ü3", 1, 0.5),
    ]  # fmt: skip
    at = [1, 3, 2, 0, 1]
    assert [row["component_id"] for row in table] == items.ids_at(np.array(at)).to_pylist()
    np.testing.assert_array_equal(np.float32([row["vector"] for row in table]), items.vectors[at])


def test_relations_keep_their_operator_and_side(version, exported):
    first, second = pq.read_table(exported / "relations.parquet").to_pylist()
    parameters = version.relations["clicks"].parameters
    np.testing.assert_array_equal(np.float32(first.pop("parameters")), parameters)
    assert first == {
        "name": "clicks", "source": "user", "target": "item", "operator": "translation", "side": "target",
        "reciprocal": None,
    }  # fmt: skip
    assert (second["operator"], second["parameters"]) == ("identity", [])


def test_the_manifest_says_what_is_here(version, exported):
    manifest = json.loads((exported / "manifest.json").read_bytes())
    assert (manifest["version"], manifest["created"], manifest["parent"]) == ("v1", "2026-06-01T04:30:00Z", "v0")
    assert manifest["meta"] == {"until": "2026-05-31"}
    tables = {table["name"]: table for table in manifest["tables"]}
    assert {name: (table["count"], table["rows"]) for name, table in tables.items()} == {
        "item": (300, 300), "user": (3, 3), "item-pq": (300, 300), "interests": (3, 5),
    }  # fmt: skip
    assert (tables["user"]["dtype"], tables["user"]["network"]) == ("float16", "n")
    assert tables["item-pq"]["codebook"] == "codebooks/item-pq.parquet"
    assert tables["item-pq"]["codebook_sha256"] == version.codes("item-pq").codebook_sha256
    there = {file.relative_to(exported).as_posix(): file for file in exported.rglob("*.parquet")}
    assert {name: entry["sha256"] for name, entry in manifest["files"].items()} == {
        name: sha256_of(file) for name, file in there.items()
    }
    metadata = pq.read_schema(exported / "tables/item.parquet").metadata
    assert metadata[b"recokit.fingerprint"].decode() == version.table("item").fingerprint
    assert (metadata[b"recokit.comparator"], metadata[b"recokit.version"]) == (b"dot", b"v1")


def test_columns_for_engines_without_lists(version, tmp_path):
    made = export_parquet(version, tmp_path / "wide", tables=["item", "item-pq", "interests"], layout="columns")
    frame = pd.read_parquet(made / "tables/item.parquet")
    np.testing.assert_array_equal(frame[[f"vector_{d}" for d in range(6)]].to_numpy(), version.table("item").vectors)
    codes = pd.read_parquet(made / "tables/item-pq.parquet")[["code_0", "code_1", "code_2"]].to_numpy()
    assert (codes.dtype, codes.tobytes()) == (np.uint8, version.codes("item-pq").codes.tobytes())
    last = pd.read_parquet(made / "tables/interests.parquet").iloc[-1]
    np.testing.assert_array_equal(last[[f"vector_{d}" for d in range(6)]].tolist(), version.table("item").vectors[1])
    assert sorted(file.stem for file in (made / "tables").iterdir()) == ["interests", "item", "item-pq"]


def test_row_groups_are_blocks_and_make_the_same_table(version, exported, tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "_BLOCK_BYTES", 24 * 100)
    seen = []
    made = export_parquet(version, tmp_path / "v1", progress=lambda done, of: seen.append((done, of)))
    file = pq.ParquetFile(made / "tables/item.parquet")
    assert [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)] == [100, 100, 100]
    for name in ("item", "user", "item-pq", "interests"):
        again, once = (pq.read_table(each / f"tables/{name}.parquet") for each in (made, exported))
        assert again.combine_chunks().equals(once.combine_chunks())
    assert (seen[0], seen[-1]) == ((100, 606), (606, 606))


def test_an_export_is_whole_or_not_at_all(version, tmp_path, monkeypatch):
    export_parquet(version, tmp_path / "v1", tables=[])
    with pytest.raises(VersionError, match="exists already"):
        export_parquet(version, tmp_path / "v1")

    def fails(*_):
        raise OSError("no space left")

    monkeypatch.setattr(parquet, "_relations", fails)
    with pytest.raises(OSError, match="no space"):
        export_parquet(version, tmp_path / "v2")
    assert [each.name for each in tmp_path.iterdir()] == ["v1"]


def test_an_empty_table_keeps_its_columns(tmp_path):
    empty = EmbeddingTable.from_arrays(pa.array([], pa.string()), np.zeros((0, 4), np.float32), entity="e", version="v")
    made = export_parquet(write_version(tmp_path / "v", {"e": empty}), tmp_path / "out")
    assert pq.read_schema(made / "tables/e.parquet").names == ["id", "version", "created", "vector"]
    assert pq.read_metadata(made / "tables/e.parquet").num_rows == 0


@pytest.mark.parametrize("export", [export_parquet, export_sqlite])
def test_unknown_names_are_refused(version, tmp_path, export):
    with pytest.raises(ConfigError, match="no table 'itme'; did you mean 'item'"):
        export(version, tmp_path / "x", tables=["itme"])
    with pytest.raises(ConfigError, match="is one name, expected a list"):
        export(version, tmp_path / "x", tables="item")
    with pytest.raises(ConfigError, match="layout 'lists' does not exist; did you mean 'list'"):
        export_parquet(version, tmp_path / "x", layout="lists")


# --- SQLite --------------------------------------------------------------------------------------------------------


@pytest.fixture
def opened():
    apsw, extension = pytest.importorskip("apsw"), pytest.importorskip("sqlite_vec")

    def connect(path):
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
        connection.enable_load_extension(True)
        connection.load_extension(extension.loadable_path())
        return connection

    return connect


def table_of(comparator: str, *, bias: bool, zero: bool, strings: bool) -> EmbeddingTable:
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(400, 7)).astype(np.float32) * rng.uniform(0.2, 3, (400, 1)).astype(np.float32)
    vectors[17] *= not zero
    ids = [f"it'em {n}" for n in range(400)] if strings else np.arange(400) - 200
    given = rng.normal(size=400).astype(np.float32) if bias else None
    return EmbeddingTable.from_arrays(ids, vectors, entity="item", version="v", comparator=comparator, bias=given)


@pytest.mark.parametrize(
    ("comparator", "bias", "zero", "strings"),
    [
        ("dot", False, False, True),
        ("dot", True, True, False),
        ("cos", False, False, False),
        ("cos", False, True, True),
        ("l2", False, True, False),
        ("squared_l2", False, False, True),
    ],
)
def test_sql_finds_what_exact_search_finds(tmp_path, opened, comparator, bias, zero, strings):
    table = table_of(comparator, bias=bias, zero=zero, strings=strings)
    made = export_sqlite(write_version(tmp_path / "v", {"it-em.1": table}), tmp_path / "v.db")
    connection = opened(made)
    ((text,),) = connection.execute("SELECT space FROM recokit_tables WHERE name = 'it-em.1'")
    space = SqliteSpace(**json.loads(text))
    queries = np.random.default_rng(4).normal(size=(20, 7)).astype(np.float32)
    found, scores = ExactIndex.build(table).search(queries, 400)
    for query, rows_, expected in zip(queries, found, scores, strict=True):
        sql = 'SELECT id, distance FROM "it-em.1" WHERE vector MATCH ? AND k = 400 ORDER BY distance'
        ids, distances = zip(*connection.execute(sql, (space.query(query),)), strict=True)
        assert list(ids[:10]) == table.ids_at(rows_[:10]).to_pylist()
        # Further down some scores are closer together than float32 tells apart.
        exact = dict(zip(table.ids_at(rows_).to_pylist(), expected, strict=True))
        np.testing.assert_allclose([exact[each] for each in ids], expected, atol=2e-5)
        assert len(set(ids)) == 400
        came = [space.score(query, distance) for distance in distances]
        np.testing.assert_allclose(came, expected, atol=2e-5)


@pytest.mark.parametrize("size", [1e-25, 1.0, 1e20])
@pytest.mark.parametrize("zero", [False, True])
def test_cosines_of_any_length_have_a_distance(tmp_path, opened, size, zero):
    """float32 has no squares of numbers so small or large, and the extension NULL instead of a distance."""
    table = table_of("cos", bias=False, zero=zero, strings=False)
    x = (table.vectors * np.float32(size)).astype(np.float32)
    scaled = EmbeddingTable.from_arrays(table.ids, x, entity="item", version="v", comparator="cos")
    connection = opened(export_sqlite(write_version(tmp_path / "v", {"item": scaled}), tmp_path / "v.db"))
    ((text,),) = connection.execute("SELECT space FROM recokit_tables")
    space = SqliteSpace(**json.loads(text))
    wide = x.astype(np.float64)
    norms = np.linalg.norm(wide, axis=1)
    for length in (1e-25, 1.0, 1e20):
        query = wide[3] / norms[3] * length
        cosines = np.divide(wide @ query, norms * length, out=np.zeros(400), where=norms > 0)
        sql = "SELECT id, distance FROM item WHERE vector MATCH ? AND k = 400 ORDER BY distance"
        ids, distances = zip(*connection.execute(sql, (space.query(query),)), strict=True)
        assert ids[0] == 3 - 200
        found = [space.score(query, distance) for distance in distances]
        np.testing.assert_allclose(found, cosines[np.array(ids) + 200], atol=1e-5)
        np.testing.assert_allclose(found, np.sort(cosines)[::-1], atol=1e-5)


def test_of_two_writers_of_a_database_the_slower_is_refused(version, tmp_path):
    pytest.importorskip("apsw")
    target = tmp_path / "v1.db"
    with pytest.raises(VersionError, match="exists already"):
        export_sqlite(version, target, tables=["user"], progress=lambda *_: target.write_bytes(b"another's"))
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [("v1.db", b"another's")]


def test_sqlite_says_what_it_holds(version, tmp_path, opened):
    made = export_sqlite(version, tmp_path / "deep" / "v1.db")
    connection = opened(made)
    assert list(connection.execute("SELECT * FROM recokit_version")) == [
        ("v1", "2026-06-01T04:30:00Z", "v0", '{"until": "2026-05-31"}')
    ]
    sql = "SELECT name, entity, kind, count, dim, ids, comparator, fingerprint, space IS NULL FROM recokit_tables"
    assert {row[0]: row[1:] for row in connection.execute(sql)} == {
        name: (table.entity, table.kind, table.count, 6, table.id_type, table.comparator, table.fingerprint, no_space)
        for name, no_space in (("item", 0), ("user", 0), ("item-pq", 1), ("interests", 1))
        for table in [version.open(name)]
    }
    items, codes = version.table("item"), version.codes("item-pq")
    stored = dict(connection.execute('SELECT id, codes FROM "item-pq"'))
    assert b"".join(stored[key] for key in items.ids.to_pylist()) == codes.codes.tobytes()
    book = connection.execute('SELECT centroid FROM "item-pq.codebook" ORDER BY sub_quantizer, code')
    assert b"".join(row[0] for row in book) == codes.codebook.tobytes()
    rotation = connection.execute('SELECT vector FROM "item-pq.rotation" ORDER BY row')
    assert b"".join(row[0] for row in rotation) == codes.rotation.tobytes()
    of_user = connection.execute("SELECT component, weight, component_id, vector FROM interests WHERE id = 'u1'")
    assert list(of_user) == [
        (0, 0.25, items.ids[1].as_py(), items.vectors[1].tobytes()),
        (1, 0.75, items.ids[3].as_py(), items.vectors[3].tobytes()),
    ]
    raw = connection.execute("SELECT vec_slice(vector, 0, 6) FROM item ORDER BY id")  # lifted behind the sixth
    np.testing.assert_array_equal(np.frombuffer(b"".join(row[0] for row in raw), np.float32), items.vectors.reshape(-1))


def test_a_database_is_whole_or_not_at_all(version, tmp_path):
    pytest.importorskip("apsw")
    made = export_sqlite(version, tmp_path / "v1.db", tables=["user"])
    before = made.read_bytes()
    with pytest.raises(VersionError, match="exists already"):
        export_sqlite(version, made)
    assert made.read_bytes() == before
    clash = {
        name: EmbeddingTable.from_arrays([1], np.ones((1, 2), np.float32), entity="e", version="v")
        for name in ("user", "user_chunks")
    }
    with pytest.raises(ConfigError, match=r"table 'user_chunks' of version 'v' cannot be exported: .*already exists"):
        export_sqlite(write_version(tmp_path / "v", clash), tmp_path / "v.db")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["v", "v1.db"]


def test_queries_that_say_nothing_are_refused():
    with pytest.raises(DataError, match="zeros has no cosine"):
        SqliteSpace("cos", "cosine", 2, 2).query(np.zeros(2))
    for bad in (np.ones(3), np.array([1.0, np.nan])):
        with pytest.raises(DataError, match="expected 2 finite numbers"):
            SqliteSpace("dot", "l2", 2, 3, 1.0).query(bad)


def test_too_wide_a_table_is_refused(tmp_path):
    pytest.importorskip("apsw")
    wide = EmbeddingTable.from_arrays(
        [1, 2], np.eye(2, 8192, dtype=np.float32) * np.float32([[1], [2]]), entity="e", version="v"
    )
    with pytest.raises(ConfigError, match="vectors of 8193 numbers, sqlite-vec takes 8192"):
        export_sqlite(write_version(tmp_path / "v", {"e": wide}), tmp_path / "v.db")


def test_a_missing_extension_says_its_pip_line(version, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sqlite_vec", None)
    pytest.importorskip("apsw")
    with pytest.raises(MissingDependencyError, match=r"pip install 'recokit\[sqlite\]'"):
        export_sqlite(version, tmp_path / "v1.db")


# --- Feast, as far as files go ------------------------------------------------------------------------------------


def test_the_same_vectors_of_other_ids_are_other_contents(tmp_path):
    """A night is written once; what is there already has to be this night, ids and biases included."""
    vectors, bias = np.eye(3, dtype=np.float32), np.ones(3, np.float32)
    made = {}
    for folder, ids, biases, created in (
        ("same", [1, 2, 3], bias, CREATED),
        ("again", [1, 2, 3], bias, CREATED),
        ("ids", [1, 2, 4], bias, CREATED),
        ("bias", [1, 2, 3], 2 * bias, CREATED),
        ("time", [1, 2, 3], bias, CREATED.replace(hour=5)),
    ):
        table = EmbeddingTable.from_arrays(ids, vectors, entity="item", version="v", bias=biases)
        made[folder] = write_version(tmp_path / folder / "v", {"item": table}, created=created)
    path = tmp_path / "repo/data/embeddings/item/v.parquet"
    for folder in ("same", "again"):
        feast._write_table(path, made[folder], made[folder].table("item"), lambda _: None)
    for folder in ("ids", "bias", "time"):
        with pytest.raises(VersionError, match=r"holds other contents"):
            feast._write_table(path, made[folder], made[folder].table("item"), lambda _: None)
    assert pq.read_table(path).column("item_id").to_pylist() == [1, 2, 3]


# --- the command ---------------------------------------------------------------------------------------------------


@pytest.fixture
def command(version, tmp_path, monkeypatch, run_cli):
    point = EntryPoint("export", "recokit.exports.cli:export", "recokit.commands")
    monkeypatch.setattr("recokit.cli.entry_points", lambda group: [point])
    monkeypatch.chdir(tmp_path)
    return lambda *words: run_cli("export", *words)


def test_the_command_writes_parquet(version, command, tmp_path):
    ran = command("parquet", version.path, "out", "--table", "item", "--table", "user", "--layout", "columns", "--json")
    assert (ran.code, ran.err) == (0, "")
    said = json.loads(ran.out)
    assert said.pop("seconds") >= 0
    size = sum(file.stat().st_size for file in (tmp_path / "out").rglob("*.parquet"))
    assert said == {"version": "v1", "output": "out", "tables": ["item", "user"], "bytes": size}
    assert "vector_5" in pq.read_schema("out/tables/item.parquet").names


def test_the_command_writes_sqlite(version, command, tmp_path):
    pytest.importorskip("apsw")
    ran = command("sqlite", version.path, "v1.db")
    assert (ran.code, ran.err) == (0, "")
    assert "export of v1" in ran.out
    assert f"{(tmp_path / 'v1.db').stat().st_size:,}" in ran.out
    again = command("sqlite", version.path, "v1.db")
    assert again.code == 2
    assert "exists already" in again.err
