"""Ranks of the true answers of questions among all entities of their type, or among a sample of them.

A rank is 1 plus the rivals that score higher: the candidates that are neither the true answer nor another true one.
The whole block of scores is compared with the true answers' once for each end of a tie, and what the filtered pairs
added is taken off the counts again.  Whatever does not compare, such as a NaN, counts as higher.
Shapes: Q questions, N entities of the asked type, W candidates that are scored, A pairs of a question and a candidate.
"""

__all__ = ["TIE", "Ranker", "Sample", "Scores", "Ties", "count_flags", "rank_of"]

import dataclasses
import re
from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pretrain.comparators import COMPARATORS, Comparator
from pretrain.config import Side, TrainConfig
from pretrain.model import Model, Question
from pretrain.pooling import comparator_of
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

    def draw(self, generator: np.random.Generator, degrees: Rows, most: int) -> Rows:
        """Draw candidates for questions that share them.

        Args:
            generator: Of the random numbers.
            degrees: Training edges (N,) of every entity of the type.
            most: Rows that are no rivals, of the question that has most of them.

        Returns:
            Rows (W,), of which every question takes the first ``count`` that are rivals.
        """
        if self.kind == "prevalence" and not degrees.any():
            raise DataError("evaluate: no entity of the type has a training edge, which prevalence is drawn by")
        chances = None if self.kind == "uniform" else degrees / degrees.sum()
        available = len(degrees) if chances is None else np.count_nonzero(chances)
        drawn: Rows = generator.choice(len(degrees), min(self.count + most, available), replace=False, p=chances)
        return drawn

    def left(self, drawn: Rows, num_entities: int, excluded: Rows, questions: int) -> Rows:
        """Pairs (2, A) of a question and a place in ``drawn`` (W,) that it does not take.

        Args:
            drawn: What ``draw`` gave.
            num_entities: N.
            excluded: Pairs (2, A) of a question and a row that is no rival.
            questions: Q.
        """
        place = np.full(num_entities, -1)
        place[drawn] = np.arange(len(drawn))
        taken = np.ones((questions, len(drawn)), bool)
        among = place[excluded[1]] >= 0
        taken[excluded[0][among], place[excluded[1][among]]] = False
        taken &= taken.cumsum(1) <= self.count
        return np.argwhere(~taken).T


class Ranker:
    """Rank the true answers of questions to a model that does not change meanwhile.

    Args:
        model: Its scores.
        sample: The candidates; None for all.
        ties: Which of the ranks that it could have a tie takes.
    """

    def __init__(self, model: Model, *, sample: Sample | None, ties: Ties) -> None:
        self._model, self._sample, self._ties = model, sample, ties
        self._prepared: dict[str, Tensor] = {}  # what all questions share whose anchors are moved: vectors (N, D)
        self._offsets: dict[str, Tensor] = {}  # and offsets (N,)

    def ranks(self, relation: str, side: Side, questions: Rows, answers: Rows) -> tuple[Tensor, Rows]:
        """Rank the true answers of the questions about one side of a relation.

        Args:
            relation: The relation that is asked about.
            side: The side that is asked for.
            questions: Anchors and true answers (2, Q), rows of the model; with a -1 nothing scores, the rank is the
                last.
            answers: Anchors and true answers (2, A), which are no rivals; one with a -1 says nothing.

        Returns:
            Ranks (Q,) float64 on the model's device, and the number of rivals (Q,) of each.
        """
        ends = self._model.relations[relation]
        asked = ends.target if side == "target" else ends.source
        degrees, scores = self._model.degrees[asked], self._scores(relation, side, asked, questions[0])
        known = _Answers(answers, len(degrees))
        # Numbered by relation and side, so that what else is asked about changes no draw.
        number = 2 * list(self._model.relations).index(relation) + (side == "source")
        found, rivals = [], []
        for part, columns in self._parts(number, known, questions, degrees, scores):
            anchors, true = questions[:, part]
            excluded, width = known.pairs(anchors, true), len(degrees)
            if columns is not None and self._sample is not None:
                width, excluded = len(columns), self._sample.left(columns, len(degrees), excluded, len(true))
            rivals.append(width - np.bincount(excluded[0], minlength=len(true)))
            low, high = scores.thresholds(part, true, (anchors < 0) | (true < 0))
            block, pairs = scores.block(part, columns), torch.from_numpy(excluded).to(scores.device)
            num_rivals = torch.from_numpy(rivals[-1]).to(scores.device)
            not_above, below = count_flags(block <= high, pairs), count_flags(block < low, pairs)
            found.append(rank_of(num_rivals, not_above, below, self._ties))
        return torch.cat(found), np.concatenate(rivals)

    def _scores(self, relation: str, side: Side, asked: str, anchors: Rows) -> "Scores":
        rows = torch.from_numpy(anchors.clip(0))
        question = self._model.question(relation, side, rows, prepared=self._prepared)
        shared = question.candidates is self._prepared.get(asked)
        scores = Scores(self._model.config, question, self._offsets.get(asked) if shared else None)
        if shared and scores.offset is not None:
            self._offsets[asked] = scores.offset
        return scores

    def _parts(
        self, number: int, known: "_Answers", questions: Rows, degrees: Rows, scores: "Scores"
    ) -> Iterator[tuple[slice, Rows | None]]:
        """Cut questions (2, Q) so that scores and pairs fit; with the rows (W,) that are drawn for many of them."""
        budget, total = _CPU_SCORES if scores.device.type == "cpu" else _GPU_SCORES, questions.shape[1]
        sample = self._sample
        shared = total if sample is None else _SHARED
        generator = np.random.default_rng([0 if sample is None else sample.seed, number])
        for first in range(0, total, shared):
            end = min(first + shared, total)
            most = known.most(*questions[:, first:end])
            columns = None if sample is None else sample.draw(generator, degrees, most)
            width = scores.similarities * (len(degrees) if columns is None else len(columns))
            chunk = max(1 if scores.similarities > 1 else _FEWEST, budget // width)
            for start in range(first, end, chunk):
                yield slice(start, min(start + chunk, end)), columns


def count_flags(flags: Tensor, excluded: Tensor) -> Tensor:
    """Count (Q,) the flags (Q, W) that are set, but for those of the pairs (2, A)."""
    questions, columns = excluded
    return flags.sum(1, dtype=torch.int32).index_add_(0, questions, flags[questions, columns].int(), alpha=-1)


def rank_of(rivals: Tensor, not_above: Tensor, below: Tensor, ties: Ties) -> Tensor:
    """Rank (Q,) float64 the true answers: of so many rivals so many score no higher, ties included, and lower."""
    first, last = rivals - not_above, rivals - below
    return 1 + {"optimistic": first, "pessimistic": last, "mean": (first + last) / 2}[ties].double()


class _Answers:
    """Which answers of an anchor are true."""

    def __init__(self, answers: Rows, num_entities: int) -> None:
        anchors, rows = answers[:, (answers >= 0).all(0)]
        self._num = num_entities
        self._keys = np.unique(anchors * num_entities + rows)  # sorted by anchor, then answer

    def _ranges(self, anchors: Rows) -> tuple[Rows, Rows]:
        """Where the answers of anchors (Q,) start, and how many there are."""
        starts, ends = np.searchsorted(self._keys, [anchors * self._num, (anchors + 1) * self._num])
        return starts, ends - starts

    def most(self, anchors: Rows, true: Rows) -> int:
        """How many rows are no rivals, at most, of any of the questions (Q,)."""
        return int(np.maximum(self._ranges(anchors)[1], true >= 0).max(initial=0))

    def pairs(self, anchors: Rows, true: Rows) -> Rows:
        """Pairs (2, A) of a question and a row that is no rival: its true answer, and the other true ones."""
        starts, lengths = self._ranges(anchors)
        questions = np.repeat(np.arange(len(anchors)), lengths)
        within = np.arange(len(questions)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        others = self._keys[np.repeat(starts, lengths) + within] % self._num
        other, own = others != true[questions], np.flatnonzero(true >= 0)
        return np.stack([np.append(own, questions[other]), np.append(true[own], others[other])])


class Scores:
    """Scores of questions as far as ranks need them: -|q - c|² ranks the candidates of a query as q·c - |c|²/2 does.

    Args:
        config: The model's.
        question: Queries (Q, D), candidates (N, D) and their biases.
        offset: What another one found of these candidates, if there is one.
    """

    def __init__(self, config: TrainConfig, question: Question, offset: Tensor | None) -> None:
        comparator = config.comparator
        self._queries, self._candidates, self._bias = question.queries, question.candidates, question.bias
        self._distance = comparator in ("l2", "squared_l2")
        self._root = comparator == "l2" and question.bias is not None  # a square does not rank as it does with a bias
        self._comparator: Comparator = COMPARATORS["l2" if self._root else "dot"]  # cosines are prepared
        self.similarities = 1  # of components that a score is pooled of
        if config.has_mixtures:
            self._comparator = comparator_of(config)
            self.similarities = self._queries.shape[1] * self._candidates.shape[1] // config.dim**2
        self.offset = self._bias if offset is None else offset  # of every candidate (N,); given where it is known
        if offset is None and self._distance and not self._root:
            self.offset = self._candidates.square().sum(1) / -2 + (0 if self._bias is None else self._bias / 2)
        self.device = self._queries.device

    def block(self, part: slice, columns: Rows | None) -> Tensor:
        """Scores (Q, W) of a part of the questions and the candidates of some rows, or all."""
        rows = slice(None) if columns is None else torch.from_numpy(columns).to(self.device)
        scores, _ = self._comparator.block(self._queries[part], self._candidates[rows])
        return scores if self.offset is None else scores.add_(self.offset[rows])

    def thresholds(self, part: slice, true: Rows, unknown: NDArray[np.bool_]) -> tuple[Tensor, Tensor]:
        """What is as good as the true answers lies between these two (Q, 1) each; NaN where one is unknown."""
        rows = torch.from_numpy(true.clip(0)).to(self.device)
        queries, own = self._queries[part], self._candidates[rows]
        scores, _ = self._comparator.pairs(queries, own)
        sizes = queries.norm(dim=1), own.norm(dim=1)
        near = TIE * ((sizes[0] + sizes[1]).square() if self._distance else sizes[0] * sizes[1])
        if self._root:  # of a square to that of its root
            near = near / torch.maximum(-scores, near.sqrt()).clamp_min(torch.finfo(near.dtype).tiny)
        if self.offset is not None:
            scores = scores + self.offset[rows]
        if self._bias is not None:
            near = near + TIE * self._bias[rows].abs()
        scores = scores.masked_fill(torch.from_numpy(unknown).to(self.device), torch.nan)[:, None]
        return scores - near[:, None], scores + near[:, None]
