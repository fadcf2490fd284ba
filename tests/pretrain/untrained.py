"""Models made by hand: small whole numbers for vectors, so that sums are exact and scores tie."""

import torch

from pretrain import Model
from pretrain.model import reverse_name
from recokit.table import num_parameters


def untrained_model(graph, config, *, seed=0):
    """A model of a graph that no training has touched."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randint(-2, 3, shape, generator=generator).float()

    widths = {
        each: num_parameters(relation.operator or config.operator, config.dim)
        for name, relation in graph.relations.items()
        for each in ([name, reverse_name(name)] if config.reciprocal else [name])
    }
    biased = graph.entities if config.bias else {}
    return Model(
        config=config,
        relations=graph.relations,
        entities=graph.entities,
        vectors={name: draw(len(ids), config.dim) for name, ids in graph.entities.items()},
        biases={name: draw(len(ids)) for name, ids in biased.items()},
        parameters={name: draw(width) for name, width in widths.items()},
        vector_state={name: draw(len(ids)).abs() for name, ids in graph.entities.items()},
        bias_state={name: draw(len(ids)).abs() for name, ids in biased.items()},
        parameter_state={name: draw(width).abs() for name, width in widths.items()},
        degrees={name: graph.degrees(name) for name in graph.entities},
        epochs=[{"epoch": 1, "loss": 0.5, "losses": dict.fromkeys(graph.relations, 0.5)}],
        meta={"history": [dict(entry) for entry in graph.history]},
    )
