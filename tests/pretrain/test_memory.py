"""Memory by arithmetic: sizes, the predicted peak, the smallest number of partitions that fits."""

import threading
import time

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pretrain import Graph, Relation, TrainConfig
from pretrain.memory import (
    MOST_PARTITIONS,
    Memory,
    choose_partitions,
    parse_size,
    process_bytes,
    resident_bytes,
    workspace_bytes,
)
from pretrain.run import Run
from recokit.errors import ConfigError

GB = 10**9


@pytest.mark.parametrize(
    ("size", "count"),
    [
        ("4GB", 4 * 10**9),
        ("512MB", 512 * 10**6),
        ("2GiB", 2 * 2**30),
        ("2 gib", 2 * 2**30),
        (" 1.5 TB ", 15 * 10**11),
        ("0.3kB", 300),
        ("1.0001KiB", 1024),
        ("3MiB", 3 * 1024 * 1024),
        ("17", 17),
        ("17B", 17),
        (17, 17),
        ("9007199254740993", 2**53 + 1),
    ],
)
def test_sizes(size, count):
    assert parse_size(size) == count


@pytest.mark.parametrize(
    "size", ["", "GB", "4 G", "4 Gb/s", "-1GB", "1e9", "4,5GB", "0", "0GB", "0.1B", 0, -3, 1.5, None, True]
)
def test_what_is_no_size_is_refused(size):
    with pytest.raises(ConfigError, match=r"a size of memory is .*; expected such as '4GB', '512MB', '2GiB'"):
        parse_size(size)


def test_the_peak_is_two_partitions_and_what_is_read_ahead():
    """1000 users in partitions of ceil(1000 / 7) = 143 rows, 10 items in ceil(10 / 7) = 2."""
    kwargs = {"edges": 5, "workspace": 6, "baseline": 7}
    assert resident_bytes({"user": 1000, "item": 10}, 16, 7, **kwargs) == Memory(3 * (143 + 2) * (16 + 1) * 4, 5, 6, 7)
    assert resident_bytes({"user": 1000}, 16, 7, prefetch=0).tables == 2 * 143 * 17 * 4
    assert resident_bytes({"user": 1000}, 16, 7, prefetch=2, bias=True).tables == 4 * 143 * 19 * 4
    assert resident_bytes({"user": 1000}, 16, 7, optimizer="adagrad").tables == 3 * 143 * 32 * 4
    assert resident_bytes({"user": 1000}, 16, 1).tables == resident_bytes({"user": 1000}, 16, 2).tables == 1000 * 17 * 4
    mixed = resident_bytes({"user": 1000, "item": 10}, 16, {"user": 7, "item": 1})
    assert mixed.tables == (3 * 143 + 10) * 17 * 4
    assert Memory(1, 20, 300, 4000).total == 4321
    assert str(Memory(3 * GB, 2_000_000, 1001, 9)) == (
        "3.01 GB (tables 3.00 GB, edges 2.00 MB, workspace 1.01 kB, baseline 9 B)"
    )


def test_partitions_are_as_few_as_fit():
    """10 million rows of 100 + 1 numbers are 4.04 GB; of 12 partitions three are in memory: 1.01 GB."""
    entities = {"user": 8_000_000, "item": 2_000_000}
    choose = {"dim": 100, "baseline": 0}
    assert choose_partitions("4.04GB", entities, **choose) == 1
    assert choose_partitions(4_040_000_000 - 1, entities, **choose) == 4
    assert choose_partitions("1GB", entities, **choose) == 13
    assert choose_partitions("1.0101GB", entities, **choose) == 12
    assert choose_partitions("1.0101GB", entities, dim=100, baseline=200_000_000) == 15  # 12.12 GB / 0.8101 GB
    assert choose_partitions("1.0101GB", entities, **choose, workspace=200_000_000) == 15
    assert choose_partitions("1.0101GB", entities, **choose, edges=200_000_000) == 15
    # 100 million edges of 12 bytes: two buckets of 1 / P² of them
    assert choose_partitions("1.0101GB", entities, **choose, edges=lambda p: 2 * 12 * 10**8 // p**2) == 13
    assert choose_partitions("1GB", entities, **choose, prefetch=0) == 9  # 8.08 GB / 1 GB
    assert choose_partitions("1.0101GB", entities, **choose, optimizer="adagrad") == 24  # 3 * 8.0 GB / 1.0101 GB
    assert choose_partitions("1GB", entities, **choose, bias=True) == 13  # 3 * 4.12 GB


@given(
    st.dictionaries(st.sampled_from("abc"), st.integers(1, 10**7), min_size=1),
    st.integers(1, 512),
    st.integers(10**5, 10**11),
    st.booleans(),
)
def test_no_fewer_partitions_would_fit(entities, dim, memory, bias):
    try:
        chosen = choose_partitions(memory, entities, dim, bias=bias, baseline=50_000)
    except ConfigError:
        chosen = min(MOST_PARTITIONS, max(entities.values())) + 1
    else:
        assert resident_bytes(entities, dim, chosen, bias=bias, baseline=50_000).total <= memory
    fewer = range(1, chosen)
    assert all(resident_bytes(entities, dim, p, bias=bias, baseline=50_000).total > memory for p in fewer)


def test_too_little_memory_is_told_with_what_would_be_needed():
    """3 * ceil(10^7 / 1024) * 101 * 4 bytes are 11.84 MB, and the process has 100 MB."""
    with pytest.raises(ConfigError) as caught:
        choose_partitions("50MB", {"user": 10**7}, 100, baseline=10**8)
    assert str(caught.value) == (
        "memory is 50.00 MB, but up to 1024 partitions training needs at least 111.84 MB (tables 11.84 MB, edges 0 B, "
        "workspace 0 B, baseline 100.00 MB): give more memory, or take a smaller dim, batch_size or number of negatives"
    )
    assert choose_partitions("111.84MB", {"user": 10**7}, 100, baseline=10**8) <= 1024  # what it asks for is enough
    with pytest.raises(ConfigError, match="up to 3 partitions"):
        choose_partitions(10, {"user": 3}, 100, baseline=0)


def test_what_the_process_holds_already_counts():
    held = process_bytes()
    more = np.ones(50_000_000, np.uint8)
    assert process_bytes() - held == pytest.approx(more.nbytes, rel=0.2)
    entities = {"user": 10**6}
    now = process_bytes()
    assert choose_partitions(now + 41_000_000, entities, 9) in (1, 4)  # 40.0 MB
    assert choose_partitions(now + 20_000_000, entities, 9) in range(5, 9)  # 3 * 40 MB / 20 MB


@pytest.mark.parametrize(
    "settings",
    [
        {"batch_size": 4096, "uniform_negatives": 2048, "dim": 4},
        {"batch_size": 4096, "uniform_negatives": 2048, "dim": 4, "loss": "logistic", "bias": True, "comparator": "l2"},
        {"batch_size": 4096, "uniform_negatives": 2048, "dim": 4, "loss": "ranking", "adversarial": 1.0},
        {"batch_size": 4096, "uniform_negatives": 2048, "dim": 4, "loss": "ranking", "comparator": "squared_l2"},
        {"batch_size": 4096, "uniform_negatives": 16, "dim": 512, "operator": "complex_diagonal", "reciprocal": True},
        {"batch_size": 4096, "uniform_negatives": 16, "dim": 512, "optimizer": "adagrad", "n3": 0.1, "l2": 0.1},
        {"batch_size": 2048, "uniform_negatives": 2048, "dim": 128},
    ],
)
def test_a_step_works_with_what_is_predicted(settings):
    """The peak is watched from another thread."""
    size = settings["batch_size"]
    draw = np.random.default_rng(0)
    frame = pd.DataFrame({"source": draw.integers(3000, size=2 * size), "target": draw.integers(3000, size=2 * size)})
    run = Run.of(
        Graph.from_frames({"r": frame}, [Relation("r", "user", "item")]), TrainConfig(**settings), torch.device("cpu")
    )
    losses, peak, done = torch.zeros(1, dtype=torch.float64), [], threading.Event()

    def watch():
        while not done.is_set():
            peak.append(process_bytes())
            time.sleep(0.0005)

    before = process_bytes()
    watching = threading.Thread(target=watch)
    watching.start()
    for group, positions in run.batches(1):
        run.step(group, positions, losses)
    done.set()
    watching.join()
    predicted = workspace_bytes(size, settings["uniform_negatives"], settings["dim"])
    assert max(peak) - before < predicted + 5_000_000
