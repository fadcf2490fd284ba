"""Pretraining of entity embeddings on heterogeneous information networks.

The flow: a ``Graph`` from interaction logs, ``train`` it to a ``Model``, ``evaluate`` on held-out edges, ``export`` as
an embedding version that ``recokit`` reads.
"""

__all__ = [
    "Evaluation",
    "Graph",
    "Model",
    "PartitionedModel",
    "PreparedGraph",
    "Relation",
    "TrainConfig",
    "component_usage",
    "evaluate",
    "evaluate_partitioned",
    "export",
    "export_partitioned",
    "load_exported",
    "mixture_weights",
    "prepare",
    "train",
    "train_networks",
    "train_partitioned",
]

from recokit.errors import MissingDependencyError

try:
    from pretrain.components import component_usage, mixture_weights
    from pretrain.config import Relation, TrainConfig
    from pretrain.evaluate import Evaluation, evaluate
    from pretrain.export import export, load_exported
    from pretrain.graph import Graph
    from pretrain.model import Model
    from pretrain.networks import train_networks
    from pretrain.partitioned import PartitionedModel, train_partitioned
    from pretrain.partitioned_evaluate import evaluate_partitioned
    from pretrain.partitioned_export import export_partitioned
    from pretrain.preparation import prepare
    from pretrain.prepared import PreparedGraph
    from pretrain.train import train
except ModuleNotFoundError as error:
    if error.name not in ("torch", "duckdb"):
        raise
    raise MissingDependencyError(error.name, extra="pretrain", needed_for="pretrain") from error
