"""The order of buckets: each once, neighbours share a partition, no more loads than there have to be."""

import random
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.buckets import bucket_order
from recokit.errors import ConfigError

PARTITIONS = [1, 2, 3, 4, 5, 6, 7, 8, 13, 16, 31, 32]


def loads(resident, before=frozenset()):
    """Partitions read while the sets of resident ones follow each other, and the last of these sets."""
    count = 0
    for now in resident:
        count, before = count + len(set(now) - set(before)), now
    return count


def stays_of(order):
    return [stay.partitions for stay in order]


@given(st.integers(1, 24), st.integers(0, 2**63 - 1), st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_every_bucket_comes_once_while_its_partitions_are_there(partitions, seed, epoch):
    order = bucket_order(partitions, seed, epoch)
    buckets = [bucket for stay in order for bucket in stay.buckets]
    assert sorted(buckets) == [(i, j) for i in range(partitions) for j in range(partitions)]
    assert all(set(bucket) <= set(stay.partitions) for stay in order for bucket in stay.buckets)


@given(st.integers(2, 24), st.integers(0, 2**63 - 1), st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_every_pair_comes_once_and_neighbours_share_one_partition(partitions, seed, epoch):
    pairs = stays_of(bucket_order(partitions, seed, epoch))
    assert len(pairs) == len({frozenset(pair) for pair in pairs}) == partitions * (partitions - 1) // 2
    assert all(len({*one, *other}) == 3 for one, other in pairwise(pairs))
    assert all(other[0] in one for one, other in pairwise(pairs))  # the earlier one first


@pytest.mark.parametrize("partitions", PARTITIONS)
def test_epochs_load_one_partition_a_stay_and_the_next_epoch_goes_on_where_the_last_ended(partitions):
    pairs = partitions * (partitions - 1) // 2
    first = bucket_order(partitions, seed=3, epoch=1)
    assert loads(stays_of(first)) == (pairs + 1 if partitions > 1 else 1)
    five = [stay for epoch in range(1, 6) for stay in stays_of(bucket_order(partitions, 3, epoch))]
    assert loads(five) == (5 * pairs + 1 if partitions > 2 else partitions)
    if partitions > 2:
        assert all(set(one) != set(other) for one, other in pairwise(five))


@pytest.mark.parametrize("partitions", [4, 8, 16, 32])
def test_big_graphs_order_loads_more(partitions):
    """PyTorch-BigGraph's inside-out order: in layers, those of the highest partition first, shuffled within.

    Layer k holds the buckets whose smaller partition is k, transposed ones beside each other. Within a layer k stays
    and every other partition is one load, but a new layer shares a partition with the last one only by chance, and
    most layers begin with two loads. Loads of an epoch, the mean of 50 orders:

    ==========  ====  =====  ======  ======
    P              4      8      16      32
    ==========  ====  =====  ======  ======
    inside-out  8.56  33.42  132.18  522.96
    here           7     29     121     497
    ==========  ====  =====  ======  ======
    """
    draw, counts = random.Random(0), []
    for _ in range(50):
        order = []
        for layer in reversed(range(partitions)):
            pairs = [[(layer, layer)]] + [[(i, layer), (layer, i)] for i in range(layer + 1, partitions)]
            draw.shuffle(pairs)
            order += [bucket for pair in pairs for bucket in draw.sample(pair, len(pair))]
        assert len(set(order)) == partitions**2
        counts.append(loads(order))
    assert sum(counts) / 50 == pytest.approx({4: 8.56, 8: 33.42, 16: 132.18, 32: 522.96}[partitions])
    here = loads(stays_of(bucket_order(partitions, seed=0, epoch=1)))
    assert here == {4: 7, 8: 29, 16: 121, 32: 497}[partitions] <= min(counts)


@pytest.mark.parametrize("partitions", PARTITIONS[2:])
def test_own_buckets_are_spread_one_a_stay(partitions):
    order = bucket_order(partitions, seed=1, epoch=2)
    with_own = [at for at, stay in enumerate(order) if any(i == j for i, j in stay.buckets)]
    assert Counter(len(stay.buckets) for stay in order)[3] == len(with_own) == partitions
    # Evenly, a gap would be len(order) / partitions stays; at the end of a trail there is little to choose from.
    gaps = [b - a for a, b in zip([-1, *with_own], [*with_own, len(order)], strict=True)]
    assert max(gaps) <= 2.5 * len(order) / partitions


@pytest.mark.parametrize("partitions", PARTITIONS[3:])
def test_a_partition_is_back_before_the_others_have_gone_twice_around(partitions):
    """The snake over the triangle would leave the first partition alone for all but the first P - 1 stays."""
    pairs = stays_of(bucket_order(partitions, seed=5, epoch=1))
    for partition in range(partitions):
        at = [number for number, pair in enumerate(pairs) if partition in pair]
        assert max(b - a for a, b in zip([0, *at], [*at, len(pairs)], strict=True)) <= 2 * partitions


@pytest.mark.parametrize("partitions", PARTITIONS[3:])
def test_a_partition_that_is_new_meets_one_that_has_been_trained(partitions):
    trained = set()
    for stay in bucket_order(partitions, seed=2, epoch=1):
        for bucket in stay.buckets:
            assert not trained or trained & set(bucket)
            trained |= set(bucket)


def test_a_walk_of_four_by_hand():
    """Two zigzags of Walecki, 0 1 3 2 and, backwards, 1 2 0 3, under whatever names the partitions have."""
    pairs = stays_of(bucket_order(4, seed=0, epoch=1))
    (zero, one), (_, three), (_, two) = pairs[:3]
    assert pairs == [(zero, one), (one, three), (three, two), (three, zero), (zero, two), (two, one)]
    assert {zero, one, two, three} == {0, 1, 2, 3}


def test_seed_and_epoch_decide_and_change_the_order():
    assert bucket_order(8, 1, 4) == bucket_order(8, 1, 4)
    different = {tuple(bucket_order(8, seed, epoch)) for seed in range(5) for epoch in range(1, 6)}
    assert len(different) == 25


def test_over_many_epochs_every_partition_stands_everywhere():
    first = Counter(stays_of(bucket_order(5, 0, epoch))[4][1] for epoch in range(1, 401))
    assert set(first) == set(range(5))
    assert min(first.values()) > 50  # 80 each, if even


@pytest.mark.parametrize("arguments", [(0, 0, 1), (3, -1, 1), (3, 0, 0)])
def test_what_makes_no_order_is_refused(arguments):
    with pytest.raises(ConfigError, match=r"bucket_order: \w+ is -?\d, expected at least"):
        bucket_order(*arguments)
