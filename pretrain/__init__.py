"""Pretraining of entity embeddings on heterogeneous information networks.

The flow: a ``Graph`` from interaction logs, ``train`` it to a ``Model``, ``evaluate`` on held-out edges, ``export`` as
an embedding version that ``recokit`` reads.
"""

__all__ = ["Evaluation", "Graph", "Model", "Relation", "TrainConfig", "evaluate", "export", "train"]

from pretrain.config import Relation, TrainConfig
from pretrain.evaluate import Evaluation, evaluate
from pretrain.export import export
from pretrain.graph import Graph
from pretrain.model import Model
from pretrain.train import train
