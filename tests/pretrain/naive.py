"""Training written down a second time: float64, one edge, one negative, one row at a time.

What the tests compare the engine with.  Nothing here is shared with it, and nothing is vectorised.
"""

import cmath
import dataclasses
import functools
import math

import numpy as np


def as_complex(vector):
    """Real parts in the first half, imaginary parts in the second, to complex numbers."""
    half = len(vector) // 2
    return [complex(vector[i], vector[half + i]) for i in range(half)]


def as_real(numbers):
    """The way back from ``as_complex``."""
    return [z.real for z in numbers] + [z.imag for z in numbers]


def operate(operator, vector, parameters):
    """operator_r(x)."""
    x, p, dim = [float(v) for v in vector], [float(v) for v in parameters], len(vector)
    if operator == "identity":
        moved = x
    elif operator == "translation":
        moved = [a + b for a, b in zip(x, p, strict=True)]
    elif operator == "diagonal":
        moved = [a * b for a, b in zip(x, p, strict=True)]
    elif operator == "complex_diagonal":
        moved = as_real([a * b for a, b in zip(as_complex(x), as_complex(p), strict=True)])
    elif operator == "rotation":
        moved = as_real([a * cmath.exp(1j * phase) for a, phase in zip(as_complex(x), p, strict=True)])
    elif operator in ("linear", "affine"):
        shift = p[dim * dim :] or [0.0] * dim
        moved = [sum(p[row * dim + d] * x[d] for d in range(dim)) + shift[row] for row in range(dim)]
    else:
        raise KeyError(operator)
    return np.array(moved)


def identity_parameters(operator, dim):
    """The parameters at which an operator changes nothing."""
    eye = [float(row == column) for row in range(dim) for column in range(dim)]
    return np.array(
        {
            "identity": [],
            "translation": [0.0] * dim,
            "diagonal": [1.0] * dim,
            "complex_diagonal": [1.0] * (dim // 2) + [0.0] * (dim // 2),
            "linear": eye,
            "affine": eye + [0.0] * dim,
            "rotation": [0.0] * (dim // 2),
        }[operator]
    )


def compare(comparator, a, b):
    """A score, higher is better."""
    a, b = [float(x) for x in a], [float(y) for y in b]
    product = sum(x * y for x, y in zip(a, b, strict=True))
    if comparator == "dot":
        return product
    if comparator == "cos":
        lengths = math.sqrt(sum(x**2 for x in a)) * math.sqrt(sum(y**2 for y in b))
        return product / lengths if lengths > 0 else 0.0
    square = sum((x - y) ** 2 for x, y in zip(a, b, strict=True))
    return {"l2": -math.sqrt(square), "squared_l2": -square}[comparator]


def log1p_exp(x):
    """log(1 + e^x) without overflow."""
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def softmax(scores):
    """Shares that add up to 1."""
    exponents = [math.exp(score - max(scores)) for score in scores]
    return [exponent / sum(exponents) for exponent in exponents]


def edge_loss(loss, positive, negatives, *, margin=1.0, score_offset=0.0, shares=None):
    """The loss of one positive score and of its negatives that are not masked.

    ``shares`` is the weight of every negative; without them the negatives are summed.
    """
    shares = [1.0] * len(negatives) if shares is None else shares
    if loss == "logistic":
        costs = [log1p_exp(score + score_offset) for score in negatives]
        return log1p_exp(-(positive + score_offset)) + sum(a * b for a, b in zip(shares, costs, strict=True))
    if loss == "ranking":
        costs = [max(0.0, margin - positive + score) for score in negatives]
        return sum(a * b for a, b in zip(shares, costs, strict=True))
    if loss == "softmax":
        top = max([positive, *negatives])
        return top + math.log(sum(math.exp(score - top) for score in [positive, *negatives])) - positive
    raise KeyError(loss)


def parts(vector, number):
    """The components of an entity, whose vectors lie side by side."""
    return list(np.asarray(vector).reshape(number, -1))


def smoothmax(similarities, temperature):
    """Brinkman et al. 2020, Eq. 1."""
    exponents = [math.exp((m - max(similarities)) / temperature) for m in similarities]
    return sum(m * e for m, e in zip(similarities, exponents, strict=True)) / sum(exponents)


def pool(similarities, setting, *, positive):
    """The score of two mixtures from the similarities of all pairs of components; of a positive edge by Eq. 2."""
    theta, pooled = setting.pooling_regularization, max(similarities)
    if setting.pooling == "smoothmax":
        pooled = smoothmax(similarities, setting.pooling_temperature)
    if not positive or len(similarities) == 1:
        return pooled
    average = sum(similarities) / (1 if setting.pooling_form == "printed" else len(similarities))
    return theta * average + (1 - theta) * pooled


@dataclasses.dataclass(frozen=True)
class Setting:
    """What the loss of a batch depends on, beside its numbers."""

    operator: str = "identity"
    comparator: str = "dot"
    loss: str = "softmax"
    operator_side: str = "source"
    reciprocal: bool = False
    temperature: float = 1.0
    margin: float = 1.0
    score_offset: float = 0.0
    negative_reduction: str = "sum"
    adversarial: float = 0.0
    l2: float = 0.0
    n3: float = 0.0
    source_components: int = 1
    target_components: int = 1
    pooling: str = "smoothmax"
    pooling_temperature: float = 0.1
    pooling_regularization: float = 0.1
    pooling_form: str = "normalized"


@dataclasses.dataclass
class Tables:
    """The numbers that are learned: float64 arrays; both ends may be one and the same array."""

    sources: np.ndarray  # (N, D), of mixtures the components side by side (N, C D)
    targets: np.ndarray  # (N, D)
    parameters: np.ndarray  # (R, P)
    reverse: np.ndarray | None = None  # (R, P) of r^-1, under reciprocal scoring
    source_biases: np.ndarray | None = None  # (N,)
    target_biases: np.ndarray | None = None  # (N,)

    def arrays(self):
        """Every array by name, shared ones once."""
        found = {}
        for field in dataclasses.fields(self):
            array = getattr(self, field.name)
            if array is not None and not any(array is other for other in found.values()):
                found[field.name] = array
        return found


@dataclasses.dataclass
class Edges:
    """A batch as lists: edges, the negatives they share, and what is known of the negatives.

    A side without negatives is not corrupted.  ``known`` are positives (source, relation, target), masked where they
    come as negatives; an edge's own end is masked always.  ``log_counts_*`` is the logQ correction of each negative.
    """

    sources: list
    targets: list
    weights: list
    negative_sources: list
    negative_targets: list
    relations: list | None = None  # rows of the parameters; all 0 if not given
    known: frozenset = frozenset()
    log_counts_sources: list | None = None
    log_counts_targets: list | None = None


def scorer(tables, setting):
    """Return score(s, r, t, asked) / temperature; ``asked`` is the side that the question asks for.

    Scores of mixtures are pooled, those of positive edges otherwise than those of negatives.
    """

    @functools.cache
    def still(table, row):
        number = setting.source_components if table == "sources" else setting.target_components
        return parts(getattr(tables, table)[row], number)

    @functools.cache
    def moved(table, row, parameters, relation):
        by = getattr(tables, parameters)[relation]
        return [operate(setting.operator, part, by) for part in still(table, row)]

    @functools.cache
    def score(s, r, t, asked, positive=False):
        if setting.reciprocal:  # the entity that is known is moved, by parameters of the direction
            forward = asked == "target"
            a = moved("sources", s, "parameters", r) if forward else moved("targets", t, "reverse", r)
            b = still("targets", t) if forward else still("sources", s)
        elif setting.operator_side == "source":
            a, b = moved("sources", s, "parameters", r), still("targets", t)
        else:
            a, b = still("sources", s), moved("targets", t, "parameters", r)
        similarities = [compare(setting.comparator, x, y) for x in a for y in b]
        value = pool(similarities, setting, positive=positive)
        if tables.source_biases is not None:
            value += float(tables.source_biases[s]) + float(tables.target_biases[t])
        return value / setting.temperature

    return score


def batch_loss(tables, batch, setting, constants=None):
    """The loss of a batch: per edge, per corrupted side, and the sides added.

    Adversarial weights are no function of the tables: they are put into the dict ``constants`` by the first call and
    taken from there by the next ones.
    """
    score, constants, total = scorer(tables, setting), {} if constants is None else constants, 0.0
    relations = batch.relations or [0] * len(batch.sources)
    for i, (s, r, t, weight) in enumerate(zip(batch.sources, relations, batch.targets, batch.weights, strict=True)):
        for asked, drawn, counts in (
            ("target", batch.negative_targets, batch.log_counts_targets),
            ("source", batch.negative_sources, batch.log_counts_sources),
        ):
            if not drawn:
                continue
            negatives = []
            for j, n in enumerate(drawn):
                triple = (s, r, n) if asked == "target" else (n, r, t)
                if n != (t if asked == "target" else s) and triple not in batch.known:
                    negatives.append(score(*triple, asked) - (counts[j] if counts else 0.0))
            shares = [1.0] * len(negatives)
            if setting.adversarial:
                shares = softmax([setting.adversarial * x for x in negatives]) if negatives else []
                shares = constants.setdefault((i, asked), shares)
            elif setting.negative_reduction == "mean":
                shares = [1 / len(negatives) for _ in negatives]
            total += weight * edge_loss(
                setting.loss, score(s, r, t, asked, positive=True), negatives,
                margin=setting.margin, score_offset=setting.score_offset, shares=shares,
            )  # fmt: skip
        if setting.l2 or setting.n3:
            total += weight * regulariser(tables, setting, s, r, t)
    return total


def regulariser(tables, setting, s, r, t):
    """l2 times the squares plus n3 times the cubes of what a positive edge is made of."""
    numbers = parts(tables.sources[s], setting.source_components) + parts(tables.targets[t], setting.target_components)
    if setting.operator != "rotation":  # phases have no size
        numbers += [tables.parameters[r]] + ([] if tables.reverse is None else [tables.reverse[r]])
    is_complex = setting.operator in ("complex_diagonal", "rotation")
    moduli = [abs(z) for v in numbers for z in (as_complex(v) if is_complex else v.tolist())]
    return setting.l2 * sum(m**2 for m in moduli) + setting.n3 * sum(m**3 for m in moduli)


def slopes(function, array, step=1e-6):
    """Central finite differences of ``function()`` by every entry of ``array``, which is put back."""
    grad = np.zeros_like(array)
    for at in np.ndindex(array.shape):
        kept = array[at]
        array[at] = kept + step
        above = function()
        array[at] = kept - step
        below = function()
        array[at] = kept
        grad[at] = (above - below) / (2 * step)
    return grad


def expected_counts(degrees, uniform, prevalence, power=1.0):
    """How often every entity is expected among the negatives drawn at random."""
    weights = [float(degree) ** power if degree else 0.0 for degree in degrees]
    popular = [prevalence * weight / sum(weights) if prevalence else 0.0 for weight in weights]
    return [uniform / len(degrees) + share for share in popular]


def degree_weights(sources, targets, weights, power):
    """Edge weights times (d_s d_t)^-power, rescaled to the total that they had; d counts edges."""
    damped = [
        weight * (sources.count(s) * targets.count(t)) ** -power
        for s, t, weight in zip(sources, targets, weights, strict=True)
    ]
    return [weight * sum(weights) / sum(damped) for weight in damped]


def rate(step, total, *, schedule="constant", warmup=0.0):
    """The share of the learning rates that step number ``step`` (from 0) of ``total`` gets."""
    rising = warmup * total
    if step < rising:
        return (step + 1) / (rising + 1)
    gone = (step - rising) / (total - rising)
    return {"constant": 1.0, "linear": 1 - gone, "cosine": (1 + math.cos(math.pi * gone)) / 2}[schedule]


def row_adagrad(table, state, grad, touched, learning_rate):
    """One update in place of the rows ``touched`` from their summed gradients."""
    for row in touched:
        state[row] += sum(g * g for g in grad[row]) / len(grad[row])
        for d in range(table.shape[1]):
            table[row, d] -= learning_rate * grad[row, d] / (math.sqrt(state[row]) + 1e-10)


def adagrad(parameters, state, grad, learning_rate):
    """One element-wise update in place."""
    for d in range(len(parameters)):
        state[d] += grad[d] ** 2
        parameters[d] -= learning_rate * grad[d] / (math.sqrt(state[d]) + 1e-10)


def shorten(table, touched, max_norm):
    """Scale the rows ``touched`` that are longer than ``max_norm`` back to it, in place."""
    for row in touched:
        norm = math.sqrt(sum(x * x for x in table[row]))
        if norm > max_norm:
            table[row] *= max_norm / norm


def filtered_rank(scores, true, others):
    """The mean rank of candidate ``true`` among ``scores`` (candidate to score) without the other true answers."""
    rivals = [score for candidate, score in scores.items() if candidate != true and candidate not in others]
    above = sum(score > scores[true] + 1e-6 * max(1.0, abs(scores[true])) for score in rivals)
    equal = sum(abs(score - scores[true]) <= 1e-6 * max(1.0, abs(scores[true])) for score in rivals)
    return 1 + above + equal / 2
