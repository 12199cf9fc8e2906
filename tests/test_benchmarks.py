"""The benchmarks at toy size: they are right, and they time nothing that is wrong."""

import dataclasses
import functools
import importlib.util
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from benchmarks import (
    _contest,
    _harness,
    certify,
    certify_along,
    empirical_ntk,
    infinite_ntk,
    networks,
    oracle,
    roofline,
    training,
)
from benchmarks.infinite_workloads import Entries, infinite_works
from benchmarks.peers import infinite_runner, nt_bridge_runner, worker
from benchmarks.peers.lazyjax_runner import LazyjaxRunner
from benchmarks.workloads import WORKLOADS, Site, Workload

pytestmark = pytest.mark.once

FEW = _harness.Budget(num_calls=2, num_warmups=1)
PEAK = roofline.Cost(1e12, 1e11)


class InProcess:
    """A worker without a process, which counts what it is asked."""

    def __init__(self, runner: worker.Runner) -> None:
        self._answerer = worker.Answerer(runner)
        self.asked: list[str] = []

    def ask(self, **request: Any) -> dict[str, Any]:
        self.asked.append(request["ask"])
        reply = self._answerer.answer(request)
        if "error" in reply:
            raise worker.MethodFailedError(reply["error"])
        return reply

    def close(self) -> None:
        self.asked.append("close")


class Precomputed:
    """A library that has its answers ready, right or wrong, one a method."""

    def __init__(self, answers: dict[str, np.ndarray]) -> None:
        self.answers = answers

    @property
    def methods(self) -> Sequence[str]:
        return tuple(self.answers)

    def versions(self) -> dict[str, str]:
        return {"precomputed": "1"}

    def device(self) -> str:
        return "cpu"

    def prepare(self, method: str, problem: worker.Problem) -> worker.Prepared:
        return worker.Prepared(lambda: self.answers[method], np.asarray)


def run_toy(
    case: str, methods: Sequence[str], start: Callable[[], _contest.Asked]
) -> tuple[list[_harness.Row], list[_harness.Skipped]]:
    entrants = [_contest.Contestant(method, start) for method in methods]
    return empirical_ntk.run_case(
        case, "toy", entrants, peak=PEAK, budget=FEW, say=lambda line: None
    )


def own() -> InProcess:
    return InProcess(LazyjaxRunner())


@functools.cache
def toy_kernel(case: str) -> tuple[oracle.KernelOracle, np.ndarray]:
    """Oracle of a toy workload, and its whole kernel in float64 by another way."""
    work = WORKLOADS[case]("toy")
    params, x, y = work.draw()
    with jax.enable_x64(True):
        params64 = {name: leaf.astype("f8") for name, leaf in params.items()}
        jacobian = jax.jacfwd(networks.apply_fn(work))(params64, x.astype("f8"))
        rows = [np.reshape(leaf, (work.n, work.k, -1)) for leaf in jacobian.values()]
    kernel = sum(np.einsum("iap,jbp->ijab", row, row) for row in rows)
    return oracle.oracles(work, params, x, y)[0], np.asarray(kernel)


@pytest.fixture(scope="module")
def mlp_rows() -> list[_harness.Row]:
    rows, skipped = run_toy("mlp", LazyjaxRunner.methods, own)
    assert skipped == []
    return rows


def test_every_method_gives_a_complete_row(mlp_rows: list[_harness.Row]) -> None:
    assert [row.method for row in mlp_rows] == list(LazyjaxRunner.methods)
    for row in mlp_rows:
        values = dataclasses.asdict(row)
        assert not [name for name, value in values.items() if value is None]
        assert row.rel_error <= empirical_ntk.TOLERANCE
        assert 0 < row.min_s <= row.median_s
    assert {row.method: row.ratio for row in mlp_rows}["jacrev"] == 1.0


@pytest.mark.parametrize("case", [case for case in WORKLOADS if case != "mlp"])
@pytest.mark.sampled(2)
def test_every_workload_is_right(case: str) -> None:
    (row,), skipped = run_toy(case, ["lazyjax:jacobian"], own)
    assert skipped == []
    assert row.rel_error <= empirical_ntk.TOLERANCE
    assert row.ratio is None  # the baseline did not run


def test_neural_tangents_through_the_bridge_is_right() -> None:
    runner = nt_bridge_runner.runner()
    name = "neural-tangents (bridge)"
    methods = [f"{name}:{way}" for way in ("jacobian", "vector-products", "structured")]
    assert list(runner.methods) == methods
    (row,), skipped = run_toy("mlp", methods[-1:], lambda: InProcess(runner))
    assert skipped == []
    assert row.versions["jax"] == jax.__version__


@pytest.mark.parametrize("is_installed", [True, False])
def test_neural_tangents_through_the_bridge_takes_part_if_it_is_installed(
    is_installed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules = []
    monkeypatch.setattr(
        empirical_ntk, "_methods", lambda command: modules.append(command[-1]) or []
    )
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: is_installed)
    empirical_ntk.contestants({}, 2**30)
    assert ("benchmarks.peers.nt_bridge_runner" in modules) is is_installed


def test_wrong_answers_are_named_and_never_timed() -> None:
    kernel = toy_kernel("mlp")[1].astype("f4")
    nan, one_entry = kernel.copy(), kernel.copy()
    nan[0, 1, 0, 0], one_entry[0, 1, 2, 0] = np.nan, 0
    wrong = {
        "scaled": kernel * np.float32(1 + 1e-4),
        "one entry": one_entry,
        "one not a number": nan,
        "transposed": kernel.transpose(0, 1, 3, 2),
        "reduced": kernel.trace(axis1=2, axis2=3),
    }
    workers = []

    def start() -> InProcess:
        workers.append(InProcess(Precomputed({"right": kernel} | wrong)))
        return workers[-1]

    rows, skipped = run_toy("mlp", ["right", *wrong], start)
    assert [row.method for row in rows] == ["right"]
    assert [item.method for item in skipped] == list(wrong)
    assert all(item.reason.startswith("WrongAnswerError") for item in skipped)
    assert "time" in workers[0].asked
    assert [each.asked for each in workers[1:]] == [["prepare", "close"]] * len(wrong)


def test_failing_method_is_skipped_with_its_reason() -> None:
    kernel = toy_kernel("mlp")[1]
    start = lambda: InProcess(Precomputed({"there": kernel}))
    rows, (item,) = run_toy("mlp", ["absent", "there"], start)
    assert [row.method for row in rows] == ["there"]
    assert item.method == "absent"
    assert item.reason == "MethodFailedError: KeyError: 'absent'"


def test_method_that_dies_while_it_is_timed_costs_nothing_but_its_row() -> None:
    kernel = toy_kernel("mlp")[1]

    class Mortal(InProcess):
        def ask(self, **request: Any) -> dict[str, Any]:
            if self.asked.count("time") == 2:
                raise worker.MethodFailedError("its process ended")
            return super().ask(**request)

    runner = Precomputed(dict.fromkeys(["dies", "lives"], kernel))
    kinds = iter([Mortal, InProcess])
    rows, (item,) = run_toy("mlp", runner.methods, lambda: next(kinds)(runner))
    assert [row.method for row in rows] == ["lives"]
    assert (item.method, item.reason) == (
        "dies",
        "MethodFailedError: its process ended",
    )


def test_oracle_agrees_with_the_whole_kernel_in_float64() -> None:
    reference, kernel = toy_kernel("mlp")
    assert reference.relative_error(kernel) <= 1e-12


def test_oracle_sees_the_error_of_any_single_entry() -> None:
    reference, kernel = toy_kernel("mlp")
    size = 1e-3 * np.linalg.norm(kernel)
    rng = np.random.default_rng(0)
    for index in rng.integers(kernel.shape, size=(20, kernel.ndim)):
        wrong = kernel.copy()
        wrong[tuple(index)] += size
        assert 1e-4 <= reference.relative_error(wrong) <= 1e-1


def test_gradient_oracle_sees_a_changed_entry_and_accepts_the_right_one() -> None:
    reference = oracle.GradientOracle(np.arange(5.0))
    assert reference.relative_error(np.arange(5.0)) == 0.0
    wrong = np.arange(5.0) + np.linalg.norm(np.arange(5.0)) * np.eye(5)[2]
    assert reference.relative_error(wrong) == pytest.approx(1.0)
    assert reference.relative_error(np.arange(4.0)) == float("inf")


def test_round_robin_takes_turns_and_spreads_the_calls_of_slow_methods() -> None:
    order = ""

    def clock(name: str) -> Callable[[], float]:
        def call() -> float:
            nonlocal order
            order += name
            return float(len(order))

        return call

    num_calls = {"a": 4, "b": 4, "c": 1}
    samples = _harness.round_robin({name: clock(name) for name in num_calls}, num_calls)
    assert {name: len(values) for name, values in samples.items()} == num_calls
    assert order == "ab" + "ba" + "ab" + "abc"


def test_fast_methods_are_warmed_up_and_called_often_slow_ones_once() -> None:
    calls = []

    def clock(seconds: float) -> Callable[[], float]:
        return lambda: calls.append(seconds) or seconds

    budget = _harness.Budget(num_calls=20, num_warmups=3, seconds=30.0, slow_s=60.0)
    assert budget.warm_up(clock(0.1), 5.0) == 20  # a slow first call is forgotten
    assert budget.warm_up(clock(10.0), 10.0) == 3
    assert budget.warm_up(clock(100.0), 100.0) == 1
    assert calls == [0.1] * 3 + [10.0] * 3


def test_timing_of_known_samples() -> None:
    timing = _harness.Timing.of([5.0, 1.0, 2.0, 4.0, 3.0])
    assert timing == _harness.Timing(median_s=3.0, iqr_s=2.0, min_s=1.0, num_calls=5)


def test_clock_reads_the_time_of_one_call() -> None:
    seconds, result = _harness.timed(lambda: time.sleep(0.02) or "done")
    assert result == "done"
    assert 0.02 <= seconds < 2.0


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_peak_memory_is_what_a_call_allocates_and_frees() -> None:
    num_bytes = 2**26
    grown, _ = _harness.peak_bytes_of(lambda: np.ones(num_bytes, np.int8).sum())
    nothing, _ = _harness.peak_bytes_of(lambda: None)
    assert num_bytes * 0.98 <= grown <= 1.2 * num_bytes
    assert nothing < num_bytes / 16


FAKE_RUNNER = """
import os
import numpy as np
from benchmarks.peers import nt_bridge_runner, worker

class Fake:
    methods = ("fake",)
    def versions(self): return {"fake": "1"}
    def device(self): return "cpu"
    def prepare(self, method, problem):
        print("noise on standard output")
        if method == "dies":
            os._exit(7)
        return worker.Prepared(call=lambda: problem.x.sum(), to_numpy=np.asarray)

worker.serve(Fake())
"""


def test_worker_process_answers_fails_and_dies_as_it_should(tmp_path: Path) -> None:
    work = WORKLOADS["mlp"]("toy")
    worker.save_problem(worker.Problem(work, *work.draw()), tmp_path)
    about = {"case": "mlp", "size": "toy", "folder": str(tmp_path)}
    process = worker.Worker([sys.executable, "-c", FAKE_RUNNER])
    try:
        with pytest.raises(worker.MethodFailedError, match="before it was prepared"):
            process.ask(ask="time")
        reply = process.ask(ask="prepare", method="fake", **about)
        assert reply["versions"] == {"fake": "1"}
        assert reply["compile_s"] is None
        assert process.ask(ask="time")["seconds"] > 0
        with pytest.raises(worker.MethodFailedError, match="exit 7"):
            process.ask(ask="prepare", method="dies", **about)
        with pytest.raises(worker.MethodFailedError, match="exit 7"):
            process.ask(ask="time")
    finally:
        process.close()


def test_problem_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    work = WORKLOADS["gpt"]("toy")
    params, x, y = work.draw()
    worker.save_problem(worker.Problem(work, params, x, y), tmp_path)
    read = worker.load_problem("gpt", "toy", tmp_path)
    np.testing.assert_array_equal(read.x, x)
    np.testing.assert_array_equal(read.y, y)
    assert read.params.keys() == params.keys()
    for name, leaf in params.items():
        np.testing.assert_array_equal(read.params[name], leaf)


def test_blocked_jacobians_give_the_same_kernel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    work = WORKLOADS["mlp"]("toy")
    two_examples = 2 * 4 * work.k * work.num_params
    monkeypatch.setattr(worker, "JACOBIAN_BYTES", two_examples)
    assert worker.block_size(work) == 2
    rows, skipped = run_toy("mlp", ["jacrev"], own)
    assert skipped == []
    assert len(rows) == 1


@pytest.mark.parametrize("case", WORKLOADS)
def test_forward_flops_by_hand_agree_with_the_compiler(case: str) -> None:
    work = WORKLOADS[case]("full")
    params = {
        name: jax.ShapeDtypeStruct(leaf.shape, "float32")
        for name, leaf in work.leaves.items()
    }
    kind = "int32" if work.vocabulary else "float32"
    x = jax.ShapeDtypeStruct((work.n, *work.input_shape), kind)
    lowered = jax.jit(networks.apply_fn(work)).lower(params, x)
    counts: Any = lowered.cost_analysis()
    counted = counts["flops"]
    by_hand = work.n * roofline.forward_flops(work)
    # The compiler leaves out padding (9 % here) and counts what is elementwise, and
    # positions of the last block that nobody reads (20 % of gpt).
    assert 0.78 <= by_hand / counted <= 1.1


def test_floor_of_a_linear_model_is_its_input_gram() -> None:
    work = Workload(case="mlp", n=5, k=2, input_shape=(7,), sites=[Site(1, 7, 2, True)])
    forward = 5 * 2 * 7 * 2
    grams = 5**2 * (7 + 2**2 * (2 + 1))
    assert roofline.kernel_cost(work).flops == forward + grams
    assert roofline.kernel_cost(work).num_bytes == 4 * (5 * 7 + 5**2 * 2**2)


def test_floor_in_seconds_is_the_slower_of_arithmetic_and_traffic() -> None:
    peak = roofline.Cost(10.0, 100.0)
    assert roofline.Cost(20.0, 100.0).seconds(peak) == 2.0
    assert roofline.Cost(20.0, 500.0).seconds(peak) == 5.0


def test_full_sizes_are_those_of_the_design() -> None:
    sizes = {case: make("full") for case, make in WORKLOADS.items()}
    shown = {case: (work.n, work.k, work.input_shape) for case, work in sizes.items()}
    assert shown == {
        "mlp": (100, 10, (784,)),
        "cnn": (24, 10, (16, 16, 3)),
        "resnet": (16, 10, (32, 32, 3)),
        "vit": (24, 10, (16, 16, 3)),
        "gpt": (16, 10, (32,)),
    }
    assert sizes["mlp"].num_params == 785 * 1024 + 3 * 1025 * 1024 + 1025 * 10


def test_report_is_written_as_json_with_every_field(
    tmp_path: Path, mlp_rows: list[_harness.Row]
) -> None:
    skipped = _harness.Skipped(case="mlp", method="other", reason="not there")
    report = _harness.Report(
        machine=_harness.machine(), rows=tuple(mlp_rows), skipped=(skipped,)
    )
    path = tmp_path / "new" / "report.json"
    report.write(path)
    read = json.loads(path.read_text())
    assert read["rows"] == [dataclasses.asdict(row) for row in mlp_rows]
    assert read["skipped"] == [dataclasses.asdict(skipped)]
    assert read["machine"]["memory_bytes"] > 2**28


def test_table_states_the_ratio_to_the_best_peer(mlp_rows: list[_harness.Row]) -> None:
    times = {"lazyjax:auto": 1.0, "lazyjax:vjp": 9.0, "peer:a": 2.0, "peer:b": 8.0}
    rows = [
        dataclasses.replace(mlp_rows[0], method=m, median_s=s, peak_bytes=100)
        for m, s in times.items()
    ]
    text = empirical_ntk.table(rows)
    assert "lazyjax:auto is 2.00 times as fast as peer:a, in 1.00 times" in text
    assert math.isclose(float(text.rsplit(": ", 1)[1].split()[0]), 2.0)


@pytest.mark.slow
def test_command_line_writes_a_report(tmp_path: Path) -> None:
    out = tmp_path / "report.json"
    command = [sys.executable, "-m", "benchmarks.run_all", "--size", "toy"]
    options = ["--case", "mlp", "--method", "jacrev", "--seconds", "0.01"]
    missing = ["--peer", f"nt={tmp_path / 'no-python'}", "--out", str(out)]
    done = subprocess.run(
        [*command, *options, *missing],
        cwd=_harness.ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "peer nt left out" in done.stderr
    (row,) = json.loads(out.read_text())["rows"]
    assert row["method"] == "jacrev"
    assert 0 < row["roofline"] < 1


@pytest.mark.parametrize("case", infinite_works("toy"))
def test_infinite_kernel_is_right_and_a_wrong_one_is_not_timed(case: str) -> None:
    work = infinite_works("toy")[case]
    x = work.draw()
    fn, _ = infinite_runner.kernel_fn(infinite_ntk.OWN, work)
    result = np.asarray(fn(x))
    entries = Entries(work, x)
    limit = infinite_ntk.TOLERANCES[infinite_ntk.OWN]
    assert _harness.check(infinite_ntk.OWN, result, entries, limit) <= limit
    with pytest.raises(_harness.WrongAnswerError):
        _harness.check("wrong", 1.0001 * result, entries, limit)


class InfiniteInProcess:
    """A worker of infinite-width kernels without a process."""

    def __init__(self, wrong_by: float = 1.0) -> None:
        self.wrong_by = wrong_by

    def ask(self, **request: Any) -> dict[str, Any]:
        if request["ask"] == "time":
            return self.ready.time()
        self.ready = infinite_runner.Ready(request)
        path = Path(request["folder"]) / "result.npy"
        np.save(path, self.wrong_by * np.load(path))
        return self.ready.reply

    def close(self) -> None:
        pass


def test_infinite_kernels_have_complete_rows_unless_they_are_wrong() -> None:
    names = (infinite_ntk.OWN, infinite_ntk.BRIDGE)

    def run(wrong_by: float) -> tuple[list[_harness.Row], list[_harness.Skipped]]:
        workers = {names[0]: lambda: InfiniteInProcess(wrong_by)}
        workers[names[1]] = InfiniteInProcess
        entrants = [_contest.Contestant(*pair) for pair in workers.items()]
        return infinite_ntk.run_case(
            "fc", "toy", entrants, budget=FEW, say=lambda line: None
        )

    rows, skipped = run(1.0)
    assert skipped == []
    assert [row.method for row in rows] == list(names)
    assert all(row.versions["jax"] == jax.__version__ for row in rows)
    assert "fc/toy: lazyjax:infinite_ntk is" in empirical_ntk.table(rows)
    (row,), (item,) = run(1.0001)
    assert row.method == infinite_ntk.BRIDGE
    assert item.reason.startswith("WrongAnswerError")


@pytest.mark.parametrize("is_installed", [True, False])
def test_peers_of_infinite_kernels_take_part_if_they_are_there(
    is_installed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: is_installed)
    found = infinite_ntk.contestants({"nt": "python", "torch": "python"}, 2**30)
    methods = [entrant.method for entrant in found]
    assert (infinite_ntk.BRIDGE in methods) is is_installed
    assert methods[0] == infinite_ntk.OWN
    assert methods[-1] == infinite_ntk.BASELINE


def test_zero_error_is_certified_along_training_before_zero_loss() -> None:
    with jax.enable_x64(True):
        row = certify_along.measure("toy", certify_along.TOY["toy"])
    assert 0 < row["zero_error"]["step"] < row["zero_loss"]["step"]
    assert row["factor"] == row["zero_loss"]["step"] / row["zero_error"]["step"]
    verdicts = {found["verdict"] for found in row["warm_start"].values()}
    assert verdicts == {"CERTIFIED"}


@pytest.mark.parametrize("case", certify.TOY)
def test_certificates_of_toy_cases_are_measured(case):
    row = certify.measure(case, certify.TOY[case], num_calls=1)
    assert row["case"] == case
    assert row["median_s"] > 0
    assert row["peak_bytes"] >= 0


def test_training_is_that_of_the_host_loop():
    row = training.measure("small mlp", 1)
    assert row["rel_error"] <= training.TOLERANCE
    assert row["ratio"] == row["lazyjax_s"] / row["host_loop_s"]
