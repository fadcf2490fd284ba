"""What the service may be told: what to follow, how to search, and how much one request may ask for."""

__all__ = ["IndexKind", "ServeSettings", "check_token", "is_loopback", "read_token"]

import ipaddress
import math
import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal, get_args

from recokit.errors import ConfigError, closest

IndexKind = Literal["exact", "hnsw", "faiss"]

TOKEN_VARIABLE = "RECOKIT_TOKEN"


@dataclass(frozen=True)
class ServeSettings:
    """Settings of the service.

    Attributes:
        alias: The alias to follow in a store; the newest version where neither this nor ``version`` is given.
        version: The one version of a store to serve.
        index: How neighbours are found; ``"hnsw"`` and ``"faiss"`` are built before a version is served.
        index_tables: The tables that get such an index, by name, all others being searched exactly; None for all.
        poll: Seconds between looks at the store.
        max_k: The largest ``k`` of a request.
        max_ids: The most ids, or vectors, of a request.
        max_results: The most candidates of a request, ids times ``k``: a list of a thousand for each of a thousand ids
            would be a hundred MB of JSON.
        max_body: The most bytes of a request's body.
        queue: Requests that may wait; one more is answered 503.
        timeout: Seconds that a request may wait and be worked on, and that its body may take to come.
        threads: Threads that look up and search.
        token: What clients have to show; None lets everybody in.
    """

    alias: str | None = None
    version: str | None = None
    index: IndexKind = "exact"
    index_tables: tuple[str, ...] | None = None
    poll: float = 5.0
    max_k: int = 1000
    max_ids: int = 1000
    max_results: int = 100_000
    max_body: int = 4 << 20
    queue: int = 256
    timeout: float = 10.0
    threads: int = 1
    token: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.index not in get_args(IndexKind):
            raise ConfigError(f"index {self.index!r} does not exist; {closest(str(self.index), get_args(IndexKind))}")
        if self.alias is not None and self.version is not None:
            raise ConfigError(f"alias {self.alias!r} and version {self.version!r}: expected one of them, or neither")
        for each in fields(self):
            value = getattr(self, each.name)
            if each.type is int and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ConfigError(f"{each.name} is {value!r}, expected an integer of at least 1")
            if each.type is float and not (0 < value < math.inf):
                raise ConfigError(f"{each.name} is {value!r}, expected seconds, more than 0")
        if self.token is not None:
            check_token(self.token, "token")


def read_token(file: Path | None) -> str | None:
    """Return the token in a file, or that in the environment, or None where there is neither.

    Raises:
        ConfigError: The file cannot be read, or what it holds is no token.
    """
    if file is None:
        token = os.environ.get(TOKEN_VARIABLE)
        return None if token is None else check_token(token, TOKEN_VARIABLE)
    try:
        return check_token(file.read_text(encoding="utf-8").strip(), str(file))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the token file {file} cannot be read: {error}") from error


def check_token(token: str, where: str) -> str:
    """Return a token that a header can carry; the error does not show it."""
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(f"{where} holds no token: expected printable ASCII characters and no space between them")
    return token


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a socket that is bound to ``host``; a name says nothing but localhost."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
