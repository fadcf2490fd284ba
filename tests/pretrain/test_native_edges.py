"""The compiled kernels at the edges: deep products, digits, nothing at all, NaN, threads and forks."""

import math
import subprocess
import sys
import threading

import pytest
import torch
from test_native import (
    FIELDS,
    assert_agree,
    config_of,
    instructions,
    problem,
    run,
    steps,
    threads,
)

from pretrain.native import bindings as native
from pretrain.native.bindings import library
from pretrain.native.step import update_
from pretrain.step import Batch, Sampled

__all__ = ["instructions", "threads"]  # fixtures

pytestmark = pytest.mark.skipif(library() is None, reason="the kernels were not built: no C++ compiler")


def asked(config, own, drawn, *, anchor=None, number=0):
    """Losses and gradients of one edge of the tables' first rows, asked for its target among the rows ``drawn``."""
    _, ours = steps(config, "source")
    rows = torch.arange(1, 1 + len(drawn))
    batch = Batch(torch.tensor([0]), torch.tensor([0]), torch.tensor([0]), torch.ones(1), None, Sampled(rows))
    tables = torch.tensor([anchor]), torch.tensor([own, *drawn])
    return ours(*tables, torch.zeros(1, 0), batch)


@pytest.mark.parametrize("negatives", [255, 256, 257, 511, 700])
def test_products_may_be_deeper_than_what_stays_in_the_first_cache(negatives, instructions):
    for comparator, precision, tolerance in (("l2", "float32", 1e-4), ("dot", "float32", 1e-4), ("dot", "auto", 0.02)):
        config = config_of("translation", comparator, "softmax", dim=37, temperature=2.0, precision=precision)
        plain, ours = steps(config, "source")
        tables, *rest = problem(config, size=70, negatives=negatives, seed=0, biases=False)
        given = [table * 37**-0.5 for table in tables], *rest
        assert_agree(run(ours, given, torch.float32), run(plain, given, torch.float64), tolerance)
        # Gradients of the anchors are means over all negatives: a part of them that is lost is a large part.
        got, wanted = (run(step, given, t).source_grads for step, t in ((ours, torch.float32), (plain, torch.float64)))
        assert float((got - wanted).norm() / wanted.norm()) < tolerance


@pytest.mark.parametrize("score", [-0.001, -0.4, -3.0, -19.0, -25.0, -60.0, -86.0])
def test_exponentials_are_right_in_all_their_digits(score, instructions):
    config = config_of("identity", "dot", "softmax", dim=2, temperature=1.0)
    got = asked(config, [0.0, 0.0], [[score, 0.0]], anchor=[1.0, 0.0])
    wanted = math.exp(score) / (1 + math.exp(score))
    assert got.target_grads[1, 0].item() == pytest.approx(wanted, rel=2e-6)


@pytest.mark.parametrize("score", [-30.0, -5.0, -0.7, 0.0, 0.3, 4.0, 30.0])
def test_logistic_losses_are_right_in_all_their_digits(score, instructions):
    config = config_of("identity", "dot", "logistic", dim=2, temperature=1.0, score_offset=0.0)
    got = asked(config, [100.0, 0.0], [[score, 0.0]], anchor=[1.0, 0.0])
    assert got.losses.item() == pytest.approx(math.log1p(math.exp(score)), rel=1e-6)


@pytest.mark.skipif(not native.has_bfloat16(), reason="this machine has no bfloat16 products")
@pytest.mark.parametrize("value", [1.0 + 2**-8 + 2**-10, 1.0 + 2**-8, 1.0 + 3 * 2**-8, 1.0 + 2**-9])
def test_bfloat16_numbers_are_rounded_to_the_nearest_and_ties_to_even(value):
    config = config_of("identity", "dot", "softmax", dim=2, temperature=1.0, precision="auto")
    got = asked(config, [0.0, 0.0], [[0.0, value]], anchor=[0.0, 1.0])
    rounded = torch.tensor(value).bfloat16().item()
    assert rounded != value
    assert got.losses.item() == pytest.approx(math.log(1 + math.exp(rounded)), rel=1e-6)


def test_cosines_do_not_depend_on_how_short_vectors_are(instructions):
    config = config_of("identity", "cos", "softmax", dim=3, temperature=1.0)
    own, drawn = [1.0, 2.0, 0.5], [[-1.0, 0.3, 2.0], [0.2, 0.4, -1.0]]
    long, short = (
        asked(config, [size * x for x in own], [[size * x for x in d] for d in drawn], anchor=[size, 0.5 * size, size])
        for size in (1.0, 1e-7)
    )
    assert short.losses.item() == pytest.approx(long.losses.item(), rel=1e-5)
    torch.testing.assert_close(short.target_grads * 1e-7, long.target_grads, rtol=1e-5, atol=1e-7)


def test_rows_that_are_far_apart_are_not_taken_for_each_other(instructions):
    config = config_of("identity", "dot", "softmax", dim=2, temperature=1.0)
    _, ours = steps(config, "source")
    for apart in (2**8, 2**16):
        table = torch.zeros(1 + apart, 2)
        rows = torch.tensor([apart])
        batch = Batch(torch.tensor([0]), torch.tensor([0]), torch.tensor([0]), torch.ones(1), None, Sampled(rows))
        assert ours(table, table, torch.zeros(1, 0), batch).losses.item() == pytest.approx(math.log(2))


def test_a_margin_that_is_just_met_pulls_at_nothing(instructions):
    config = config_of("identity", "dot", "ranking", dim=2, margin=0.5)
    got = asked(config, [1.0, 0.0], [[0.5, 1.0]], anchor=[1.0, 0.0])
    assert got.losses.item() == 0.0
    assert not got.target_grads.any()


@pytest.mark.parametrize("loss", ["softmax", "logistic", "ranking"])
def test_a_distance_of_rounding_errors_is_0_and_has_no_direction(loss, instructions):
    draw = torch.Generator().manual_seed(0)
    anchor, own = (30 * torch.randn(2, 19, generator=draw)).tolist()
    config = config_of("identity", "l2", loss, dim=19, temperature=1.0)
    got = asked(config, own, [anchor], anchor=anchor)
    assert not got.target_grads[1].any()


def test_a_distance_of_0_to_ones_own_candidate_has_no_direction(instructions):
    config = config_of("identity", "l2", "logistic", dim=3, temperature=1.0)
    got = asked(config, [1.0, 2.0, 3.0], [[1.0, 2.0, 4.0]], anchor=[1.0, 2.0, 3.0])
    assert not got.target_grads[0].any()
    assert torch.isfinite(got.source_grads).all()


@pytest.mark.parametrize("loss", ["softmax", "ranking"])
def test_what_all_scores_of_an_anchor_have_in_common_has_no_gradient(loss, instructions):
    config = config_of("identity", "dot", loss, dim=5)
    _, ours = steps(config, "source")
    given = problem(config, size=40, negatives=21, seed=0, sides="target", log_q=False)
    got = run(ours, given, torch.float32)
    assert got.source_bias_grads.tolist() == [0.0] * 40
    assert got.target_bias_grads.any()


def test_threads_without_edges_add_nothing_of_an_earlier_batch(instructions):
    config = config_of("translation", "l2", "softmax", dim=20)
    plain, ours = steps(config, "source", 5)
    run(ours, problem(config, size=500, negatives=300, seed=0), torch.float32)
    for size in (1, 2, 4):
        given = problem(config, size=size, negatives=37, seed=size)
        assert_agree(run(ours, given, torch.float32), run(plain, given, torch.float64), 3e-5)


@pytest.mark.parametrize(("size", "negatives"), [(1, 0), (3, 0), (0, 1), (0, 5), (0, 0), (1, 1)])
@pytest.mark.parametrize("comparator", ["dot", "cos", "l2"])
def test_batches_of_nothing_give_nothing(size, negatives, comparator, threads):
    for loss in ("softmax", "logistic", "ranking"):
        config = config_of("translation", comparator, loss, dim=20)
        plain, ours = steps(config, "source", threads)
        run(ours, problem(config, size=500, negatives=300, seed=0), torch.float32)  # leaves its numbers in memory
        tables, block, batch, bias = problem(config, size=max(size, 1), negatives=negatives, seed=1, known=False)
        batch = Batch(
            *(part[:size] for part in (batch.sources, batch.targets, batch.relations, batch.weights)),
            batch.negative_sources,
            batch.negative_targets,
        )
        given = tables, block, batch, bias
        assert_agree(run(ours, given, torch.float32), run(plain, given, torch.float64), 3e-5)


def test_a_batch_that_asks_nothing_has_no_gradients():
    config = config_of("translation", "dot", "softmax", dim=4)
    plain, ours = steps(config, "source")
    tables, block, batch, bias = problem(config, size=3, negatives=2, seed=0)
    batch = Batch(batch.sources, batch.targets, batch.relations, batch.weights, None, None)
    got, wanted = (run(step, (tables, block, batch, bias), torch.float32) for step in (ours, plain))
    assert_agree(got, wanted, 0.0)


@pytest.mark.parametrize("loss", ["softmax", "logistic", "ranking", "ranking adversarial", "logistic mean"])
@pytest.mark.parametrize("comparator", ["dot", "cos", "l2", "squared_l2"])
@pytest.mark.parametrize("where", [0, 3])  # the edge's own vector, a negative's
def test_what_is_not_a_number_is_seen_in_the_loss(loss, comparator, where, instructions):
    vectors = [[1.0, 2.0], [0.3, 0.1], [2.0, 1.0], [0.5, 0.5]]
    vectors[where][1] = math.nan
    got = asked(config_of("identity", comparator, loss, dim=2), vectors[0], vectors[1:], anchor=[1.0, 0.5])
    assert math.isnan(got.losses.item())


def test_a_row_of_many_gradients_takes_the_step_of_their_sum(threads):
    table, state = torch.zeros(2, 3), torch.zeros(2)
    update_(table, state, [(torch.tensor([1] * 5), torch.ones(5, 3)), (torch.tensor([1, 1]), torch.ones(2, 3))], 0.5,
            threads=threads)  # fmt: skip
    assert state.tolist() == [0.0, 49.0]
    assert table.tolist() == [[0.0] * 3, [-0.5] * 3]


def test_tables_that_cannot_be_updated_in_place_are_refused():
    rows, grads = torch.tensor([0]), torch.ones(1, 2)
    with pytest.raises(TypeError, match="contiguous"):
        update_(torch.zeros(2, 3).T, torch.zeros(3), [(rows, grads)], 0.1)
    with pytest.raises(TypeError, match="float64"):
        update_(torch.zeros(3, 2).double(), torch.zeros(3), [(rows, grads)], 0.1)


@pytest.mark.slow
def test_several_python_threads_may_call_at_once():
    config, wrong = config_of("translation", "cos", "softmax", dim=20), []
    given = problem(config, size=200, negatives=100, seed=9)

    def work(number):
        _, ours = steps(config, "source", number)
        wanted = run(ours, given, torch.float32)
        for _ in range(60):
            got = run(ours, given, torch.float32)
            wrong.extend(field for field in FIELDS[:4] if not torch.equal(getattr(got, field), getattr(wanted, field)))

    callers = [threading.Thread(target=work, args=(number,)) for number in (2, 3, 5)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert wrong == []


ALONE = """
import resource, torch
from pretrain.native.step import update_
table, state, part = torch.zeros(64, 5), torch.zeros(64), (torch.arange(64), torch.ones(64, 5))
update_(table, state, [part], 1.0, threads=1)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**28,) * 2)  # no room for the stacks of so many threads
update_(table, state, [part], 1.0, threads=500)
print(state.sum().item())
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_where_the_system_gives_no_more_threads_fewer_do_the_work():
    done = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "128.0\n"), done.stderr


FORK = """
import ctypes, os, threading, time, torch
from pretrain.native import bindings as native
from pretrain.native.bindings import library
from pretrain.native.step import update_
rows, grads = torch.arange(20000), torch.ones(20000, 64)
table, state = torch.zeros(20000, 64), torch.zeros(20000)
call = native.Update(table=table.data_ptr(), state=state.data_ptr(), dim=64, rate=0.5, parts=1, threads=3)
call.rows[0], call.grads[0], call.counts[0] = rows.data_ptr(), grads.data_ptr(), 20
mine, stop = (torch.zeros(20000, 64), torch.zeros(20000)), False
def work():
    while not stop:
        update_(*mine, [(rows, grads)], 0.1, threads=3)
worker = threading.Thread(target=work)
worker.start()
time.sleep(0.1)
left = []
for _ in range(20):
    if (child := os.fork()) == 0:
        os._exit(7 if library().recokit_update(ctypes.byref(call)) else 1)
    left.append(child)
deadline = time.monotonic() + 20
while left and time.monotonic() < deadline:
    left = [child for child in left if os.waitpid(child, os.WNOHANG)[0] == 0]
    time.sleep(0.01)
for child in left:
    os.kill(child, 9)
stop = True
worker.join()
print(len(left))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="needs fork")
def test_a_fork_in_the_middle_of_another_threads_call_leaves_no_lock_taken():
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", FORK], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr
