"""Plans by arithmetic: hand-written numbers on machines of round rates, what is refused, and files of machines."""

import dataclasses
import json
import math

import pytest

from pretrain import TrainConfig
from pretrain.buckets import bucket_order
from pretrain.calibration import Sample, calibrate, fitted
from pretrain.machines import GPUS, Machine, machine_of_cores, machine_of_gpu
from pretrain.memory import workspace_bytes
from pretrain.partitioned import plan_partitions
from pretrain.plan import Workload, plan
from recokit.errors import ConfigError, FormatError

GB = 10**9
ORIGIN = {
    name: f"said of {name}" for name in ("memory", "flops", "batch_seconds", "row_seconds", "disk", "prepare_rate")
}
MACHINE = Machine(
    name="round",
    device="cpu",
    cores=2,
    memory=10 * GB,
    process=100_000_000,
    flops={"float32": 1e11, "auto": 4e11},
    batch_seconds=0.001,
    row_seconds=((10**7, 1e-9), (10**9, 3e-9)),
    disk_read=1e9,
    disk_write=5e8,
    prepare_rate=1e6,
    origin=ORIGIN,
)
CONFIG = TrainConfig(dim=99, uniform_negatives=100, batch_size=1000, epochs=10, sides="both")
ROW = 4 * (99 + 1)  # bytes


def work(entities=1_000_000, edges=1_000_000, **settings):
    return Workload({"user": entities}, edges, dataclasses.replace(CONFIG, **settings))


def write(path, machine=MACHINE):
    machine.save(path)
    return path


# -- memory ----------------------------------------------------------------------------------------------------------


def test_what_fits_is_in_memory_whole():
    """A million rows of 400 bytes, 72 bytes an edge, 24 an entity; a batch of 1000 and 100 negatives."""
    found = plan(work(), MACHINE)
    assert found["limit"] == 8 * GB
    assert found["partitions"] == 1
    assert found["memory_tables"] == 1_000_000 * ROW
    assert found["memory_edges"] == 1_000_000 * (16 + 36 + 8 + 12)
    assert found["memory_counts"] == 1_000_000 * 24
    assert found["memory_workspace"] == 4 * (5 * 1000 * 100 + 24 * 1100 * 99) == workspace_bytes(1000, 100, 99)
    assert found["memory_process"] == 100_000_000 + 32_000_000
    assert found["memory"] == 400_000_000 + 72_000_000 + 24_000_000 + 12_454_400 + 132_000_000
    weighted = dataclasses.replace(work(), weighted=True)
    assert plan(weighted, MACHINE)["memory_edges"] == 1_000_000 * (16 + 36 + 8 + 12 + 4)


def test_rows_take_what_the_optimizer_and_biases_take():
    assert work().row_bytes == 4 * 100
    assert work(optimizer="adagrad").row_bytes == 4 * 198
    assert work(bias=True).row_bytes == 4 * 102


def test_a_byte_less_and_tables_are_cut():
    whole = int(plan(work(), MACHINE)["memory"])
    fits = plan(work(), MACHINE, memory=whole)
    assert (fits["partitions"], fits["disk_prepared"]) == (1, 0)
    found = plan(work(), MACHINE, memory=whole - 1)
    assert found["memory"] < whole
    assert found["disk_prepared"] == 1_000_000 * 12 + 1_000_000 * 32


def test_partitions_are_the_fewest_that_fit():
    """10 million rows are 4 GB; of P partitions three are in memory, beside a chunk of an eighth of what there is.

    Of 2 GB there are 1,887,545,600 bytes beside Python (100 MB) and a batch; an eighth holds 2,359,432 edges of 100 B.
    The rows of a partition take 3 * 400 bytes and 48 for samplers: up to 1,297,760 of them, and those of 7 are more.
    """
    found = plan(work(10_000_000, 100_000_000), MACHINE, memory="2GB")
    assert found["partitions"] == 8
    assert found["memory_tables"] == 3 * 1_250_000 * ROW
    assert found["memory_edges"] == 235_943_200
    assert found["memory_counts"] == 48 * 1_250_000
    assert found["memory_process"] == 132_000_000
    assert found["memory"] == 1_500_000_000 + 235_943_200 + 60_000_000 + 12_454_400 + 132_000_000


@pytest.mark.parametrize("memory", ["600MB", "1GB", "3.1GB", "5GB"])
@pytest.mark.parametrize("settings", [{}, {"log_q": True}, {"optimizer": "adagrad"}, {"filter_positives": True}])
def test_plans_are_those_of_the_command_that_trains(memory, settings):
    """The partitions and chunks that training takes; the peak is within the memory."""
    big = Workload({"user": 8_000_000, "item": 9_999}, 30_000_000, dataclasses.replace(CONFIG, **settings))
    found = plan(big, MACHINE, memory=memory)
    expected = plan_partitions(memory, big.entities, big.edges, big.config, baseline=MACHINE.process)
    if found["disk_prepared"]:
        assert found["partitions"] == expected.partitions
        rows = -(-8_000_000 // expected.partitions)
        assert found["memory_counts"] == (24 if "log_q" in settings else 8) * (rows + 9_999) + 40 * rows
        edge = 190 if "filter_positives" in settings else 100
        assert found["memory_edges"] == edge * min(expected.chunk_edges, 30_000_000)
    assert found["memory"] <= found["limit"]


def test_small_entity_types_are_not_cut():
    """Items stay whole: 9,999 rows beside 8 partitions of users; what moves is users alone."""
    big = Workload({"user": 10_000_000, "item": 9_999}, 100_000_000, CONFIG)
    found = plan(big, dataclasses.replace(MACHINE, row_seconds=((1, 0.0),)), memory="2GB")
    assert found["partitions"] == 8
    assert found["memory_tables"] == (3 * 1_250_000 + 9_999) * ROW
    assert found["run_checkpoints"] % ((2 * 1_250_000 + 9_999) * ROW / 5e8) == pytest.approx(0, abs=1e-6)


def test_prepared_edges_have_their_weights():
    found = plan(dataclasses.replace(work(10, 10**9), weighted=True), MACHINE)
    assert found["partitions"] == 1
    assert found["disk_prepared"] == 10**9 * 16 + 10 * 32


def test_entity_types_add_up():
    both = Workload({"user": 600_000, "item": 400_000}, 1_000_000, CONFIG)
    assert {figure.key: figure.value for figure in plan(both, MACHINE).figures} == {
        figure.key: figure.value for figure in plan(work(), MACHINE).figures
    }


# -- time ------------------------------------------------------------------------------------------------------------


def test_an_epoch_is_products_rows_and_batches():
    """6 * 2 * 100 * 99 operations an edge; 2 rows an edge and 200 a batch; tables of 400 MB lie between two sizes."""
    found = plan(work(), MACHINE)
    assert found["epoch_products"] == pytest.approx(1e6 * 6 * 2 * 100 * 99 / 1e11)
    byte = 1e-9 + 2e-9 * math.log(40) / math.log(100)
    assert found["epoch_rows"] == pytest.approx((2e6 + 1000 * 200) * 400 * byte)
    assert found["epoch_batches"] == pytest.approx(1000 * 0.001)
    seconds = 1.188 + 2_200_000 * 400 * byte + 1.0
    assert found["epoch"] == pytest.approx(seconds)
    assert found["edges_per_second"] == pytest.approx(1e6 / seconds)


def test_one_side_takes_half_the_products_and_bfloat16_its_own_rate():
    assert plan(work(sides="target"), MACHINE)["epoch_products"] == pytest.approx(1.188 / 2)
    assert plan(work(precision="auto"), MACHINE)["epoch_products"] == pytest.approx(1.188 / 4)
    one = plan(work(sides="target"), MACHINE)["epoch_rows"] / plan(work(), MACHINE)["epoch_rows"]
    assert one == pytest.approx(2.1 / 2.2)


def test_the_cost_of_rows_is_a_line_over_the_logarithm_of_the_tables():
    cost = MACHINE.row_cost
    assert [cost(1), cost(10**7), cost(10**8), cost(10**9), cost(10**10)] == pytest.approx(
        [1e-9, 1e-9, 2e-9, 3e-9, 4e-9]
    )
    three = dataclasses.replace(MACHINE, row_seconds=((10, 1.0), (100, 5.0), (10_000, 7.0))).row_cost
    assert [three(10), three(100), three(1000), three(10_000), three(10**6)] == pytest.approx([1, 5, 6, 7, 9])
    assert dataclasses.replace(MACHINE, row_seconds=((10**9, 2.0),)).row_cost(10**12) == 2.0
    falling = dataclasses.replace(MACHINE, row_seconds=((10, 1.0), (100, 0.1)))
    assert falling.row_cost(10**6) == 0.0  # noise is no gift


def test_partitions_wait_for_the_disk_where_training_is_faster():
    """8 partitions: 28 stays; a load and a write of 500 MB take 0.5 + 1 s, and there are 29 an epoch."""
    big = work(10_000_000, 100_000_000)
    slow = dataclasses.replace(MACHINE, flops={"float32": 1e15}, row_seconds=((1, 0.0),), batch_seconds=0.0)
    found = plan(big, slow, memory="2GB")
    stay = 1e8 * 118_800 / 1e15 / 28
    assert found["epoch_waiting"] == pytest.approx(29 * (1.5 - stay))
    assert found["epoch"] == pytest.approx(1e8 * 118_800 / 1e15 + 29 * (1.5 - stay))
    patient = plan(big, MACHINE, memory="2GB")
    assert patient["epoch_waiting"] == 0  # 28 stays of more than 4 s each
    # Two partitions are trained at a time, and every bucket ends with a batch that is not full: 64 of 1563 batches.
    byte = 1e-9 + 2e-9 * math.log(1e9 / 1e7) / math.log(100)
    assert patient["epoch_rows"] == pytest.approx((2e8 + 64 * 1563 * 200) * ROW * byte)


def test_loads_are_those_of_the_order_of_buckets():
    """The plan counts P(P-1)/2 + 1 loads: those of a first epoch, and one more than a later one has."""
    for partitions in range(2, 10):
        for epoch in (1, 2, 3):
            before = set(bucket_order(partitions, 0, epoch - 1)[-1].partitions) if epoch > 1 else set()
            loads = 0
            for stay in bucket_order(partitions, 0, epoch):
                loads += len(set(stay.partitions) - before)
                before = set(stay.partitions)
            stays = partitions * (partitions - 1) // 2
            later = 0 if partitions == 2 else stays
            assert loads == (stays + 1 if epoch == 1 else later)


def test_the_run_is_reading_epochs_checkpoints_and_export():
    """10 epochs of 4.4 to 4.5 s end before the first minute: one checkpoint, at the end, of 400 MB."""
    found = plan(work(), MACHINE)
    assert found["run_prepare"] == 1.0
    assert found["run_epochs"] == pytest.approx(10 * found["epoch"])
    assert found["run_checkpoints"] == pytest.approx(0.8)
    assert found["run_export"] == pytest.approx((400 + 8) * 1e6 / 5e8)
    assert found["run"] == pytest.approx(1.0 + 10 * found["epoch"] + 0.8 + 0.816)
    often = plan(work(), MACHINE, checkpoint_seconds=10 * found["epoch"] / 3.5)
    assert often["run_checkpoints"] == pytest.approx(4 * 0.8)
    assert plan(work(restarts=2), MACHINE)["run_epochs"] == pytest.approx(20 * found["epoch"])


def test_partitions_that_have_left_are_in_no_checkpoint():
    found = plan(work(10_000_000, 100_000_000, epochs=1), MACHINE, memory="2GB", checkpoint_seconds=1e9)
    assert found["run_checkpoints"] == pytest.approx(2 * 500_000_000 / 5e8)


# -- disk ------------------------------------------------------------------------------------------------------------


def test_disk_is_edges_twice_the_tables_and_the_version():
    found = plan(work(), MACHINE)
    assert (found["disk_prepared"], found["disk_tables"], found["disk_export"]) == (0, 800_000_000, 408_000_000)
    assert found["disk"] == 1_208_000_000
    cut = plan(work(10_000_000, 100_000_000), MACHINE, memory="2GB")
    assert cut["disk_prepared"] == 100_000_000 * 12 + 10_000_000 * 32
    assert cut["disk"] == 1_520_000_000 + 8_000_000_000 + 4_080_000_000
    edges = plan(work(10, 10**9), MACHINE)  # nearly all of it edges, while they are prepared
    assert edges["disk"] == int(2.5 * (12 * 10**9 + 320))


# -- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entities", "edges", "message"),
    [
        ({}, 1, "there is no entity type"),
        ({"user": 0}, 1, "'user' has 0 entities, expected a whole number of at least 1"),
        ({"user": 1.5}, 1, r"'user' has 1\.5 entities"),
        ({"user": 1}, 0, "edges is 0, expected a whole number of at least 1"),
        ({"user": 1}, True, "edges is True"),
    ],
)
def test_counts_of_nothing_are_refused(entities, edges, message):
    with pytest.raises(ConfigError, match=message):
        Workload(entities, edges, CONFIG)


def test_negatives_are_those_of_all_kinds():
    assert work(uniform_negatives=3, prevalence_negatives=4, in_batch_negatives=5).negatives == 12
    assert work(entities=77, uniform_negatives="all").negatives == 77
    with pytest.raises(ConfigError, match="there are no negatives"):
        work(uniform_negatives=0)


def test_runs_that_the_machine_cannot_hold_are_refused():
    with pytest.raises(ConfigError, match=r"memory is 11 GB, but machine 'round' has 10 GB"):
        plan(work(), MACHINE, memory="11GB")
    with pytest.raises(ConfigError, match="up to 1024 partitions training needs at least"):
        plan(work(10**12, 10), MACHINE)
    with pytest.raises(ConfigError, match="has rates of precision float32, not 'auto'"):
        plan(work(precision="auto"), dataclasses.replace(MACHINE, flops={"float32": 1.0}))
    with pytest.raises(ConfigError, match=r"checkpoint_seconds is 0, expected a number above 0"):
        plan(work(), MACHINE, checkpoint_seconds=0)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("device", "tpu", "device is 'tpu', expected cpu or cuda"),
        ("cores", 0, "cores is 0, expected a whole number of at least 1"),
        ("memory", 1.5, "memory is 1.5, expected a whole number"),
        ("disk_read", 0.0, "disk_read is 0.0, expected a number above 0"),
        ("flops", {"float32": math.inf}, "flops of float32 is inf, expected a number above 0"),
        ("flops", {"float8": 1.0}, "flops are those of .'float8'., expected"),
        ("batch_seconds", -1.0, "batch_seconds is -1.0, expected at least 0"),
        ("row_seconds", (), "expected rising bytes"),
        ("row_seconds", ((2, 1.0), (2, 1.0)), "expected rising bytes"),
        ("row_seconds", ((2, -1.0),), "seconds a byte of at least 0"),
        ("origin", {}, "origin does not say where memory comes from"),
    ],
)
def test_machines_that_cannot_be_are_refused(field, value, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(MACHINE, **{field: value})


# -- machines --------------------------------------------------------------------------------------------------------


def test_a_machine_comes_back_from_its_file(tmp_path):
    machine = dataclasses.replace(MACHINE, settings={"dim": 64, "bias": False, "sides": "both"})
    machine.save(tmp_path / "m.json")
    assert Machine.load(tmp_path / "m.json") == machine
    assert json.loads((tmp_path / "m.json").read_text())["format"] == "machine/1"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "machine/2"}, "has the format 'machine/2'; this release of recokit reads 'machine/1'"),
        ({"cores": 0}, "does not describe a machine: machine 'round': cores is 0"),
        ({"row_seconds": [[1]]}, "does not describe a machine"),
        ({"wheels": 4}, "does not describe a machine: .*'wheels'"),
        ({"flops": [1]}, "does not describe a machine"),
    ],
)
def test_damaged_files_of_machines_are_refused(tmp_path, change, message):
    file = write(tmp_path / "m.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(FormatError, match=message):
        Machine.load(file)


def test_a_described_machine_has_what_is_given_and_says_what_is_assumed():
    machine = machine_of_cores(4, gflops=1000, memory=5 * GB, bandwidth=1e11, disk_read=1e9)
    assert machine.flops == {"float32": 0.7e12, "auto": 0.7e12}
    assert machine.memory == 5 * GB
    assert [cost for _, cost in machine.row_seconds] == pytest.approx([3 / 0.4e11, 3 / 0.15e11])
    assert (machine.disk_read, machine.disk_write) == (1e9, 300e6)
    assert machine.prepare_rate == 4 * 375_000
    assert machine_of_cores(64).prepare_rate == 8 * 375_000
    assert machine.origin["flops"] == "70%, assumed, of 1,000 GFLOP/s, given"
    assert machine.origin["disk"] == "read 1,000 MB/s given, write 300 MB/s assumed"
    assert machine_of_cores(4).origin["flops"] == "70%, assumed, of 200 GFLOP/s, assumed: 50 a core"
    assert machine_of_cores(4).memory == 16 * GB
    with pytest.raises(ConfigError, match="cores is 0, expected a number above 0"):
        machine_of_cores(0)


def test_a_gpu_comes_from_its_datasheet():
    machine = machine_of_gpu("h200")
    assert machine.name == "H200"
    assert machine.flops == {"float32": pytest.approx(0.4 * 67e12), "auto": pytest.approx(0.15 * 989e12)}
    assert machine.row_cost(10**12) == pytest.approx(3 / (0.4 * 4.8e12))
    assert machine.memory == 141 * GB
    assert machine.origin["memory"] == "from datasheet, not measured"
    assert all("not measured" in machine_of_gpu(name).origin["flops"] for name in GPUS)
    with pytest.raises(ConfigError, match="GPU 'H20' is not known; did you mean 'H200'"):
        machine_of_gpu("H20")


def test_what_stays_on_the_host_is_not_in_the_gpu():
    found = plan(work(), dataclasses.replace(MACHINE, device="cuda"))
    assert found["memory_edges"] == 1_000_000 * (36 + 8)
    assert found["memory_counts"] == 0


# -- calibration -----------------------------------------------------------------------------------------------------


def sample(negatives, tables, machine):
    """What an edge takes on a machine, by the arithmetic of the plan."""
    config = dataclasses.replace(CONFIG, uniform_negatives=negatives)
    run = Workload({"user": tables // ROW}, 10_000, config)
    return Sample(run, tables, plan(run, machine)["epoch"] / 10_000)


def test_rates_follow_from_what_they_make():
    """Epochs are computed from known rates; the rates that are fitted to them are these again."""
    samples = [sample(100, 10**7, MACHINE), sample(25, 10**7, MACHINE), sample(100, 10**9, MACHINE)]
    flops, rows = fitted(samples, MACHINE.batch_seconds)
    assert flops == pytest.approx(1e11)
    assert [size for size, _ in rows] == [10**7, 10**9]
    assert [cost for _, cost in rows] == pytest.approx([1e-9, 3e-9])


@pytest.mark.parametrize("factor", [2.0, 0.01])
def test_what_was_measured_is_met_though_noise_makes_no_sense(factor):
    """Fewer negatives that took longer, or next to nothing: products alone explain what was asked for."""
    samples = [sample(100, 10**7, MACHINE), sample(25, 10**7, MACHINE), sample(100, 10**9, MACHINE)]
    samples[1] = samples[1]._replace(seconds=factor * samples[0].seconds)
    flops, rows = fitted(samples, MACHINE.batch_seconds)
    fit = dataclasses.replace(MACHINE, flops={"float32": flops}, row_seconds=rows)
    for each in (samples[0], samples[2]):
        assert plan(each.work, fit)["epoch"] / 10_000 == pytest.approx(each.seconds)
    assert rows[0][1] == pytest.approx(0.0, abs=1e-15)


def test_a_measured_machine_plans(tmp_path):
    """The rates themselves are the machine's; that they are there, are said to be measured, and come back is ours."""
    config = TrainConfig(dim=8, uniform_negatives=20, batch_size=64)
    events = []
    machine = calibrate(
        config, folder=tmp_path, device="cpu", seconds=0.01, largest=10**6, disk_bytes=2**20, callback=events.append
    )
    assert machine.settings == Workload({"": 1}, 1, config).settings()
    assert [size for size, _ in machine.row_seconds] == [2 * (8_000_000 // (2 * 36)) * 36]
    assert list(tmp_path.iterdir()) == []
    assert [event["done"] for event in events] == sorted(event["done"] for event in events)
    assert events[-1]["done"] == 1.0
    machine.save(tmp_path / "m.json")
    assert Machine.load(tmp_path / "m.json") == machine
    found = plan(Workload({"a": 10}, 1000, config), machine)
    assert found["epoch"] > 0
    origin = next(figure.origin for figure in found.figures if figure.key == "epoch_products")
    assert "measured" in origin
    assert "scaled" not in origin
    other = plan(Workload({"a": 10}, 1000, dataclasses.replace(config, dim=16)), machine)
    assert "at dim 8, negatives 20, batch 64, and scaled" in str(other.figures)


@pytest.mark.parametrize(
    ("settings", "seconds", "message"),
    [
        ({"uniform_negatives": "all"}, 1.0, "expected their number"),
        ({"uniform_negatives": 0}, 1.0, "there are no negatives"),
        ({}, 0.0, "seconds is 0.0, expected a number above 0"),
    ],
)
def test_what_cannot_be_measured_is_refused(tmp_path, settings, seconds, message):
    with pytest.raises(ConfigError, match=message):
        calibrate(dataclasses.replace(CONFIG, **settings), folder=tmp_path, seconds=seconds, disk_bytes=2**20)


# -- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def run_plan(run_cli):
    """Run ``recokit plan WORDS...`` in this process, registered or not."""
    from pretrain.plan_cli import plan as command
    from recokit.cli import app

    before = list(app.registered_commands)
    app.command(name="plan")(command)
    yield lambda *words: run_cli("plan", *words)
    app.registered_commands[:] = before


COUNTS = ("--entities", "user=1_000_000", "--edges", "1_000_000")
SETTINGS = ("--dim", "99", "--negatives", "100", "--batch-size", "1000", "--epochs", "10", "--sides", "both")


def test_the_command_prints_what_the_plan_says(run_plan, tmp_path):
    ran = run_plan(*COUNTS, *SETTINGS, "--machine", write(tmp_path / "m.json"))
    assert (ran.code, ran.err) == (0, "")
    lines = {cells[1].strip(): cells[2].strip() for line in ran.out.splitlines() if len(cells := line.split("│")) > 3}
    assert lines["partitions"] == "1"
    assert lines["memory to use"] == "8 GB"
    assert lines["memory at the peak"] == "640 MB"
    assert lines["tables and optimizer"] == "400 MB"
    assert lines["products"] == "1.19 s"
    assert lines["batches"] == "1 s"
    assert lines["disk at the peak"] == "1.21 GB"
    assert "said of flops" in ran.out
    assert "1,000,000 user, 1,000,000 edges; dim 99, 100 negatives on both sides, batches of 1,000; on round" in ran.out


def test_the_command_gives_machines_one_document(run_plan, tmp_path):
    file = write(tmp_path / "m.json")
    ran = run_plan(*COUNTS, *SETTINGS, "--machine", file, "--memory", "500MB", "--json")
    document = json.loads(ran.out)
    values = {figure["key"]: figure["value"] for figure in document["figures"]}
    expected = plan(work(), MACHINE, memory="500MB")
    assert values == {figure.key: figure.value for figure in expected.figures}
    assert values["partitions"] == 5  # 484,431 edges; 1248 bytes a row are at most 246,080 rows
    assert document["run"]["entities"] == {"user": 1_000_000}
    assert document["machine"]["name"] == "round"
    assert document["format"] == "plan/1"


def test_described_machines_can_be_kept(run_plan, tmp_path):
    file = tmp_path / "m.json"
    ran = run_plan(*COUNTS, "--cores", "4", "--gflops", "1000", "--memory", "5GB", "--save-machine", file, "--json")
    assert ran.code == 0, ran.err
    assert Machine.load(file) == machine_of_cores(4, gflops=1000, memory=5 * GB)
    assert json.loads(ran.out)["figures"][0]["value"] == 5 * GB
    ran = run_plan(*COUNTS, "--gpu", "H100", "--disk-read", "2000", "--save-machine", file, "--json")
    assert Machine.load(file) == machine_of_gpu("H100", disk_read=2e9)
    assert "from datasheet, not measured" in ran.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "give a configuration, or --entities TYPE=COUNT for every entity type and --edges COUNT"),
        (("--entities", "user=1"), "--edges is missing"),
        (("--entities", "user", "--edges", "1"), "got 'user', expected a type and its count"),
        (("--entities", "user=1e6", "--edges", "1"), "got 'user=1e6', expected a type and its count"),
        (("--entities", "user=-1", "--edges", "1"), "got 'user=-1', expected a type and its count"),
        (("--entities", "a=1", "--entities", "a=2", "--edges", "1"), "'a' is there twice"),
        ((*COUNTS, "--sides", "left"), "sides 'left' is not known"),
        ((*COUNTS, "--negatives", "0"), "there are no negatives"),
        ((*COUNTS, "--dim", "0"), "dim must be a whole number of at least 1"),
        ((*COUNTS, "--memory", "lots"), "a size of memory is 'lots'"),
        ((*COUNTS, "--gflops", "3"), "--gflops describes a machine that is not measured: give --cores or --gpu"),
        ((*COUNTS, "--disk-read", "3"), "--disk-read describes a machine"),
        ((*COUNTS, "--gpu", "H100", "--gflops", "3"), "what a GPU has is in its datasheet"),
        ((*COUNTS, "--gpu", "Z1"), "GPU 'Z1' is not known; known: A10, A100"),
        ((*COUNTS, "--cores", "2", "--machine", "m.json"), "--machine is a machine already"),
        ((*COUNTS, "--machine", "nowhere.json"), "nowhere.json"),
        (("nowhere.toml",), "nowhere.toml cannot be read"),
    ],
)
def test_bad_input_ends_with_one_line(run_plan, words, message):
    ran = run_plan(*words)
    assert ran.code == 2
    assert message in ran.err
    assert len(ran.err.strip().splitlines()) == 1
    assert ran.out == ""


TOML = """\
version = "v1"
output = "store"
[[relation]]
name = "clicks"
source = "user"
target = "ad"
path = "clicks.csv"
[[relation]]
name = "follows"
source = "user"
target = "user"
path = "follows.csv"
[train]
dim = 8
uniform_negatives = "all"
"""


def test_counts_come_from_the_files_of_a_configuration(run_plan, tmp_path):
    """Users u0 to u3 over both files, ads a0 and a1; a row without an end is no edge."""
    (tmp_path / "clicks.csv").write_text("source,target\nu0,a0\nu1,a1\nu1,a0\n,a1\n")
    (tmp_path / "follows.csv").write_text("source,target,weight\nu0,u3,1\nu2,u1,0.5\n")
    (tmp_path / "c.toml").write_text(TOML)
    words = (tmp_path / "c.toml", "--machine", write(tmp_path / "m.json"), "--epochs", "3", "--json")
    ran = run_plan(*words)
    assert ran.code == 0, ran.err
    run = json.loads(ran.out)["run"]
    assert run["entities"] == {"user": 4, "ad": 2}
    assert (run["edges"], run["weighted"], run["negatives"], run["dim"], run["epochs"]) == (5, True, 4, 8, 3)
    ran = run_plan(*words, "--edges", "7")
    assert (ran.code, "leave out --entities, --edges and --weighted" in ran.err) == (2, True)


@pytest.mark.parametrize(
    "relations", ["", '[[relation]]\nname = "likes"\nid = "L"\nsource = "user"\ntarget = "item"\n']
)
def test_counts_come_from_triples(run_plan, tmp_path, relations):
    (tmp_path / "t.csv").write_text("source,relation,target\na,L,x\nb,L,x\nb,L,y\n")
    head = 'version = "v1"\noutput = "store"\n[triples]\npath = "t.csv"\n'
    (tmp_path / "c.toml").write_text(head + relations)
    ran = run_plan(tmp_path / "c.toml", "--machine", write(tmp_path / "m.json"), "--json")
    assert ran.code == 0, ran.err
    run = json.loads(ran.out)["run"]
    assert run["entities"] == ({"user": 2, "item": 2} if relations else {"entity": 4})
    assert run["edges"] == 3
