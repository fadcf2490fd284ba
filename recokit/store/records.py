"""Small JSON files of a store: who wrote what when, and whether that process can still be alive."""

__all__ = [
    "Process",
    "author",
    "now",
    "numbered",
    "numbers_in",
    "process_of",
    "read_record",
    "record_of",
    "this_process",
    "time_of",
    "write_record",
]

import getpass
import json
import os
import platform
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from recokit.errors import FormatError
from recokit.store.places import Place

_NUMBERED = re.compile(r"(\d{6,})\.json")


@dataclass(frozen=True)
class Process:
    """A process, so that another one can tell whether it has ended.

    Attributes:
        node: Host, boot and PID namespace; None where the system does not tell, and nothing can be proved.
        pid: Its number there.
        started: When it started, in ticks since the boot: numbers are given again.
    """

    node: str | None
    pid: int
    started: str | None

    def is_dead(self) -> bool:
        """Whether it has ended for certain: it ran on this node, and its number is nobody's or another process's."""
        if self.node is None or self.node != this_process().node:
            return False
        try:
            os.kill(self.pid, 0)  # no signal, only the question
        except ProcessLookupError:
            return True
        except OSError:  # another user's
            pass
        started = _started(self.pid)
        return started is not None and started != self.started


def process_of(record: Mapping[str, Any]) -> Process:
    """Return the process that wrote a record; one that it does not name can be anywhere."""
    node, pid, started = (record.get(key) for key in ("node", "pid", "started"))
    if isinstance(node, str) and isinstance(pid, int) and pid > 0 and isinstance(started, str):
        return Process(node, pid, started)
    return Process(None, 0, None)


def this_process() -> Process:
    """Return the process that asks."""
    return Process(_node(), os.getpid(), _started(os.getpid()))


def author() -> str:
    """Return who is at work: the user and the host."""
    try:
        return f"{getpass.getuser()}@{platform.node()}"
    except (KeyError, OSError):  # a container's user may have no name
        return f"{os.getuid()}@{platform.node()}"


def now() -> str:
    """Return the time as records hold it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def time_of(record: Mapping[str, Any], key: str, where: str) -> datetime:
    """Return a time out of a record."""
    try:
        found = datetime.fromisoformat(record[key])
    except (KeyError, TypeError, ValueError):
        raise FormatError(f"{where}: {key!r} is {record.get(key)!r}, expected an ISO 8601 time") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def write_record(place: Place, path: str, format_name: str, fields: Mapping[str, Any]) -> None:
    """Create a record, which no other writer's equals; a FileExistsError where there is one."""
    content = {"format": format_name, **fields, "token": uuid.uuid4().hex}
    place.create(path, (json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def numbers_in(place: Place, folder: str) -> list[int]:
    """Return the numbers of a folder's numbered records, ascending."""
    return sorted(int(m[1]) for name in place.names(folder) if (m := _NUMBERED.fullmatch(name)))


def numbered(folder: str, number: int) -> str:
    """Return the path of a numbered record."""
    return f"{folder}/{number:06d}.json"


def read_record(place: Place, path: str, format_name: str) -> dict[str, Any] | None:
    """Read a record, or return None where there is none."""
    data = place.read(path)
    return None if data is None else record_of(data, f"{place.url}/{path}", format_name)


def record_of(data: bytes, where: str, format_name: str) -> dict[str, Any]:
    """Return the JSON object in a file's bytes, if it is of a format."""
    try:
        content = json.loads(data)
    except ValueError as error:
        raise FormatError(f"{where} is not JSON: {error}") from error
    found = content.get("format") if isinstance(content, dict) else None
    if found != format_name:
        raise FormatError(f"{where} has the format {found!r}; this release of recokit reads {format_name!r}")
    return dict(content)


@cache
def _node() -> str | None:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{platform.node()} {boot} {os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115, which it is not a path
    except OSError:
        return None


def _started(pid: int) -> str | None:
    """Return the start of a process, "ended" of a zombie, or None where the system does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return "ended" if fields[0] in ("Z", "X") else fields[19]
