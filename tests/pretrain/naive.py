"""Training written down a second time: float64, one edge, one negative, one row at a time.

What the tests compare the engine with.  Nothing here is shared with it, and nothing is vectorised.
"""

import math

import numpy as np


def operate(operator, vector, parameters):
    """operator_r(s)."""
    return {"identity": lambda: vector, "translation": lambda: vector + parameters}[operator]()


def compare(comparator, a, b):
    """A score, higher is better."""
    product = sum(float(x) * float(y) for x, y in zip(a, b, strict=True))
    if comparator == "dot":
        return product
    if comparator == "cos":
        lengths = math.sqrt(sum(float(x) ** 2 for x in a)) * math.sqrt(sum(float(y) ** 2 for y in b))
        return product / lengths if lengths > 0 else 0.0
    raise KeyError(comparator)


def log1p_exp(x):
    """log(1 + e^x) without overflow."""
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def edge_loss(loss, positive, negatives):
    """The loss of one positive score and the scores of its negatives that are no accidental positives."""
    if loss == "logistic":
        return log1p_exp(-positive) + sum(log1p_exp(score) for score in negatives)
    if loss == "softmax":
        top = max([positive, *negatives])
        return top + math.log(sum(math.exp(score - top) for score in [positive, *negatives])) - positive
    raise KeyError(loss)


def batch_loss(sources, targets, parameters, batch, *, operator, comparator, loss, temperature):
    """The loss of a batch: per edge, per corrupted side, and the sides added.

    ``batch`` is a dict of lists: sources, targets, weights, negative_sources, negative_targets (row numbers).
    """

    def score(s, t):
        return compare(comparator, operate(operator, sources[s], parameters), targets[t]) / temperature

    total = 0.0
    for s, t, weight in zip(batch["sources"], batch["targets"], batch["weights"], strict=True):
        if batch["negative_targets"]:
            negatives = [score(s, n) for n in batch["negative_targets"] if n != t]
            total += weight * edge_loss(loss, score(s, t), negatives)
        if batch["negative_sources"]:
            negatives = [score(n, t) for n in batch["negative_sources"] if n != s]
            total += weight * edge_loss(loss, score(s, t), negatives)
    return total


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


def filtered_rank(scores, true, others):
    """The mean rank of candidate ``true`` among ``scores`` (candidate to score) without the other true answers."""
    rivals = [score for candidate, score in scores.items() if candidate != true and candidate not in others]
    above = sum(score > scores[true] + 1e-6 * max(1.0, abs(scores[true])) for score in rivals)
    equal = sum(abs(score - scores[true]) <= 1e-6 * max(1.0, abs(scores[true])) for score in rivals)
    return 1 + above + equal / 2
