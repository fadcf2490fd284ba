"""What a version recommends to some entities, relation by relation: the start of the explorer's lists, as text."""

__all__ = ["Person", "Section", "sample_lists"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recokit.page.formats import number
from recokit.page.lists import Found, Lists

_PEOPLE = 6
_SHOWN = 5


@dataclass(frozen=True)
class Target:
    """An entity in a list: its table, id, name and score; ``share`` of the list's best and worst, for a bar."""

    table: str
    id: str
    name: str
    score: str


@dataclass(frozen=True)
class Person:
    """An entity that something is recommended to: what is known of it, and the list."""

    table: str
    id: str
    name: str
    known: str
    targets: tuple[Target, ...]


@dataclass(frozen=True)
class Section:
    """The lists of a relation."""

    relation: str
    ends: str
    people: tuple[Person, ...]


def sample_lists(lists: Sequence[Lists], names: Mapping[str, Mapping[Any, str]], *, seed: int) -> tuple[Section, ...]:
    """Return what some entities are recommended, for every relation; a table's entities are the same in all of them."""
    tables = {part.name: part for part in lists}
    sections = []
    for part in lists:
        drawn = np.random.default_rng(seed).permutation(len(part.rows))[:_PEOPLE]
        for found in part.found:
            if found.kind == "targets":
                people = [_person(part, found, tables[found.table], int(at), names) for at in np.sort(drawn)]
                ends = f"{part.name} → {found.table}"
                sections.append(Section(str(found.relation), ends, tuple(p for p in people if p.targets)))
    return tuple(section for section in sections if section.people)


def _person(part: Lists, found: Found, other: Lists, at: int, names: Mapping[str, Mapping[Any, str]]) -> Person:
    rows, scores = found.rows[at], found.scores[at]
    kept = np.flatnonzero(rows >= 0)[:_SHOWN]
    ids = other.table.ids_at(rows[kept]).to_pylist()
    theirs = names.get(other.name, {})
    targets = [
        Target(other.name, str(id_), theirs.get(id_, ""), number(float(score), 3))
        for id_, score in zip(ids, scores[kept].tolist(), strict=True)
    ]
    own = part.table.ids_at(part.rows[at : at + 1])[0].as_py()
    known = "" if part.degrees is None else f"{part.degrees[part.rows[at]]:,} training edges"
    return Person(part.name, str(own), names.get(part.name, {}).get(own, ""), known, tuple(targets))
