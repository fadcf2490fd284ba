"""Ranks of the true answers of questions among all entities of their type, or among a sample of them.

A rank is 1 plus the rivals that score higher: the candidates that are neither the true answer nor another true one.
The whole block of scores is compared with the true answers' once for each end of a tie, and what the filtered pairs
added is taken off the counts again.  Whatever does not compare, such as a NaN, counts as higher.
Shapes: Q questions, N entities of the asked type, W candidates that are scored, A pairs of a question and a candidate.
"""

__all__ = ["TIE", "Sample", "Ties", "ranks"]

import dataclasses
import functools
import re
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pretrain.comparators import COMPARATORS, Comparator
from pretrain.config import Side
from pretrain.model import Model, Question
from recokit.errors import ConfigError, DataError

Ties = Literal["mean", "pessimistic", "optimistic"]
Rows = NDArray[np.int64]
TIE = 1e-6  # scores closer than this, relative to the vectors' sizes, are equal: products round differently by row
_CPU_SCORES = 1 << 22  # held at a time: 16 MB, what caches hold
_GPU_SCORES = 1 << 28  # 1 GB
_FEWEST = 16  # questions at a time, however many candidates: fewer make slow products
_SHARED = 256  # questions that share a sample


@dataclasses.dataclass(frozen=True)
class Sample:
    """Candidates that are drawn: ``count`` beside the true answer, no entity twice, all where there are fewer.

    Attributes:
        kind: Drawn evenly, or in proportion to the training edges of an entity.
        count: K.
        seed: Of the draw.
    """

    kind: Literal["uniform", "prevalence"]
    count: int
    seed: int

    @classmethod
    def parse(cls, text: str, seed: int) -> "Sample | None":
        """Read ``"uniform:1000"`` or ``"prevalence:1000"``; ``"all"`` is no sample."""
        if text == "all":
            return None
        match = re.fullmatch(r"(uniform|prevalence):([1-9]\d*)", str(text))
        if match is None:
            raise ConfigError(f"evaluate: candidates are 'all', 'uniform:K' or 'prevalence:K', got {text!r}")
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise ConfigError(f"evaluate: seed must be a whole number of at least 0, got {seed!r}")
        return cls("uniform" if match[1] == "uniform" else "prevalence", int(match[2]), seed)

    def __str__(self) -> str:
        return f"{self.count:,} {self.kind}, drawn anew for every {_SHARED} questions, and the true one"

    def draw(self, generator: np.random.Generator, degrees: Rows, excluded: Rows, questions: int) -> tuple[Rows, Rows]:
        """Draw candidates for questions that share them.

        Args:
            generator: Of the random numbers.
            degrees: Training edges (N,) of every entity of the type.
            excluded: Pairs (2, A) of a question and a row that is no rival.
            questions: Q.

        Returns:
            Rows (W,), of which every question takes the first ``count`` that are rivals, and the pairs (2, A) of a
            question and a place among them that it does not take.
        """
        if self.kind == "prevalence" and not degrees.any():
            raise DataError("evaluate: no entity of the type has a training edge, which prevalence is drawn by")
        chances = None if self.kind == "uniform" else degrees / degrees.sum()
        available = len(degrees) if chances is None else np.count_nonzero(chances)
        most = self.count + int(np.bincount(excluded[0]).max(initial=0))
        drawn = generator.choice(len(degrees), min(most, available), replace=False, p=chances)
        place = np.full(len(degrees), -1)
        place[drawn] = np.arange(len(drawn))
        taken = np.ones((questions, len(drawn)), bool)
        among = place[excluded[1]] >= 0
        taken[excluded[0][among], place[excluded[1][among]]] = False
        taken &= taken.cumsum(1) <= self.count
        return drawn, np.argwhere(~taken).T


def ranks(
    model: Model, relation: str, side: Side, questions: Rows, answers: Rows, *, sample: Sample | None, ties: Ties
) -> tuple[Tensor, Rows]:
    """Rank the true answers of the questions about one side of a relation.

    Args:
        model: Its scores.
        relation: The relation that is asked about.
        side: The side that is asked for.
        questions: Anchors and true answers (2, Q), rows of the model; with a -1 nothing scores, the rank is the last.
        answers: Anchors and true answers (2, A), which are no rivals; one with a -1 says nothing.
        sample: The candidates; None for all.
        ties: Which of the ranks that it could have a tie takes.

    Returns:
        Ranks (Q,) float64 on the model's device, and the number of rivals (Q,) of each.
    """
    ends = model.relations[relation]
    degrees = model.degrees[ends.target if side == "target" else ends.source]
    known = _Answers(answers, len(degrees))
    scores = _Scores(model.config.comparator, model.question(relation, side, torch.from_numpy(questions[0].clip(0))))
    budget = _CPU_SCORES if scores.device.type == "cpu" else _GPU_SCORES
    chunk, draw = max(_FEWEST, budget // len(degrees)), None
    if sample is not None:
        # Numbered by relation and side, so that what else is asked about changes no draw.
        number = 2 * list(model.relations).index(relation) + (side == "source")
        chunk, draw = _SHARED, functools.partial(sample.draw, np.random.default_rng([sample.seed, number]), degrees)
    found, rivals = [], []
    for start in range(0, questions.shape[1], chunk):
        part = slice(start, start + chunk)
        anchors, true = questions[:, part]
        columns, excluded = None, known.pairs(anchors, true)
        if draw is not None:
            columns, excluded = draw(excluded, len(true))
        width = len(degrees) if columns is None else len(columns)
        rivals.append(width - np.bincount(excluded[0], minlength=len(true)))
        low, high = scores.thresholds(part, true, (anchors < 0) | (true < 0))
        block, pairs = scores.block(part, columns), torch.from_numpy(excluded).to(scores.device)
        num_rivals = torch.from_numpy(rivals[-1]).to(scores.device)
        first, last = num_rivals - _counts(block <= high, pairs), num_rivals - _counts(block < low, pairs)
        above = {"optimistic": first, "pessimistic": last, "mean": (first + last) / 2}[ties]
        found.append(1 + above.double())
    return torch.cat(found), np.concatenate(rivals)


def _counts(flags: Tensor, excluded: Tensor) -> Tensor:
    """Count (Q,) the flags (Q, W) that are set, but for those of the pairs (2, A)."""
    questions, columns = excluded
    return flags.sum(1, dtype=torch.int32).index_add_(0, questions, flags[questions, columns].int(), alpha=-1)


class _Answers:
    """Which answers of an anchor are true."""

    def __init__(self, answers: Rows, num_entities: int) -> None:
        anchors, rows = answers[:, (answers >= 0).all(0)]
        self._num = num_entities
        self._keys = np.unique(anchors * num_entities + rows)  # sorted by anchor, then answer

    def pairs(self, anchors: Rows, true: Rows) -> Rows:
        """Pairs (2, A) of a question and a row that is no rival: its true answer, and the other true ones."""
        starts, ends = np.searchsorted(self._keys, [anchors * self._num, (anchors + 1) * self._num])
        lengths = ends - starts
        questions = np.repeat(np.arange(len(anchors)), lengths)
        within = np.arange(len(questions)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        others = self._keys[np.repeat(starts, lengths) + within] % self._num
        other, own = others != true[questions], np.flatnonzero(true >= 0)
        return np.stack([np.append(own, questions[other]), np.append(true[own], others[other])])


class _Scores:
    """Scores of questions as far as ranks need them: -|q - c|² ranks the candidates of a query as q·c - |c|²/2 does."""

    def __init__(self, comparator: str, question: Question) -> None:
        self._queries, self._candidates, self._bias = question.queries, question.candidates, question.bias
        self._distance = comparator in ("l2", "squared_l2")
        self._root = comparator == "l2" and question.bias is not None  # a square does not rank as it does with a bias
        self._comparator: Comparator = COMPARATORS["l2" if self._root else "dot"]  # cosines are prepared
        self._offset = self._bias
        if self._distance and not self._root:
            self._offset = self._candidates.square().sum(1) / -2 + (0 if self._bias is None else self._bias / 2)
        self.device = self._queries.device

    def block(self, part: slice, columns: Rows | None) -> Tensor:
        """Scores (Q, W) of a part of the questions and the candidates of some rows, or all."""
        rows = slice(None) if columns is None else torch.from_numpy(columns).to(self.device)
        scores, _ = self._comparator.block(self._queries[part], self._candidates[rows])
        return scores if self._offset is None else scores.add_(self._offset[rows])

    def thresholds(self, part: slice, true: Rows, unknown: NDArray[np.bool_]) -> tuple[Tensor, Tensor]:
        """What is as good as the true answers lies between these two (Q, 1) each; NaN where one is unknown."""
        rows = torch.from_numpy(true.clip(0)).to(self.device)
        queries, own = self._queries[part], self._candidates[rows]
        scores, _ = self._comparator.pairs(queries, own)
        sizes = queries.norm(dim=1), own.norm(dim=1)
        near = TIE * ((sizes[0] + sizes[1]).square() if self._distance else sizes[0] * sizes[1])
        if self._root:  # of a square to that of its root
            near = near / torch.maximum(-scores, near.sqrt()).clamp_min(torch.finfo(near.dtype).tiny)
        if self._offset is not None:
            scores = scores + self._offset[rows]
        if self._bias is not None:
            near = near + TIE * self._bias[rows].abs()
        scores = scores.masked_fill(torch.from_numpy(unknown).to(self.device), torch.nan)[:, None]
        return scores - near[:, None], scores + near[:, None]
