"""An object store on this machine, and a file system of fsspec that keeps objects in a folder."""

import functools
import logging
import os
import tempfile
import threading
import uuid
from pathlib import Path

from fsspec import register_implementation
from fsspec.implementations.local import LocalFileSystem


class ObjectServer:
    """moto's S3, which looks for an object and writes it in two steps: one request at a time, as S3 decides them."""

    def __init__(self):
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import WSGIRequestHandler, make_server

        class Quiet(WSGIRequestHandler):
            def log(self, *_):
                pass

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        application, lock = DomainDispatcherApplication(create_backend_app), threading.Lock()

        def one_at_a_time(environ, start_response):
            with lock:
                return list(application(environ, start_response))

        self._server = make_server("127.0.0.1", 0, one_at_a_time, threaded=True, request_handler=Quiet)
        self.options = {
            "endpoint_url": f"http://127.0.0.1:{self._server.server_port}",
            "key": "key",
            "secret": "secret",
        }
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def make_bucket(self, name):
        from fsspec import filesystem

        filesystem("s3", **self.options).mkdir(name)


@functools.cache
def shared_server():
    """Return the one server of this process."""
    return ObjectServer()


class FolderOfObjects(LocalFileSystem):
    """Objects in a folder: no rename, and a file appears whole, by a link, where there is none."""

    protocol = "objects"

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(str(path).removeprefix("objects://"))

    def pipe_file(self, path, value, mode="overwrite", **kwargs):
        assert mode == "create"
        target = Path(self._strip_protocol(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.gettempdir()) / f"recokit-object-{uuid.uuid4().hex}"
        aside.write_bytes(value)
        try:
            os.link(aside, target)
        finally:
            aside.unlink()

    def put_file(self, lpath, rpath, mode="overwrite", **kwargs):
        self.pipe_file(rpath, Path(lpath).read_bytes(), mode=mode)


register_implementation("objects", FolderOfObjects, clobber=True)
