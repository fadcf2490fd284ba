"""Benchmarks of embeddings: what vectors are good for, beside what needs none (Embeddings@Twitter 2018).

    report = run_probes(open_version("embeddings/2026-06-01"), [
        TopicPrediction("topic", "user", "interests.parquet"),
        MetadataPrediction("age", "user", "users.parquet", column="age", cut="median"),
        SetJaccard("jaccard", "user", "follows_of_june.parquet", known=False),
        LinkPrediction("clicks", "clicks", "clicks_of_june.parquet", exclude="clicks_of_may.parquet"),
        NeighborStability("stability", "user"),
    ])
    print(report)

Each task is measured on the version and on three baselines (random vectors, degree alone, shuffled ids), with paired
differences. Tables of any kind go: vectors, codes, mixtures. A task of your own is a class with ``name`` and
``prepare`` (:mod:`recokit.probes.task`).
"""

__all__ = [
    "Baseline",
    "Bench",
    "LinkPrediction",
    "Measure",
    "MetadataPrediction",
    "NeighborStability",
    "Outcome",
    "SetJaccard",
    "Skipped",
    "Subject",
    "Task",
    "TopicPrediction",
    "read_tasks",
    "run_probes",
    "version_card",
]

from recokit.probes.card import version_card
from recokit.probes.jaccard import SetJaccard
from recokit.probes.link import LinkPrediction
from recokit.probes.prediction import MetadataPrediction, TopicPrediction
from recokit.probes.run import run_probes
from recokit.probes.settings import read_tasks
from recokit.probes.stability import NeighborStability
from recokit.probes.subjects import Baseline
from recokit.probes.task import Bench, Measure, Outcome, Skipped, Subject, Task
