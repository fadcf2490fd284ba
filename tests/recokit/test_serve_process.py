"""The service as a process of its own: versions switch under load, a signal lets it finish, and who may reach it."""

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing
from importlib.metadata import EntryPoint

import numpy as np
import pytest

from recokit import EmbeddingStore, EmbeddingTable
from recokit.serve.cli import _listening
from recokit.serve.cli import _run as _run_server

ROWS = 3000


def publish(root, number):
    """Publish a version whose vectors are all its number."""
    vectors = np.full((ROWS, 32), number, np.float32)
    table = EmbeddingTable.from_arrays(np.arange(ROWS), vectors, entity="item", version=f"v{number}", comparator="dot")
    return EmbeddingStore(root).publish(f"v{number}", {"item": table})


class Service:
    """A process that serves, and questions to it."""

    def __init__(self, *words):
        command = [sys.executable, "-m", "recokit", "serve", *map(str, words), "--port", "0", "--json"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.port = None

    def connect(self):
        self.port = self.port or int(json.loads(self.process.stdout.readline())["url"].rpartition(":")[2])
        return closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=30))

    def ask(self, path):
        with self.connect() as connection:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()


def post(connection, path, body):
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read()), answer.headers["x-recokit-version"]


@pytest.fixture
def service(tmp_path):
    publish(tmp_path, 1)
    EmbeddingStore(tmp_path).set_alias("production", "v1")
    made = Service(tmp_path, "--alias", "production", "--poll", "50ms", "--index", "exact")
    try:
        _wait(lambda: made.ask("/readyz")[0] == 200)
        yield made
    finally:
        made.process.kill()
        made.process.communicate()


def test_versions_switch_without_a_request_lost_and_a_signal_lets_what_has_begun_finish(service, tmp_path):
    stop, wrong, seen = threading.Event(), [], []

    def hammer(path, body, told):
        try:
            with service.connect() as connection:
                while not stop.is_set():
                    status, content, name = post(connection, path, body)
                    if (status, content["version"], told(content)) != (200, name, name):
                        wrong.append((status, name, content))
                    seen.append(name)
        except (OSError, http.client.HTTPException, KeyError) as error:
            wrong.append(error)

    vectors = ("/v1/vectors", {"table": "item", "ids": [1, 2]}, lambda got: f"v{got['vectors'][0][5]:.0f}")
    # Of equal vectors all scores are the square of the version's number, times their length.
    near = ("/v1/neighbors", {"table": "item", "ids": [7], "k": 3}, lambda got: f"v{_root(got):.0f}")
    threads = [threading.Thread(target=hammer, args=each) for each in (vectors, vectors, near)]
    for thread in threads:
        thread.start()
    store = EmbeddingStore(tmp_path)
    for number in (2, 3):
        publish(tmp_path, number)
        store.set_alias("production", f"v{number}")
        _wait(lambda number=number: f"v{number}" in seen)
    (publish(tmp_path, 4).path / "item" / "vectors.npy").write_bytes(b"not whole")
    store.set_alias("production", "v4")
    _wait(lambda: "v4 cannot be loaded" in service.ask("/readyz")[1])
    store.set_alias("production", "v1")
    _wait(lambda: seen[-1] == "v1")
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    order = [name for name, before in zip(seen, [None, *seen], strict=False) if name != before]
    assert set(order) == {"v1", "v2", "v3"}
    metrics = service.ask("/metrics")[1]
    assert 'recokit_version_info{version="v1"} 1.0' in metrics
    assert metrics.count("\nrecokit_version_info{") == 1
    assert "recokit_loads_total 4.0" in metrics
    assert float(re.search(r"\nrecokit_load_failures_total (\S+)", metrics)[1]) >= 1

    with service.connect() as connection:  # http.client sends everything before it reads
        large = {"table": "item", "ids": [1] * 2_000_000}
        assert post(connection, "/v1/vectors", large)[0] == 413

    # Work that takes a while is under way when the signal comes.
    with service.connect() as connection:
        body = json.dumps({"table": "item", "ids": list(range(1000)), "k": 100})
        connection.request("POST", "/v1/neighbors", body, {"Content-Type": "application/json"})
        _wait(lambda: "recokit_in_flight 2.0" in service.ask("/metrics")[1])
        service.process.send_signal(signal.SIGTERM)
        answer = connection.getresponse()
        assert (answer.status, len(json.loads(answer.read())["lists"])) == (200, 1000)
    _, errors = service.process.communicate(timeout=30)
    assert service.process.returncode == 0
    lines = [json.loads(line) for line in errors.splitlines()]
    assert [line["event"] for line in lines if line["level"] != "info"] == ["load failed"]


def _root(got):
    return (got["lists"][0]["scores"][0] / 32) ** 0.5


def _wait(true):
    for _ in range(3000):
        if true():
            return
        time.sleep(0.01)
    raise AssertionError("it did not happen within 30 s")


@pytest.fixture
def run(run_cli, monkeypatch):
    point = EntryPoint("serve", "recokit.serve.cli:serve", "recokit.commands")
    monkeypatch.setattr("recokit.cli.entry_points", lambda group: [point])
    monkeypatch.setattr("recokit.serve.cli._run", lambda server, bound: None)
    monkeypatch.setattr("recokit.serve.cli._log_as_json", lambda: None)
    monkeypatch.delenv("RECOKIT_TOKEN", raising=False)
    return lambda *words: run_cli("serve", *words)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.0.2.7", "example.org"])
def test_other_machines_need_a_token(run, tmp_path, host):
    ran = run(tmp_path, "--host", host, "--port", "0")
    assert (ran.code, "other machines may reach, and there is no token" in ran.err) == (2, True)


def test_with_a_token_other_machines_may_come(run, tmp_path, monkeypatch):
    file = tmp_path / "token"
    file.write_text("s3cret\n")
    assert run(tmp_path, "--host", "0.0.0.0", "--port", "0", "--token-file", file).code == 0
    monkeypatch.setenv("RECOKIT_TOKEN", "s3cret")
    ran = run(tmp_path, "--host", "0.0.0.0", "--port", "0")
    assert (ran.code, "s3cret" in ran.out + ran.err) == (0, False)
    file.write_text("")
    assert "holds no token" in run(tmp_path, "--token-file", file).err
    assert "cannot be read" in run(tmp_path, "--token-file", tmp_path / "none").err


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1.2.3"])
def test_this_machine_needs_none(run, tmp_path, host):
    ran = run(tmp_path, "--host", host, "--port", "0", "--json")
    assert ran.code == 0
    document = json.loads(ran.out)
    assert document["following"] == f"{tmp_path}@latest"
    assert re.fullmatch(rf"http://{host}:\d+", document["url"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--poll", "soon"], "--poll is 'soon', expected a time such as 5s, 500ms or 2m"),
        (["--poll", "0s"], "poll is 0.0, expected seconds, more than 0"),
        (["--index", "flat"], "index 'flat' does not exist"),
        (["--alias", "a", "--version", "b"], "expected one of them"),
        (["--max-k", "0"], "max_k is 0"),
    ],
)
def test_options_that_cannot_be(run, tmp_path, words, said):
    ran = run(tmp_path, *words)
    assert (ran.code, said in ran.err) == (2, True), ran.err


def test_a_port_that_is_taken_is_said_in_one_line(run, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ran = run(tmp_path, "--port", port)
    assert (ran.code, ran.err.startswith(f"recokit: cannot listen at '127.0.0.1', port {port}")) == (2, True)


def test_an_alias_that_is_not_there_is_refused_at_the_start(run, tmp_path):
    publish(tmp_path, 1)
    EmbeddingStore(tmp_path).set_alias("production", "v1")
    ran = run(tmp_path, "--alias", "prodution")
    assert (ran.code, "did you mean 'production'?" in " ".join(ran.err.split()), ran.out) == (2, True, "")


def test_a_signal_before_the_server_has_begun_ends_it():
    asked, before = [], signal.getsignal(signal.SIGTERM)

    class Server:
        handle_exit = staticmethod(lambda number, frame: asked.append(number))

        def run(self, sockets):
            signal.raise_signal(signal.SIGTERM)

    _run_server(Server(), None)
    assert (asked, signal.getsignal(signal.SIGTERM)) == ([signal.SIGTERM], before)


def test_nothing_is_said_to_be_served_without_a_server(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    ran = run(tmp_path, "--port", "0")
    assert (ran.code, "recokit[serve]" in ran.err, ran.out) == (2, True, "")


def test_answers_do_not_wait_for_the_clients_acknowledgement():
    # asyncio sets TCP_NODELAY only on connections of a socket that says TCP: without it each answer took 44 ms.
    with _listening("127.0.0.1", 0) as bound:
        assert bound.proto == socket.IPPROTO_TCP
