"""A training run: tables, accumulators, edges and samplers on one device, and what one batch does to them.

Relations that differ in nothing but their parameters form a group, whose edges share batches and negatives, so that
thousands of relations cost what ten do.  A group's ends are tables: those of entity types, or of their partitions.
Shapes: B batch, E edges, N entities of a type, D dimension, R relations, P parameters.
"""

__all__ = ["Group", "Run", "components_of", "cut", "edge_weights", "large_empty", "seed_of"]

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from pretrain.config import Relation, Side, TrainConfig
from pretrain.edges import Edges
from pretrain.engine import StepOf, choose_engine
from pretrain.gpu import Kind
from pretrain.graph import Graph
from pretrain.model import Model, reverse_name
from pretrain.movers import Form, forms
from pretrain.native.bindings import large_pages
from pretrain.negatives import KnownPositives, NegativeSampler
from pretrain.operators import start
from pretrain.pooling import of_means
from pretrain.regularisers import Factors, penalty
from pretrain.spectral import Ends, spectral_vectors
from pretrain.step import Batch, Gradients, Sampled, Step
from recokit.errors import ConfigError, DataError
from recokit.table import Operator

_LIGHTEST, _HEAVIEST = 1e-9, 1e9  # weights of an edge whose squared gradients float32 holds


@dataclass(frozen=True, eq=False)
class Group:
    """Relations whose edges share batches."""

    source: str  # tables
    target: str
    operator: Operator
    step: StepOf
    step_of_means: StepOf  # where components are pooled by their mean, as in the first epochs
    sources: Tensor  # (E,) rows
    targets: Tensor  # (E,) rows
    relations: Tensor  # (E,) rows of the operator's block
    reverse: Tensor | None  # (E,) rows of the reciprocal relations
    numbers: Tensor  # (E,) the relation's number in the run, for its share of the loss
    weights: Tensor  # (E,)
    one_relation: bool
    samplers: dict[Side, NegativeSampler]  # by the end that they replace
    known: dict[Side, KnownPositives]
    in_runs: bool  # batches of few relations, because each costs something of its own

    def __len__(self) -> int:
        return len(self.sources)

    def relations_of(self, positions: Tensor) -> Tensor:
        """Rows (B,) of the relations of some edges."""
        return self._spread(self.relations, positions)

    def reverse_of(self, positions: Tensor) -> Tensor | None:
        """Rows (B,) of their reciprocal relations, where there are any."""
        return None if self.reverse is None else self._spread(self.reverse, positions)

    def _spread(self, rows: Tensor, positions: Tensor) -> Tensor:
        return rows[: len(positions)] if self.one_relation else rows.index_select(0, positions)


class Run:
    """State of a training run; ``Run.of`` makes that of a graph.

    Attributes:
        vectors: Table to its vectors (N, D), of mixtures (N, C D); tables are called like entity types, or like their
            partitions.
        vector_state: Table to the optimizer's accumulators, (N,), of mixtures (N, C), or as many as numbers.
        biases: Table to its biases (N,), where there are any.
        bias_state: Table to their accumulators (N,).
        blocks: Operator to the parameters (R, P) of its relations, with ``block_state``.
        rows: Relation, or its reverse, to operator and row of the block.
        groups: Relations and their edges.
        by_means: Whether components are pooled by their mean for now.
        anchors: Table to the vectors (N, D) to stay near, with the penalty (N,) of each row for an occurrence.

    Args:
        relations: Name to ``Relation``.
        config: The settings.
        device: Where everything lies.
        generator: Draws parameters that start at random.

    Raises:
        ConfigError: A dimension does not suit an operator, or relations and settings do not go together.
    """

    def __init__(
        self,
        relations: Mapping[str, Relation],
        config: TrainConfig,
        device: torch.device,
        generator: torch.Generator | None = None,
    ) -> None:
        self.relations, self.config, self.device = relations, config, device
        self.engine = choose_engine(config, device)
        # A seed of its own, so that negatives do not repeat the numbers of the first vectors.
        self.sampler_generator = torch.Generator(device).manual_seed(seed_of(config.seed, 0))
        self.vectors: dict[str, Tensor] = {}
        self.vector_state: dict[str, Tensor] = {}
        self.biases: dict[str, Tensor] = {}
        self.bias_state: dict[str, Tensor] = {}
        self.rows: dict[str, tuple[str, int]] = {}
        self.blocks = self._start_blocks(generator or torch.Generator().manual_seed(config.seed))
        self.block_state = {operator: torch.zeros_like(block) for operator, block in self.blocks.items()}
        self.groups: list[Group] = []
        self.by_means = False
        self.anchors: dict[str, tuple[Tensor, Tensor]] = {}

    @classmethod
    def of(cls, graph: Graph, config: TrainConfig, device: torch.device) -> "Run":
        """Start a run on a graph: its entities' tables at random, its edges as groups.

        Raises:
            ConfigError: See the class, or a relation has no negatives.
            DataError: Edges weigh what float32 cannot train with.
        """
        # Everything is drawn on the CPU first, so that a seed means the same start on every device.
        generator = torch.Generator().manual_seed(config.seed)
        vectors = {
            entity: large_empty(len(ids), config.width(entity)).normal_(generator=generator).mul_(config.init_scale)
            for entity, ids in graph.entities.items()
        }
        run = cls(graph.relations, config, device, generator)
        for entity, drawn in vectors.items():
            run.vectors[entity] = table = drawn.to(device)
            run.vector_state[entity] = torch.zeros(len(table), *config.state_shape(entity), device=device)
            if config.bias:
                run.biases[entity] = torch.zeros(len(table), device=device)
                run.bias_state[entity] = torch.zeros_like(run.biases[entity])
        run.groups = run.make_groups(graph.edges)
        if config.init == "spectral":
            run._start_spectral()
        return run

    # -- how it starts -----------------------------------------------------------------------------------------------

    def _operator(self, relation: Relation) -> Operator:
        return relation.operator or self.config.operator

    def _sides(self, relation: Relation) -> tuple[Side, ...]:
        sides = relation.sides or self.config.sides
        return get_args(Side) if sides == "both" else (sides,)

    def _start_blocks(self, generator: torch.Generator) -> dict[str, Tensor]:
        starts: dict[str, list[Tensor]] = {}
        for name, relation in self.relations.items():
            operator = self._operator(relation)
            if self.config.reciprocal and (relation.operator_side == "target" or "target" not in self._sides(relation)):
                raise ConfigError(
                    f"relation {name!r}: reciprocal relations always move the given end and are asked for targets "
                    f"first: operator_side is {relation.operator_side!r}, sides {relation.sides or self.config.sides!r}"
                )
            names = [name]
            if self.config.reciprocal and "source" in self._sides(relation):
                names.append(reverse_name(name))
            for each in names:
                if each in self.rows:
                    raise ConfigError(f"relation {each!r} has the name of the reciprocal of another: rename it")
                rows = starts.setdefault(operator, [])
                self.rows[each] = operator, len(rows)
                rows.append(start(operator, self.config.dim))
        blocks = {operator: torch.stack(rows) for operator, rows in starts.items()}
        if self.config.relation_init == "random":
            for kind, block in blocks.items():
                drawn = torch.randn(block.shape, generator=generator) * self.config.init_scale
                whole_turns = (torch.rand(block.shape, generator=generator) * 2 - 1) * math.pi
                blocks[kind] = whole_turns if kind == "rotation" else drawn
        return {operator: block.to(self.device) for operator, block in blocks.items()}

    def _grouped(self) -> list[list[str]]:
        """Return the relations of every group."""
        groups: dict[tuple[Any, ...], list[str]] = {}
        for name, relation in self.relations.items():
            key = (
                relation.source,
                relation.target,
                self._operator(relation),
                relation.operator_side,
                self._sides(relation),
                *self._counts(relation),
            )
            groups.setdefault(key, []).append(name)
        return list(groups.values())

    def _forms(self, relation: Relation) -> dict[Side, Form]:
        config, operator = self.config, self._operator(relation)
        side, offsets = relation.operator_side, not config.has_mixtures
        return forms(operator, side, config.comparator, reciprocal=config.reciprocal, offsets=offsets)

    def _counts(self, relation: Relation) -> tuple[Any, ...]:
        return tuple(
            getattr(self.config if getattr(relation, field) is None else relation, field)
            for field in ("uniform_negatives", "prevalence_negatives", "in_batch_negatives")
        )

    def make_groups(
        self, edges: Mapping[str, Edges], tables: Callable[[Relation], tuple[str, str]] | None = None
    ) -> list[Group]:
        """Put relations and their edges together.

        Args:
            edges: Relation to its edges, as rows of their ends' tables.
            tables: A relation to the tables of its source and target, where they are not called like entity types.
        """
        tables = tables or (lambda relation: (relation.source, relation.target))
        return [self._group(names, edges, *tables(self.relations[names[0]])) for names in self._grouped()]

    def _group(self, names: list[str], edges: Mapping[str, Edges], source: str, target: str) -> Group:
        config = self.config
        relation, numbers = self.relations[names[0]], {name: at for at, name in enumerate(self.relations)}
        lengths = [len(edges[name]) for name in names]
        weights = np.concatenate([edge_weights(self.relations[name], edges[name], config) for name in names])
        counted = weights > 0  # an edge of weight 0 is none
        sources = np.concatenate([edges[name].sources for name in names])[counted]
        targets = np.concatenate([edges[name].targets for name in names])[counted]

        def tensor(array: np.ndarray) -> Tensor:
            return torch.from_numpy(array).to(self.device)

        def spread(of_relations: list[int]) -> Tensor:
            return tensor(np.repeat(of_relations, lengths)[counted])

        reverse = None
        if config.reciprocal and "source" in self._sides(relation):
            reverse = spread([self.rows[reverse_name(name)][1] for name in names])
        entering = self._forms(relation)
        kind = Kind(self._operator(relation), relation.operator_side, len(names) == 1, self._sides(relation))
        ends = entering["target"], entering["source"]
        step = self.engine.make_step(*ends, config, kind)
        step_of_means = self.engine.make_step(*ends, of_means(config), kind) if config.has_mixtures else step
        group = Group(
            source=source,
            target=target,
            operator=self._operator(relation),
            step=step,
            step_of_means=step_of_means,
            one_relation=len(names) == 1,
            sources=tensor(sources),
            targets=tensor(targets),
            relations=spread([self.rows[name][1] for name in names]),
            reverse=reverse,
            numbers=spread([numbers[name] for name in names]),
            weights=tensor(weights[counted]),
            samplers={},
            known={},
            in_runs=len(names) > 1
            and (
                self._operator(relation) in ("linear", "affine")
                or any(entering[side].moves == "candidates" for side in self._sides(relation))
            ),
        )
        uniform, prevalence, in_batch = self._counts(relation)
        for side in self._sides(relation):
            rows, table = (targets, target) if side == "target" else (sources, source)
            try:
                group.samplers[side] = NegativeSampler(
                    np.bincount(rows, minlength=len(self.vectors[table])),
                    uniform=uniform,
                    prevalence=prevalence,
                    in_batch=in_batch,
                    power=config.prevalence_power,
                    log_q=config.log_q,
                    device=self.device,
                )
            except ConfigError as error:
                raise ConfigError(f"relation {names[0]!r}: {error}") from error
            if config.filter_positives:
                anchors, answers = group.sources, group.targets
                if side == "source":
                    anchors, answers = answers, anchors
                group.known[side] = KnownPositives(anchors, group.relations, answers, len(self.rows))
        return group

    def weight_of_relations(self) -> np.ndarray:
        """Total weight (R,) of the edges of every relation."""
        total = np.zeros(len(self.relations))
        for group in self.groups:
            weights = group.weights.cpu().numpy().astype(np.float64)
            total += np.bincount(group.numbers.cpu().numpy(), weights, minlength=len(total))
        return total

    def stay_near(self, carried: Mapping[str, np.ndarray], degrees: Mapping[str, np.ndarray]) -> None:
        """Penalise leaving the vectors as they are where ``carried`` (N,): alpha |v - v'|² an entity and epoch.

        ``degrees`` (N,) says how often an entity is the end of an edge of an epoch. The penalty of a row is spread over
        these occurrences, where it is applied (TwHIN 7.2; the sum stands outside the square here). With
        ``alpha_by_degree`` every occurrence has the whole of it.
        """
        for entity, vectors in self.vectors.items():
            alpha = self.config.alpha
            alpha = float(alpha.get(entity, 0.0) if isinstance(alpha, Mapping) else alpha)
            if not alpha:
                continue
            share = np.ones(len(vectors)) if self.config.alpha_by_degree else 1 / np.maximum(degrees[entity], 1)
            penalties = torch.from_numpy((alpha * share * carried[entity]).astype(np.float32))
            self.anchors[entity] = vectors.clone(), penalties.to(self.device)

    def _start_spectral(self) -> None:
        """Start from vectors that know the network; where they say nothing, the random ones stay."""
        found = spectral_vectors(
            {entity: len(vectors) for entity, vectors in self.vectors.items()},
            [
                Ends(group.source, group.target, group.sources.cpu(), group.targets.cpu(), group.weights.cpu())
                for group in self.groups
            ],
            self.config.dim,
            power=self.config.init_power,
            generator=torch.Generator().manual_seed(seed_of(self.config.seed, 0, 0)),
        )
        for entity, vectors in found.items():
            rows = vectors.square().sum(1).nonzero()[:, 0]
            known = vectors[rows]
            # Lengths say how popular an entity is; under a cosine they would only say how fast it learns.
            among = 1 if self.config.comparator == "cos" else (0, 1)
            scaled = known * (self.config.init_scale / known.square().mean(among, keepdim=True).sqrt())
            self.vectors[entity][rows.to(self.device), : vectors.shape[1]] = scaled.to(self.device)

    # -- how it goes on ----------------------------------------------------------------------------------------------

    def batches(self, *numbers: int) -> list[tuple[Group, Tensor]]:
        """Return batches of all edges, a group and positions of its edges, those of all groups in random order.

        They depend on the seed and the numbers (of the epoch) alone, so that a run can go on in the middle of it.
        """
        generator = torch.Generator().manual_seed(seed_of(self.config.seed, *numbers))
        jobs = [
            (group, positions) for group in self.groups for positions in cut(group, self.config.batch_size, generator)
        ]
        return [jobs[at] for at in torch.randperm(len(jobs), generator=generator).tolist()]

    def num_batches(self) -> int:
        """Batches of an epoch."""
        return sum(math.ceil(len(group) / self.config.batch_size) for group in self.groups)

    def step(self, group: Group, positions: Tensor, losses: Tensor, rate: float = 1.0) -> None:
        """Train one batch and add its loss to that of its relations.

        Args:
            group: What ``batches`` gave.
            positions: Its edges (B,).
            losses: Loss (R,) float64 of every relation, added to.
            rate: Of the learning rates.
        """
        self.train(group, positions.to(self.device), losses, rate)

    def train(self, group: Group, positions: Tensor, losses: Tensor, rate: float | Tensor) -> None:
        """Do the same with positions, and maybe a rate (), on the device."""
        sources, targets = group.sources.index_select(0, positions), group.targets.index_select(0, positions)
        relations = group.relations_of(positions)
        ends: dict[Side, tuple[Tensor, Tensor]] = {"target": (sources, targets), "source": (targets, sources)}
        sampled = {side: self._sample(group, side, *ends[side], relations) for side in group.samplers}
        batch = Batch(
            sources,
            targets,
            relations,
            group.weights.index_select(0, positions),
            sampled.get("source"),
            sampled.get("target"),
            group.reverse_of(positions),
            group.one_relation,
        )
        gradients = (group.step_of_means if self.by_means else group.step)(
            self.vectors[group.source],
            self.vectors[group.target],
            self.blocks[group.operator],
            batch,
            source_bias=self.biases.get(group.source),
            target_bias=self.biases.get(group.target),
        )
        self._penalise_ends(group, batch, gradients)
        extra = self._penalise_relations(group, batch, gradients)
        if group.one_relation:  # or, on a GPU, a batch's losses queue up for one number
            losses.index_add_(0, group.numbers[:1], gradients.losses.sum(0, keepdim=True, dtype=losses.dtype))
        else:
            losses.index_add_(0, group.numbers[positions], gradients.losses.to(losses.dtype))
        self._update(group, gradients, extra, rate)

    def waits(self, group: Group) -> bool:
        """Whether a batch of a group makes the host wait for a GPU, so that it cannot be captured."""
        decayed = bool(self.config.l2 or self.config.n3)  # of relations: by distinct ones
        return isinstance(group.step, Step) or decayed or self.config.filter_positives

    def _sample(self, group: Group, side: Side, anchors: Tensor, own: Tensor, relations: Tensor) -> Sampled:
        rows = group.samplers[side].draw(own, self.sampler_generator)
        known = group.known.get(side)
        found = (None, None) if known is None else known.find(anchors, relations, rows)
        return Sampled(rows, group.samplers[side].log_expected(rows, len(own)), *found)

    def _penalise_ends(self, group: Group, batch: Batch, gradients: Gradients) -> None:
        """Add what the vectors of the edges' ends cost to losses and gradients."""
        config, size = self.config, len(batch.sources)
        factors = Factors(config.l2, config.n3, group.operator in ("complex_diagonal", "rotation"))
        for entity, rows, grads in (
            (group.source, batch.sources, gradients.source_grads),
            (group.target, batch.targets, gradients.target_grads),
        ):
            if entity in self.anchors:
                earlier, factor = self.anchors[entity]
                moved = self.vectors[entity][rows] - earlier[rows]
                gradients.losses.add_(factor[rows] * moved.square().sum(1))
                grads[:size] += 2 * factor[rows, None] * moved
            if config.l2 or config.n3:
                self._penalise(self.vectors[entity], rows, batch.weights, (gradients.losses, grads[:size]), factors)

    def _penalise(
        self, table: Tensor, rows: Tensor, weights: Tensor, totals: tuple[Tensor, Tensor], factors: Factors
    ) -> None:
        """Add what the size of the vectors (B, C D) costs: of every component its own."""
        number, (losses, grads) = table.shape[1] // self.config.dim, totals
        each = torch.zeros(len(rows) * number, device=losses.device) if number > 1 else losses
        self.engine.penalise_(
            table.view(-1, self.config.dim),
            components_of(rows, number),
            weights.repeat_interleave(number) if number > 1 else weights,
            (each, grads.view(-1, self.config.dim)),
            factors,
        )
        if number > 1:
            losses += each.view(-1, number).sum(1)

    def _penalise_relations(self, group: Group, batch: Batch, gradients: Gradients) -> list[tuple[Tensor, Tensor]]:
        """Add what the relations' parameters cost to the losses; return rows and gradients (U, P)."""
        config = self.config
        if not (config.l2 or config.n3) or group.operator in ("identity", "rotation"):
            return []  # no parameters, or phases, whose size means nothing
        found = []
        for rows in (batch.relations, batch.reverse):
            if rows is None:
                continue
            unique, which = torch.unique(rows, return_inverse=True)
            weights = batch.weights.new_zeros(len(unique)).index_add_(0, which, batch.weights)
            parameters, paired = self.blocks[group.operator][unique], group.operator == "complex_diagonal"
            ones = torch.ones_like(weights)
            value, grad = penalty(parameters, ones, l2=config.l2, n3=config.n3, complex_numbers=paired)
            gradients.losses.add_(value[which] * batch.weights)
            found.append((unique, grad * weights[:, None]))
        return found

    def _update(
        self, group: Group, gradients: Gradients, extra: list[tuple[Tensor, Tensor]], rate: float | Tensor
    ) -> None:
        config, update_ = self.config, self.engine.update_
        ends = {
            group.source: [(gradients.source_rows, gradients.source_grads, gradients.source_bias_grads)],
            group.target: [(gradients.target_rows, gradients.target_grads, gradients.target_bias_grads)],
        }
        if group.source == group.target:  # one table: both ends count as one gradient
            ends[group.source].insert(0, (gradients.source_rows, gradients.source_grads, gradients.source_bias_grads))
        for entity, parts in ends.items():
            vectors = [(rows, grads) for rows, grads, _ in parts]
            rates = rate * config.learning_rate
            table, state = self.vectors[entity], self.vector_state[entity]
            if (number := table.shape[1] // config.dim) > 1:  # every component is a row of its own
                vectors = [(components_of(rows, number), grads.view(-1, config.dim)) for rows, grads in vectors]
                state = state.view(-1, config.dim) if config.optimizer == "adagrad" else state.view(-1)
                table = table.view(-1, config.dim)
            update_(table, state, vectors, rates, max_norm=config.max_norm)
            if entity in self.biases:
                biases = [(rows, grads[:, None]) for rows, _, grads in parts if grads is not None]
                update_(self.biases[entity][:, None], self.bias_state[entity], biases, rates)
        block, state = self.blocks[group.operator], self.block_state[group.operator]
        if block.shape[1]:
            relations = [(gradients.relation_rows, gradients.relation_grads), *extra]
            rows, grads = (torch.cat(parts) for parts in zip(*relations, strict=True))
            update_(block, state, [(rows, grads)], rate * config.relation_learning_rate)

    def forget_steps(self) -> None:
        """Start the optimizer's state anew, so that steps are long again."""
        for state in (self.vector_state, self.bias_state, self.block_state):
            for tensor in state.values():
                tensor.zero_()

    # -- what it has come to -----------------------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """Return all that training changes, by a name, as it lies in memory."""
        parts = {
            "vectors": self.vectors,
            "vector_state": self.vector_state,
            "biases": self.biases,
            "bias_state": self.bias_state,
            "blocks": self.blocks,
            "block_state": self.block_state,
        }
        return {f"{part}/{name}": tensor for part, named in parts.items() for name, tensor in named.items()}

    def parameters(self, blocks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return relation, or its reverse, to its row of the blocks, or of their state."""
        return {name: blocks[operator][row] for name, (operator, row) in self.rows.items()}

    def model(self, graph: Graph, epochs: Sequence[Mapping[str, Any]], meta: Mapping[str, Any]) -> Model:
        """Put the results together, of a run on this graph; the tensors are the run's own."""
        return Model(
            config=self.config,
            relations=self.relations,
            entities=graph.entities,
            vectors=self.vectors,
            biases=self.biases,
            parameters=self.parameters(self.blocks),
            vector_state=self.vector_state,
            bias_state=self.bias_state,
            parameter_state=self.parameters(self.block_state),
            degrees={entity: graph.degrees(entity, weighing=True) for entity in graph.entities},
            epochs=epochs,
            meta=meta,
        )


def edge_weights(relation: Relation, edges: Edges, config: TrainConfig) -> np.ndarray:
    """Return the weights (E,) of a relation's edges: its own times theirs, times that by degree.

    Raises:
        DataError: They are what float32 cannot train with.
    """
    weights = np.ones(len(edges)) if edges.weights is None else edges.weights.astype(np.float64)
    if config.degree_power and weights.sum() > 0:
        ends = [np.bincount(rows, weights > 0)[rows] for rows in (edges.sources, edges.targets)]
        scaled = weights * np.maximum(ends[0] * ends[1], 1.0) ** -float(config.degree_power)
        weights = scaled * (weights.sum() / scaled.sum())
    weights = weights * relation.weight
    counted = weights[weights > 0]
    if len(counted) and not (counted.min() >= _LIGHTEST and counted.max() <= _HEAVIEST):
        raise DataError(
            f"relation {relation.name!r}: its edges weigh {counted.min():.3g} to {counted.max():.3g}, times its own "
            f"weight; expected {_LIGHTEST:g} to {_HEAVIEST:g}, or 0"
        )
    return weights.astype(np.float32)


def components_of(rows: Tensor, number: int) -> Tensor:
    """Return the rows (B C,) of the components of entities of so many, in a table of components."""
    if number == 1:
        return rows
    return (rows[:, None] * number + torch.arange(number, device=rows.device)).flatten()


def large_empty(*shape: int) -> Tensor:
    """Return memory of float32 that is not written yet, on large pages where the system lends them."""
    tensor = torch.empty(shape)
    large_pages(tensor.data_ptr(), tensor.nbytes)
    return tensor


def cut(group: Group, size: int, generator: torch.Generator) -> list[Tensor]:
    """Cut the shuffled edges (E,) of a group into batches; with ``in_runs`` those of a relation stay together."""
    order = torch.randperm(len(group), generator=generator)
    if group.in_runs and len(group):
        numbers = group.numbers.cpu()
        place = torch.randperm(int(numbers.max()) + 1, generator=generator)
        order = order[place[numbers[order]].argsort(stable=True)]
    batches = [part for part in order.split(size) if len(part)]  # type: ignore[no-untyped-call]
    # The first edges of a batch lend their ends as in-batch negatives: they are not all of one relation.
    return [part[torch.randperm(len(part), generator=generator)] if group.in_runs else part for part in batches]


def seed_of(seed: int, *numbers: int) -> int:
    """Return a seed of its own for all numbers; torch takes it as it is."""
    return int(np.random.SeedSequence([seed, *numbers]).generate_state(1, np.uint64)[0] >> np.uint64(1))
