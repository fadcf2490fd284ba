"""Aliases: names such as ``production`` that move from version to version, by logs that only grow.

    .aliases/<alias>/000001.json
    {"format": "alias-move/1", "version": name or null, "moved": UTC, "by", "back": number or null, "reason"}

The highest number is where the alias is; null is nowhere. Whoever creates the next number has moved it, and only one
can: no mover undoes another's work unseen, and every earlier place stays on record. A move that goes back names the
move that it goes back to, so that the one after it goes further back, and not forth again.
"""

__all__ = ["AliasMove", "alias_history", "alias_names", "current_move", "earlier_moves", "move_alias", "take_back"]

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import EllipsisType
from typing import Any

from recokit.errors import FormatError, VersionError
from recokit.store.places import Place
from recokit.store.records import author, now, numbered, numbers_in, read_record, record_of, time_of, write_record

FORMAT = "alias-move/1"
_FOLDER = ".aliases"
_TRIES = 1000  # movers ahead in the line


@dataclass(frozen=True)
class AliasMove:
    """One move of an alias.

    Attributes:
        number: From 1.
        version: Where to; None where the alias was removed.
        moved: When, in UTC.
        by: User and host.
        back: The number of the move that this one goes back to; None of one that goes on.
        reason: Why, if it was said.
    """

    number: int
    version: str | None
    moved: datetime
    by: str
    back: int | None = None
    reason: str | None = None


def alias_names(place: Place) -> list[str]:
    """Return every alias that there ever was, sorted."""
    return [name for name in place.names(_FOLDER) if not name.startswith(".")]


def current_move(place: Place, alias: str) -> AliasMove | None:
    """Return the last move of an alias, or None where there was none."""
    numbers = _numbers(place, alias)
    return _read(place, alias, numbers[-1]) if numbers else None


def alias_history(place: Place, alias: str) -> list[AliasMove]:
    """Return all moves of an alias, the first one first."""
    paths = {_path(alias, number): number for number in _numbers(place, alias)}
    moves = []
    for path, data in place.read_all(list(paths)).items():
        if isinstance(data, OSError):
            raise data
        moves.append(_move(paths[path], record_of(data, f"{place.url}/{path}", FORMAT), f"{place.url}/{path}"))
    return sorted(moves, key=lambda move: move.number)


def earlier_moves(moves: Sequence[AliasMove]) -> list[AliasMove]:
    """Return the moves that an alias can go back to from where it is, the nearest first.

    What was gone back from is not among them: after moves to 25, 26 and 27 and one back to 26, only 25 is.

    Args:
        moves: All of them, the first one first.
    """
    stacks: dict[int | None, tuple[AliasMove, ...]] = {}  # by number: the moves that led to where it was then
    stack: tuple[AliasMove, ...] = ()
    for move in moves:
        stack = stacks[move.number] = stacks.get(move.back, (*stack, move))
    here = moves[-1].version if moves else None
    return [move for move in reversed(stack) if move.version not in (None, here)]


def move_alias(
    place: Place,
    alias: str,
    version: str | None,
    *,
    expected: str | EllipsisType | None = ...,
    back: int | None = None,
    reason: str | None = None,
) -> AliasMove:
    """Move an alias in one step.

    Args:
        place: The store's.
        alias: Its name.
        version: Where to, or None to remove it.
        expected: Where it has to be before, None for nowhere; anywhere, where it is not given.
        back: The number of the move that it goes back to, if it does.
        reason: Why.

    Raises:
        VersionError: It is not where it was expected, or movers kept coming in between.
    """
    for _ in range(_TRIES):
        last = current_move(place, alias)
        found = None if last is None else last.version
        if not isinstance(expected, EllipsisType) and found != expected:
            raise VersionError(f"alias {alias!r} of {place.url} is at {found or 'no version'}, expected {expected}")
        number = 1 if last is None else last.number + 1
        if _create(place, alias, number, {"version": version, "back": back, "reason": reason}):
            return _read(place, alias, number)
    raise VersionError(f"alias {alias!r} of {place.url} was moved by others {_TRIES} times in between: try again")


def take_back(place: Place, alias: str, move: AliasMove, usable: Callable[[str], bool]) -> None:
    """Move an alias on from a move to where it was before it, or nowhere, unless somebody has moved it on already."""
    before = _read(place, alias, move.number - 1).version if move.number > 1 else None
    back = move.number - 1 if before is not None and usable(before) else None
    fields = {"version": None if back is None else before, "back": back, "reason": None}
    _create(place, alias, move.number + 1, fields)


def _create(place: Place, alias: str, number: int, fields: dict[str, Any]) -> bool:
    try:
        write_record(place, _path(alias, number), FORMAT, {**fields, "moved": now(), "by": author()})
    except FileExistsError:
        return False
    return True


def _numbers(place: Place, alias: str) -> list[int]:
    return numbers_in(place, f"{_FOLDER}/{alias}")


def _path(alias: str, number: int) -> str:
    return numbered(f"{_FOLDER}/{alias}", number)


def _read(place: Place, alias: str, number: int) -> AliasMove:
    path = _path(alias, number)
    where = f"{place.url}/{path}"
    record = read_record(place, path, FORMAT)
    if record is None:
        raise FormatError(f"{where} has gone: moves of aliases are never removed")
    return _move(number, record, where)


def _move(number: int, record: dict[str, Any], where: str) -> AliasMove:
    version = record.get("version")
    if version is not None and not isinstance(version, str):
        raise FormatError(f"{where}: 'version' is {version!r}, expected a name or null")
    back, reason = record.get("back"), record.get("reason")  # a record need not have them
    return AliasMove(
        number,
        version,
        time_of(record, "moved", where),
        str(record.get("by")),
        back if isinstance(back, int) else None,
        None if reason is None else str(reason),
    )
