"""Bodies of requests and answers.

Ids are what the table's ids are: integers or strings, never both.  Fields that are not known are refused, so that a
misspelt one is not silently left out.  The first thing that is wrong ends the check: bodies are checked in the event
loop, and a list of 800,000 wrong ids would take 17 s if each were noted.
"""

__all__ = [
    "CandidatesRequest",
    "Health",
    "ListOfOne",
    "ListsAnswer",
    "NeighborsRequest",
    "Problem",
    "Ready",
    "RelationCard",
    "TableCard",
    "VectorsAnswer",
    "VectorsRequest",
    "VersionCard",
    "Versions",
]

from datetime import datetime
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, StrictFloat, StrictInt, StrictStr, model_validator

from recokit.candidates.allocation import Allocation
from recokit.table import Comparator
from recokit.table.ids import IdType

_FIRST = Field(fail_fast=True)

Name: TypeAlias = Annotated[str, Field(max_length=1000)]  # the nearest to a longer one is dear to find
IdOf: TypeAlias = StrictInt | StrictStr
IdList: TypeAlias = Annotated[list[StrictInt], _FIRST] | Annotated[list[StrictStr], _FIRST]
Asked = Annotated[IdList, Field(min_length=1, description="Integers or strings, as the table's ids are.")]
Vector: TypeAlias = Annotated[list[StrictFloat], _FIRST]  # which takes integers


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _one_unknown_field_is_enough(cls, content: Any) -> Any:
        if not isinstance(content, dict):
            return content
        unknown = [name for name in content if name not in cls.model_fields]
        return {name: value for name, value in content.items() if name in cls.model_fields or name == unknown[0]}


class VectorsRequest(_Body):
    """Whose vectors."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"table": "user", "ids": ["u1", "u2"]}]})

    table: Name = Field(description="A table of vectors, codes or mixtures.")
    ids: Asked


class NeighborsRequest(_Body):
    """What is near some ids of a table, or near some vectors."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"table": "user", "ids": ["u1"], "k": 10},
                {"table": "user", "ids": ["u1", "u2"], "k": 10, "relation": "clicks"},
            ]
        }
    )

    table: Name = Field(description="The table of the ids. Without a relation it is the one that is searched, too.")
    ids: Asked | None = None
    vectors: Annotated[list[Vector], Field(min_length=1, fail_fast=True)] | None = Field(
        None, description="Instead of ids: vectors that this service need not know."
    )
    k: StrictInt = Field(
        10, ge=1, description="Neighbours of each; an id is no neighbour of itself. The default is never above --max-k."
    )
    relation: Name | None = Field(None, description="Follow it: search the table of its targets.")

    @model_validator(mode="after")
    def _one_of_two(self) -> "NeighborsRequest":
        if (self.ids is None) == (self.vectors is None):
            raise ValueError("expected either ids or vectors")
        if self.vectors is not None and len({len(vector) for vector in self.vectors}) > 1:
            raise ValueError("vectors differ in length")
        return self


class CandidatesRequest(_Body):
    """Candidates for some ids; of mixtures, components share each list."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"relation": "clicks", "ids": ["u1"], "k": 100, "exclude": [["u1", 17]]},
                {"table": "interests", "items": "item", "ids": ["u1"], "k": 10, "allocation": "min_one"},
            ]
        }
    )

    table: Name | None = Field(
        None, description="The table or mixture of the ids; else that of the relation's sources."
    )
    relation: Name | None = Field(None, description="Moves the queries, and says what is searched.")
    items: Name | None = Field(
        None, description="The table or mixture to search; else that of the relation's targets, or the ids' own."
    )
    ids: Asked
    k: StrictInt = Field(100, ge=1, description="Candidates of each. The default is never above --max-k.")
    allocation: Allocation = Field("round_robin", description="How the components of a mixture share a list.")
    exclude: Annotated[list[tuple[IdOf, IdOf]], _FIRST] = Field(
        default_factory=list, description="Pairs of query and candidate that are not to be found, such as seen ones."
    )

    @model_validator(mode="after")
    def _queries_like_ids(self) -> "CandidatesRequest":
        # Pairs of other queries are passed over, so these would be, and what was seen would be found.
        if not {type(query) for query, _ in self.exclude} <= {type(self.ids[0])}:
            raise ValueError("of ids and the queries in exclude, some are integers and some are strings")
        return self


class VectorsAnswer(_Body):
    """Vectors in the order of the ids."""

    version: str
    table: str
    known: list[bool] = Field(description="Whether the table has the id.")
    vectors: list[list[float]] | list[list[list[float]]] = Field(
        description="A vector for each id, or, of mixtures, one for each component; zeros where an id is not known."
    )
    weights: list[list[float]] | None = Field(None, description="Of mixtures: a weight for each component.")


class ListOfOne(_Body):
    """The list of one id or vector, best first; empty where the id is not known."""

    query: IdOf | None = Field(description="The id; null where a vector was given.")
    known: bool
    candidates: IdList
    scores: list[float] = Field(description="Higher is better. Of mixtures they need not fall.")
    components: list[int] | None = Field(
        None, description="Of mixtures: the component of the query that each candidate is owed to, from 0."
    )


class ListsAnswer(_Body):
    """Lists in the order of the ids or vectors."""

    version: str
    table: str
    items: str = Field(description="The table that was searched.")
    lists: list[ListOfOne]


class TableCard(_Body):
    """One table of the version."""

    name: str
    entity: str
    kind: Literal["vectors", "codes", "mixture"]
    count: int
    dim: int
    components: int | None = Field(None, description="Of a mixture: vectors of each id.")
    ids: IdType
    comparator: Comparator


class RelationCard(_Body):
    """One relation of the version."""

    name: str
    source: str
    target: str
    operator: str


class VersionCard(_Body):
    """The version that is served."""

    version: str
    created: datetime
    loaded: datetime
    parent: str | None
    following: str = Field(description="The folder, or the store and the name in it, that the service follows.")
    index: str
    tables: list[TableCard]
    relations: list[RelationCard]


class Versions(_Body):
    """What the store holds."""

    version: str | None = Field(description="The one that is served.")
    versions: list[str] = Field(description="All, oldest first.")


class Health(_Body):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Ready(_Body):
    """A version is served."""

    status: Literal["ready"] = "ready"
    version: str
    problem: str | None = Field(None, description="Why a newer version has not taken its place.")


class Problem(_Body):
    """Why there is no answer."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"error": "invalid", "detail": "version '2026-06-01' has no table 'usr'; did you mean 'user'?"}
            ]
        }
    )

    error: str = Field(description="For programs: a word that does not change.")
    detail: str = Field(description="For people.")
