"""Link prediction: where does the true end of a held-out edge stand among the entities of its type?

Every held-out edge is a question on each side: given the source and the relation, rank the candidates for the target
(and the other way round).  Candidates are all entities of the type, or a sample of them: a rank among a sample is
better by far and compares with nothing else, so that every result names its protocol.  Ranks are filtered: other true
answers, known or held out, do not count.  A tie takes the mean of the ranks it could have, so that a model that scores
everything alike gains nothing; a score that is not a number takes the last one.
Shapes: Q questions, E edges.
"""

__all__ = ["SIDES", "Evaluation", "check_cuts", "evaluate", "ranks_frame", "said_of_filter"]

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import torch

from pretrain.config import Side, Sides, check_choice
from pretrain.graph import Graph
from pretrain.model import Model
from pretrain.ranks import TIE, Ranker, Rows, Sample, Ties
from recokit.errors import ConfigError, DataError, closest

Unseen = Literal["keep", "drop"]
By = Literal["relation", "side", "degree"]
_PREFIXES: Mapping[By, str] = {"relation": "relation: ", "side": "side: ", "degree": "degree decile "}
SIDES: Mapping[Sides, tuple[Side, ...]] = {"both": ("target", "source"), "target": ("target",), "source": ("source",)}


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """Metrics with the protocol that they were measured under.

    Attributes:
        results: Rows of report/1: name, metric, value, n, group and protocol. The group is None for the mean over all
            questions, ``"macro: mean over 3 relations"``, ``"relation: likes"``, ``"side: target"`` or
            ``"degree decile 3: 12-17 edges"``: questions by the training edges of the entity asked for, equal shares
            as far as equal degrees, which stay together, allow.
        ranks: One row per question: relation, side, query row, true row (-1: not in the model), degree of the true
            entity, candidates (how many were ranked, the true one among them), rank.
    """

    results: tuple[dict[str, Any], ...]
    ranks: pd.DataFrame

    @classmethod
    def of(cls, ranks: pd.DataFrame, *, name: str, k: Sequence[int], protocol: Mapping[str, Any]) -> "Evaluation":
        """Measure ranks, with hits at each ``k``, under a name and a protocol."""
        results = [
            {"name": name, "metric": metric, "value": value, "n": n, "group": group, "protocol": protocol}
            for group, n, metrics in _measured(ranks, k)
            for metric, value in metrics.items()
        ]
        return cls(tuple(results), ranks)

    def value(self, metric: str, relation: str | None = None, *, group: str | None = None) -> float:
        """Return one metric, over all questions, of one relation, or of one group of ``results``."""
        group = group if relation is None else _PREFIXES["relation"] + relation
        for row in self.results:
            if row["metric"] == metric and row["group"] == group:
                return float(row["value"])
        raise ConfigError(f"no metric {metric!r} for {group or 'all questions'!r} was measured")

    def to_frame(self, by: By = "relation") -> pd.DataFrame:
        """Return relations, sides or degree deciles as rows and metrics as columns.

        The first rows are all questions and the mean over relations, where there are several. The index is named
        after the rows, and says so where ranks are among a sample.
        """
        check_choice("to_frame", "by", by, _PREFIXES)
        groups = list(dict.fromkeys(str(row["group"] or "") for row in self.results))
        labels = {group: group.removeprefix(_PREFIXES[by]) for group in groups if group.startswith(_PREFIXES[by])}
        if len(labels) > 1:
            means = {group: "(macro)" for group in groups if group.startswith("macro") and by == "relation"}
            labels = {"": "(all)"} | means | labels
        table: dict[str, dict[str, float]] = {label: {} for label in labels.values()}
        for row in self.results:
            if (group := row["group"] or "") in labels:
                table[labels[group]] |= {row["metric"]: row["value"], "questions": row["n"]}
        if "(macro)" in table:
            table["(macro)"]["questions"] = len(self.ranks)  # n is the number of relations
        metrics = dict.fromkeys(row["metric"] for row in self.results)
        frame = pd.DataFrame.from_dict(table, orient="index", columns=[*metrics, "questions"])
        frame.index.name = by if self._sampled is None else f"{by} (SAMPLED: {self._sampled})"
        return frame.astype({"questions": int})

    @property
    def _sampled(self) -> str | None:
        protocol = self.results[0]["protocol"]
        return protocol["candidates"].partition(", drawn")[0] if "seed" in protocol else None

    def __str__(self) -> str:
        protocol = ", ".join(f"{key}: {value}" for key, value in self.results[0]["protocol"].items())
        caption = "" if self._sampled is None else "SAMPLED, not to be compared with ranks among all entities\n"
        return f"{caption}{self.to_frame().to_string(float_format='{:.4f}'.format)}\n{protocol}"


def evaluate(
    model: Model,
    held_out: Graph,
    *,
    known: Graph | Sequence[Graph] | None = None,
    candidates: str = "all",
    k: Sequence[int] = (1, 3, 10),
    sides: Sides = "both",
    relations: Sequence[str] | None = None,
    unseen: Unseen = "keep",
    ties: Ties = "mean",
    filter: bool = True,
    seed: int = 0,
    name: str = "model",
) -> Evaluation:
    """Rank the true ends of held-out edges among the entities of their type.

    MRR is the mean of 1 / rank, hits@k the share of ranks of at most k, mean_rank the mean, and amri the adjusted mean
    rank index 1 - sum(rank - 1) / sum((candidates - 1) / 2), which is 1 for a perfect model and 0 for random scores
    however many candidates there are (Berrendorf et al. 2020; left out where no question has a choice). They are
    measured over all questions, as the mean over relations, per relation, per side, and per decile of degree.

    Args:
        model: The trained model; ids of ``held_out`` are joined with its own.
        held_out: Edges that the model has not been trained on.
        known: The other edges whose ends are true answers too (training, validation); they are filtered.
        candidates: ``"all"`` entities of the type; or K others beside the true one, no entity twice, shared by up to
            256 questions of a relation and side: ``"uniform:1000"``, or ``"prevalence:1000"``, drawn in proportion to
            training edges. Where there are not K, all are taken once.
        k: Cut-offs of hits@k, whole numbers of at least 1.
        sides: Which ends are asked for.
        relations: Only these; all by default.
        unseen: What to do with edges of which an end has no training edge, or is not in the model at all: keep them,
            or drop them (easier). Without training edges an entity is ranked by the vector that it has; where the
            model cannot score, the true end takes the last rank (and for an unknown query nothing is filtered).
        ties: Which of the ranks that it could have a tie takes: the mean, the last, or the first.
        filter: Leave other true answers aside; ``False`` gives raw ranks.
        seed: Of the sampled candidates.
        name: Names the model in the results.

    Raises:
        ConfigError: An unknown relation or choice, or a value of no use.
        DataError: There is nothing to ask, nothing to draw from, or the model has no entity of a type at all.
    """
    check_choice("evaluate", "sides", sides, get_args(Sides))
    check_choice("evaluate", "unseen", unseen, get_args(Unseen))
    check_choice("evaluate", "ties", ties, get_args(Ties))
    check_cuts(k)
    sample = Sample.parse(candidates, seed)
    graphs = [known] if isinstance(known, Graph) else list(known or ())
    for graph in (held_out, *graphs):
        if not isinstance(graph, Graph):
            raise ConfigError(f"evaluate: held_out and known must be graphs, got {graph!r}")
    ranker = Ranker(model, sample=sample, ties=ties)
    held_rows, *known_rows = (_Rows(model, graph) for graph in (held_out, *graphs))
    chosen = [n for n in held_out.relations if len(held_out.edges[n])] if relations is None else relations
    parts, lacking = [], np.zeros(2, np.int64)
    for relation in dict.fromkeys(chosen):
        if relation not in held_out.relations:
            raise ConfigError(f"evaluate: relation {relation!r} is not held out; {closest(relation, held_out.edges)}")
        edges = held_rows.edges(relation)  # (2, E)
        answers = np.concatenate([edges, *(rows.edges(relation) for rows in known_rows)], axis=1)
        degrees = _degrees(model, relation, edges)
        there, trained = (edges >= 0).all(0), (degrees > 0).all(0)
        lacking += [np.count_nonzero(there & ~trained), np.count_nonzero(~there)]
        kept = trained | (unseen == "keep")
        if kept.any():
            _check_types(model, relation)
        for side in SIDES[sides] if kept.any() else ():
            order = [0, 1] if side == "target" else [1, 0]  # the given end, the asked one
            questions, others = edges[order][:, kept], answers[order] if filter else answers[:, :0]
            rank, rivals = ranker.ranks(relation, side, questions, others)
            parts.append((relation, side, [*questions, degrees[order[1], kept], rivals + 1], rank))
    if not parts:
        raise DataError("evaluate: there is no held-out edge to ask about")
    asked = ranks_frame(parts)
    protocol = {
        "candidates": "all entities of the type" if sample is None else str(sample),
        **({} if sample is None else {"seed": seed}),
        "filter": said_of_filter(len(graphs)) if filter else "none: raw ranks",
        "ties": f"{ties} rank (within {TIE:g} of the vectors' sizes)",
        "sides": sides,
        "split": [dict(entry) for entry in held_out.history if "split" in entry],
        "unseen": "{} ({} edges with an end never trained, {} with one not in the model)".format(unseen, *lacking),
        "questions": len(asked),
    }
    return Evaluation.of(asked, name=name, k=k, protocol=protocol)


def check_cuts(k: Sequence[int]) -> None:
    """Raise a ConfigError unless they are whole numbers of at least 1."""
    cuts = list(k) if isinstance(k, Iterable) else [None]
    if not all(isinstance(cut, int | np.integer) and not isinstance(cut, bool) and cut >= 1 for cut in cuts):
        raise ConfigError(f"evaluate: k must be whole numbers of at least 1, such as (1, 3, 10), got {k!r}")


def _check_types(model: Model, relation: str) -> None:
    ends = model.relations[relation]
    for entity in (ends.source, ends.target):
        if not len(model.entities[entity]):
            raise DataError(f"evaluate: the model has no {entity!r} at all, of which {relation!r} is held out")


class _Rows:
    """A graph's edges as rows of the model, joined by id."""

    def __init__(self, model: Model, graph: Graph) -> None:
        self._model, self._graph = model, graph
        self._joined = {
            entity: model.rows(entity, ids, f"evaluate: ids of {entity!r}")
            for entity, ids in graph.entities.items()
            if entity in model.entities
        }

    def edges(self, relation: str) -> Rows:
        """Sources and targets (2, E) of a relation's edges; -1 is not in the model."""
        ends, edges = self._model.relation(relation), self._graph.edges.get(relation)
        if edges is None:
            return np.empty((2, 0), np.int64)
        here = self._graph.relations[relation]
        if (here.source, here.target) != (ends.source, ends.target):
            raise DataError(
                f"evaluate: {relation!r} goes from {here.source!r} to {here.target!r} in the graph, "
                f"from {ends.source!r} to {ends.target!r} in the model"
            )
        return np.stack([self._joined[ends.source][edges.sources], self._joined[ends.target][edges.targets]])


def ranks_frame(parts: Sequence[tuple[str, str, Sequence[Rows], torch.Tensor]]) -> pd.DataFrame:
    """Join relation, side, columns and ranks of every part to one frame."""
    relations, sides, columns, found = zip(*parts, strict=True)
    sizes = [len(ranks) for ranks in found]
    named = {"relation": np.repeat(relations, sizes), "side": np.repeat(sides, sizes)}
    numbers = map(np.concatenate, zip(*columns, strict=True))
    frame = pd.DataFrame(named | dict(zip(("query", "true", "degree", "candidates"), numbers, strict=True)))
    return frame.assign(rank=torch.cat(found).cpu().numpy())  # a GPU is waited for only here


def _degrees(model: Model, relation: str, edges: Rows) -> Rows:
    """Training edges (2, E) of both ends of edges; 0 of what is not in the model."""
    ends = model.relations[relation]
    tables = (np.append(model.degrees[entity], 0) for entity in (ends.source, ends.target))
    return np.stack([table[rows] for table, rows in zip(tables, edges, strict=True)])  # -1 is the appended one


def said_of_filter(num_known: int) -> str:
    """Say in a protocol whose true answers are left aside."""
    return f"true answers of {num_known} known graph(s) and of the held-out one" if num_known else "held out only"


def _measured(asked: pd.DataFrame, k: Sequence[int]) -> Iterator[tuple[str | None, int, dict[str, float]]]:
    """Name, number and metrics of every group of questions."""
    yield None, len(asked), _metrics(asked, k)
    relations = {str(name): (len(part), _metrics(part, k)) for name, part in asked.groupby("relation", sort=False)}
    macro = pd.DataFrame([metrics for _, metrics in relations.values()]).mean()
    yield f"macro: mean over {len(relations)} relation(s)", len(relations), {str(m): v for m, v in macro.items()}
    for name, (n, metrics) in relations.items():
        yield _PREFIXES["relation"] + name, n, metrics
    for side, part in asked.groupby("side", sort=False):
        yield f"{_PREFIXES['side']}{side}", len(part), _metrics(part, k)
    lower = asked["degree"].rank(method="min") - 1  # questions about entities of fewer edges
    for number, part in asked.groupby((10 * lower // len(asked)).astype(int) + 1):
        low, high = part["degree"].min(), part["degree"].max()
        edges = f"{low:,} edges" if low == high else f"{low:,}-{high:,} edges"
        yield f"{_PREFIXES['degree']}{number}: {edges}", len(part), _metrics(part, k)


def _metrics(asked: pd.DataFrame, k: Sequence[int]) -> dict[str, float]:
    ranks, rivals = asked["rank"].to_numpy(), asked["candidates"].to_numpy() - 1
    metrics = {"mrr": float((1 / ranks).mean()), "mean_rank": float(ranks.mean())}
    if rivals.any():
        metrics["amri"] = float(1 - (ranks - 1).sum() / (rivals / 2).sum())
    return metrics | {f"hits@{cut}": float((ranks <= cut).mean()) for cut in k}
