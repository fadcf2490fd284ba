"""What several rankers are built of: layers with ReLU, and the check of their sizes."""

__all__ = ["mlp", "plain_sizes", "relu_layers", "zero_linear"]

from collections.abc import Mapping, Sequence
from itertools import pairwise
from operator import index
from typing import Any

from torch import nn

from recokit.errors import ConfigError


def relu_layers(*sizes: int) -> nn.Sequential:
    """Make linear layers of these sizes, the input's first, with ReLU after each."""
    layers = [layer for pair in pairwise(sizes) for layer in (nn.Linear(*pair), nn.ReLU())]
    return nn.Sequential(*layers)


def mlp(*sizes: int) -> nn.Sequential:
    """Make hidden layers with ReLU and a last linear one without: a ranker's bias is its own."""
    return nn.Sequential(relu_layers(*sizes[:-1]), nn.Linear(sizes[-2], sizes[-1], bias=False))


def zero_linear(width: int, outputs: int) -> nn.Linear | None:
    """Make a linear map that starts from zeros and has no bias; None where there is nothing to map."""
    if not width:
        return None
    linear = nn.Linear(width, outputs, bias=False)
    nn.init.zeros_(linear.weight)
    return linear


def plain_sizes(numbers: Mapping[str, int], layers: Mapping[str, Sequence[int]], seed: int) -> dict[str, Any]:
    """Return sizes and seed by their names, as the plain integers that a checkpoint holds (NumPy's are taken, too).

    Args:
        numbers: Sizes, such as ``dim``.
        layers: The sizes of hidden layers, any number of them.
        seed: Of the initial weights.

    Raises:
        ConfigError: One is no integer, or a size is below 1.
    """
    given = ", ".join(f"{name}={value!r}" for name, value in {**numbers, **layers, "seed": seed}.items())
    try:
        plain: dict[str, Any] = {name: index(number) for name, number in numbers.items()}
        lists = {name: [index(size) for size in sizes] for name, sizes in layers.items()}
        plain |= {**lists, "seed": index(seed)}
    except TypeError as error:
        what = f", {' and '.join(layers)} lists of them" if layers else ""
        raise ConfigError(f"{given}: {' and '.join([*numbers, 'seed'])} have to be integers{what}") from error
    sizes = [*(plain[name] for name in numbers), *(size for each in lists.values() for size in each)]
    if min(sizes, default=1) < 1:
        raise ConfigError(f"layers of {given}: every size is at least 1")
    return plain
