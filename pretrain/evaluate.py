"""Link prediction: where does the true end of a held-out edge stand among all entities of its type?

Every held-out edge is a question on each side: given the source and the relation, rank all entities of the target's
type (and the other way round).  Ranks are filtered: other true answers, known or held out, do not count.  A tie takes
the mean of the ranks it could have, so that a model that scores everything alike gains nothing.
Shapes: Q questions, N candidates.
"""

__all__ = ["Evaluation", "evaluate"]

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from pretrain.comparators import COMPARATORS
from pretrain.config import Sides, check_choice
from pretrain.graph import Graph
from pretrain.model import Model
from recokit.errors import ConfigError, DataError, closest

Unseen = Literal["keep", "drop"]
_TIE = 1e-6  # scores closer than this, relative to the vectors' norms, are equal: products round differently by row
_CHUNK_SCORES = 1 << 24  # scores held at a time: 64 MB


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """Metrics with the protocol that they were measured under.

    Attributes:
        results: Rows of report/1: name, metric, value, n, group (the relation; None is the mean over all questions)
            and protocol.
        ranks: One row per question: relation, side, query row, true row, rank.
    """

    results: tuple[dict[str, Any], ...]
    ranks: pd.DataFrame

    def value(self, metric: str, relation: str | None = None) -> float:
        """Return one metric, over all questions or of one relation."""
        for row in self.results:
            if row["metric"] == metric and row["group"] == relation:
                return float(row["value"])
        raise ConfigError(f"no metric {metric!r} for relation {relation!r} was measured")

    def to_frame(self) -> pd.DataFrame:
        """Return relations as rows and metrics as columns; the first row is all of them, where there are several."""
        frame = pd.DataFrame(self.results)
        if frame["group"].nunique() == 1:
            frame = frame[frame["group"].notna()]
        frame["group"] = frame["group"].fillna("(all)")
        wide = frame.pivot_table(index="group", columns="metric", values="value", sort=False)
        return wide.assign(questions=frame.groupby("group", sort=False)["n"].first())

    def __str__(self) -> str:
        protocol = ", ".join(f"{key}: {value}" for key, value in self.results[0]["protocol"].items())
        return f"{self.to_frame().to_string(float_format='{:.4f}'.format)}\n{protocol}"


def evaluate(
    model: Model,
    held_out: Graph,
    *,
    known: Graph | Sequence[Graph] | None = None,
    k: Sequence[int] = (1, 3, 10),
    sides: Sides = "both",
    relations: Sequence[str] | None = None,
    unseen: Unseen = "keep",
    name: str = "model",
) -> Evaluation:
    """Rank the true ends of held-out edges among all entities of their type.

    MRR is the mean of 1 / rank, hits@k the share of ranks of at most k, the mean rank the mean; over all questions,
    and per relation.

    Args:
        model: The trained model; ids of ``held_out`` are joined with its own.
        held_out: Edges that the model has not been trained on.
        known: The other edges whose ends are true answers too (training, validation); they are filtered.
        k: Cut-offs of hits@k.
        sides: Which ends are asked for.
        relations: Only these; all by default.
        unseen: What to do with edges of which an end has no training edge: keep them, or drop them (easier).
        name: Names the model in the results.

    Raises:
        ConfigError: An unknown relation or choice.
        DataError: There is nothing to ask, or the model does not know an entity.
    """
    check_choice("evaluate", "sides", sides, get_args(Sides))
    check_choice("evaluate", "unseen", unseen, get_args(Unseen))
    graphs = [known] if isinstance(known, Graph) else list(known or ())
    chosen = list(relations) if relations is not None else [n for n in held_out.relations if len(held_out.edges[n])]
    parts = []
    dropped = 0
    for relation in chosen:
        if relation not in held_out.relations:
            raise ConfigError(f"evaluate: relation {relation!r} is not held out; {closest(relation, held_out.edges)}")
        questions = _rows(model, held_out, relation)  # (2, Q)
        seen = _seen(model, relation, questions)
        if unseen == "drop":
            dropped += int((~seen).sum())
            questions = questions[:, seen]
        answers = np.concatenate([_rows(model, graph, relation) for graph in (*graphs, held_out)], axis=1)
        for side in ("target", "source"):
            if sides in ("both", side):
                ranks = _ranks(model, relation, questions, answers, side)
                anchor, true = questions if side == "target" else questions[::-1]
                parts.append(
                    pd.DataFrame({"relation": relation, "side": side, "query": anchor, "true": true, "rank": ranks})
                )
    asked = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    if not len(asked):
        raise DataError("evaluate: there is no held-out edge to ask about")
    protocol = {
        "candidates": "all entities of the type",
        "filter": f"true answers of {len(graphs)} known graph(s) and of the held-out one"
        if graphs
        else "held out only",
        "ties": f"mean rank (within {_TIE:g} of the norms' product)",
        "sides": sides,
        "split": [dict(entry) for entry in held_out.history if "split" in entry],
        "unseen": f"{unseen} ({dropped} edges dropped)" if unseen == "drop" else unseen,
    }
    groups: list[tuple[str | None, pd.DataFrame]] = [(None, asked)]
    groups += [(str(relation), part) for relation, part in asked.groupby("relation", sort=False)]
    results = [
        {"name": name, "metric": metric, "value": value, "n": len(part), "group": group, "protocol": protocol}
        for group, part in groups
        for metric, value in _metrics(part["rank"].to_numpy(), k).items()
    ]
    return Evaluation(tuple(results), asked)


def _metrics(ranks: NDArray[np.float64], k: Sequence[int]) -> Mapping[str, float]:
    metrics = {"mrr": float((1 / ranks).mean()), "mean_rank": float(ranks.mean())}
    return metrics | {f"hits@{cut}": float((ranks <= cut).mean()) for cut in k}


def _rows(model: Model, graph: Graph, relation: str) -> NDArray[np.int64]:
    """Return the edges of a graph's relation as rows (2, E) of the model's tables."""
    ends, edges = model.relation(relation), graph.edges.get(relation)
    if edges is None:
        return np.empty((2, 0), np.int64)
    return np.stack(
        [
            _joined(model, graph, entity, rows, relation)
            for entity, rows in ((ends.source, edges.sources), (ends.target, edges.targets))
        ]
    )


def _joined(model: Model, graph: Graph, entity: str, rows: NDArray[np.int64], relation: str) -> NDArray[np.int64]:
    """Turn a graph's rows (E,) of an entity type into the model's, by id."""
    ids = graph.entities[entity]
    if ids is model.entities[entity] or ids.equals(model.entities[entity]):
        return rows
    joined = model.rows(entity, ids)[rows]
    if (joined < 0).any():
        raise DataError(f"evaluate: {int((joined < 0).sum())} ends of {relation!r} are no {entity!r} of the model")
    return joined


def _seen(model: Model, relation: str, questions: NDArray[np.int64]) -> NDArray[np.bool_]:
    ends = model.relations[relation]
    seen = (model.degrees[ends.source][questions[0]] > 0) & (model.degrees[ends.target][questions[1]] > 0)
    return np.asarray(seen)


def _ranks(
    model: Model, relation: str, questions: NDArray[np.int64], answers: NDArray[np.int64], side: str
) -> NDArray[np.float64]:
    """Filtered mean ranks (Q,) of the true end on one side."""
    anchors, candidates = model.prepared(relation)
    if side == "source":
        anchors, candidates, questions, answers = candidates, anchors, questions[::-1], answers[::-1]
    answers = np.unique(answers, axis=1)  # sorted by anchor, then candidate
    first = np.searchsorted(answers[0], np.arange(len(anchors) + 1))
    chunk = max(1, _CHUNK_SCORES // max(1, len(candidates)))
    parts = []
    for start in range(0, questions.shape[1], chunk):
        asked, true = np.ascontiguousarray(questions[:, start : start + chunk])
        lengths = first[asked + 1] - first[asked]
        which = np.repeat(np.arange(len(asked)), lengths)
        offset = np.arange(len(which)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        others = answers[1][np.repeat(first[asked], lengths) + offset]
        queries, own = anchors[torch.from_numpy(asked)], candidates[torch.from_numpy(true)]
        block = COMPARATORS[model.config.comparator].block(queries, candidates)
        known = torch.from_numpy(np.stack([which, others]))
        near = _TIE * queries.norm(dim=1) * own.norm(dim=1)
        parts.append(_chunk_ranks(block, torch.from_numpy(true), known, near))
    return np.concatenate(parts) if parts else np.empty(0)


def _chunk_ranks(scores: Tensor, true: Tensor, answers: Tensor, near: Tensor) -> NDArray[np.float64]:
    """Mean ranks (Q,) of the ``true`` columns in scores (Q, N), other ``answers`` (2, A) aside; ``near`` is a tie."""
    true, answers = true.to(scores.device), answers.to(scores.device)
    own = scores.gather(1, true[:, None])  # (Q, 1)
    scores[answers[0], answers[1]] = -torch.inf  # the true one too: it is counted by hand
    above = (scores > own + near[:, None]).sum(1)
    equal = ((scores - own).abs() <= near[:, None]).sum(1)
    return (1 + above + equal / 2).double().cpu().numpy()
