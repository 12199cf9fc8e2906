"""The experiment on Du et al. (2019), at a size that takes seconds, against NumPy."""

import dataclasses
import io
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rich.console import Console

import lazyjax
from lazyjax import plot, report
from lazyjax.certify.widths import du2019 as argument
from lazyjax.dynamics import square_loss
from lazyjax.dynamics.problem import named_observers
from lazyjax.experiments import run
from lazyjax.experiments.convergence import du2019
from lazyjax.experiments.convergence.du2019 import SIZES, Du2019Size
from lazyjax.sweeps.program import Members, SweepSettings, train_chunk
from tests.helpers.compare import assert_close
from tests.helpers.experiments import check_control, checked_run

pytestmark = [pytest.mark.usefixtures("x64"), pytest.mark.once]

KEY = jax.random.key(0)
TINY = Du2019Size(
    widths=(8, 16), num_seeds=2, num_train=12, num_steps=30, num_observed=4
)


@pytest.fixture(scope="module")
def progress():
    return []


@pytest.fixture(scope="module")
def result(progress):
    note = lambda share, words: progress.append((share, words))
    with jax.enable_x64(True):
        return run("du2019", size=TINY, seed=3, progress=note).measured


@dataclasses.dataclass
class Oracle:
    """Gradient descent of one member in NumPy, neuron by neuron, all kernels kept."""

    loss: np.ndarray
    outputs: np.ndarray
    kernels: np.ndarray
    distance: float
    flips: float


def kernel_of(x, weights):
    n, width = x.shape[0], weights.shape[1]
    kernel = np.zeros((n, n))
    for r in range(width):
        active = x @ weights[:, r] > 0
        kernel += np.outer(active, active) * (x @ x.T) / width
    return kernel


def oracle(result, width, seed_index):
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(3), width), seed_index)
    with jax.enable_x64(True):
        network = lazyjax.nets.build(argument.ARCHITECTURE, width=width)
        params = network.init(key, result.data.x_train)
    x, y = np.asarray(result.data.x_train), np.asarray(result.data.y_train)[:, 0]
    weights = np.array(params["layer_1"]["kernel"])
    signs = np.array(params["layer_2"]["kernel"])[:, 0]
    start, rate = weights.copy(), float(result.learning_rate)
    loss, outputs, kernels = [], [], []
    for step in range(TINY.num_steps + 1):
        f = np.maximum(x @ weights, 0) @ signs / width**0.5
        loss.append(((f - y) ** 2).sum() / 2)
        if step in result.observed_at:
            outputs.append(f)
            kernels.append(kernel_of(x, weights))
        for r in range(width):
            active = x @ weights[:, r] > 0
            gradient = (x * (active * (f - y))[:, None]).sum(0) * signs[r] / width**0.5
            # The last step is not taken: weights end where the last loss was.
            if step < TINY.num_steps:
                weights[:, r] -= rate * gradient
    return Oracle(
        np.array(loss),
        np.array(outputs),
        np.array(kernels),
        float(np.linalg.norm(weights - start)),
        float(np.mean((x @ weights > 0) != (x @ start > 0))),
    )


@pytest.fixture(scope="module", params=[(0, 8, 0), (1, 16, 1)])
def member(request, result):
    i, width, seed = request.param
    return i, seed, oracle(result, width, seed)


def test_every_number_of_a_member_is_that_of_numpy(result, member):
    i, s, truth = member
    x, y = np.asarray(result.data.x_train), np.asarray(result.data.y_train)[:, 0]
    norm, spectral = np.linalg.norm, lambda a: np.linalg.norm(a, 2)
    rho = np.clip(x @ x.T, -1, 1)
    np.fill_diagonal(rho, 1)
    limit = rho * (np.pi - np.arccos(rho)) / (2 * np.pi)
    start, end = truth.kernels[0], truth.kernels[-1]

    assert_close(result.loss[i, s], truth.loss, 1e-9)
    assert_close(result.eig_min[i, s], np.linalg.eigvalsh(start)[0], 1e-7)
    assert_close(result.start_distance[i, s], norm(start - limit) / norm(limit), 1e-6)
    assert_close(result.drift[i, s], norm(end - start) / norm(start), 1e-9)
    assert_close(result.parameter_distance[i, s], truth.distance, 1e-9)
    assert_close(result.flips[i, s], truth.flips, 1e-9)
    late = np.log(truth.loss[15] / truth.loss[30]) / (15 * float(result.learning_rate))
    assert_close(result.rate[i, s], late, 1e-7)
    assert_close(1 / result.learning_rate, spectral(limit), 1e-6)

    rate = float(result.learning_rate)
    f = truth.outputs[0].copy()
    linear, loss_linear = [], []
    for step in range(TINY.num_steps + 1):
        loss_linear.append(((f - y) ** 2).sum() / 2)
        if step in result.observed_at:
            linear.append(f)
        f = f - rate * start @ (f - y)
    assert_close(result.loss_linear[i, s], np.array(loss_linear), 1e-9)
    gap = norm(truth.outputs - np.array(linear), axis=1).max() / len(y) ** 0.5
    assert_close(result.gap[i, s], gap, 1e-9)

    steps = {step.label: step for step in result.measurement.steps}
    assert_close(steps["B"].measured[i, s], spectral(start - limit), 1e-6)
    drift = max(spectral(kernel - start) for kernel in truth.kernels)
    assert_close(steps["C"].measured[i, s], drift, 1e-9)


def test_members_do_not_depend_on_what_else_is_computed(result):
    alone = dataclasses.replace(TINY, widths=(16, 24), num_observed=2)
    with jax.enable_x64(True):
        other = run("du2019", size=alone, seed=3).measured
    assert_close(other.loss[0], result.loss[1], 1e-9)
    assert_close(other.drift[0], result.drift[1], 1e-9)


def test_seed_chooses_examples_and_initializations(result, monkeypatch):
    class Asked(Exception):
        pass

    def ask(architecture, x, *_, key, **__):
        raise Asked(x, jax.random.key_data(key))

    monkeypatch.setattr(du2019, "sweep", ask)
    asked = []
    for seed in (3, 3, 4):
        with pytest.raises(Asked) as caught:
            run("du2019", size=TINY, seed=seed)
        asked.append([np.asarray(array) for array in caught.value.args])
    for same, other in zip(asked[1], asked[2], strict=True):
        assert not np.array_equal(same, other)
    assert_close(asked[0][0], result.data.x_train, "exact")
    assert_close(asked[1][1], asked[0][1], "exact")


@pytest.mark.parametrize("num_observed", [2, 3, 6])
def test_observed_steps_include_both_ends(num_observed):
    for num_steps in (1, 2, 10, 1000):
        size = Du2019Size(widths=(1, 2), num_steps=num_steps, num_observed=num_observed)
        steps = du2019._observed_steps(size)
        assert steps[0] == 0
        assert steps[-1] == num_steps
        assert list(steps) == sorted(set(steps))


def batched_lapack_calls(lowered):
    calls = [line for line in lowered.as_text().splitlines() if "@lapack_" in line]
    return [line for line in calls if re.search(r": \(tensor<\d+x\d+x\d+x", line)]


def test_no_program_makes_batched_lapack_calls(result, own_errors):
    """As many at once as there are cores deadlock on the CPU with JAX 0.10."""
    # Run-time type checks are off, since `lower` builds results of no arrays.
    x, y = result.data.x_train, result.data.y_train
    settings = SweepSettings(
        optimizer=optax.sgd,
        num_steps=3,
        loss_fn=square_loss,
        center=False,
        observers=named_observers(du2019._OBSERVERS),
        observe_at=(0, 3),
        keep_params=False,
    )
    network = lazyjax.nets.build(argument.ARCHITECTURE, width=8)
    start = jax.vmap(lambda key: network.init(key, x))(jax.random.split(KEY, 2))
    members = Members(start, jnp.ones(2), jnp.full(2, 0.1))
    program = train_chunk.lower(
        members, x, y, network=network, settings=settings, mesh=None
    )
    assert batched_lapack_calls(program) == []

    run = program.compile()(members, x, y)
    twice = lambda leaf: jnp.stack([leaf, leaf])
    analysis = du2019._analysis.lower(
        result.data,
        jnp.eye(x.shape[0]),
        result.learning_rate,
        twice(run["loss"]),
        jax.tree.map(twice, run["observations"]),
        widths=(8, 16),
        observed_at=(0, 3),
    )
    assert "@lapack_" in analysis.as_text()
    assert batched_lapack_calls(analysis) == []


def test_batched_lapack_calls_would_be_seen():
    lowered = jax.jit(jax.vmap(jnp.linalg.eigvalsh)).lower(jnp.ones((2, 3, 3)))
    assert len(batched_lapack_calls(lowered)) == 1


def test_progress_runs_from_nothing_to_all(result, progress):
    shares = [share for share, _ in progress]
    assert shares[0] == 0
    assert shares[-1] == 1
    assert shares == sorted(shares)
    words = [words for _, words in progress]
    assert words[0] == "reading digits"
    assert {word.split(":")[0] for word in words} >= {
        "training width 8",
        "training width 16",
    }
    assert words[-2:] == ["comparing", "done"]


def test_json_is_strict_and_holds_what_was_measured(result):
    def refuse(token):
        raise AssertionError(token)

    parsed = json.loads(report.json_bytes(result.numbers()), parse_constant=refuse)
    assert parsed["widths"] == [8, 16]
    assert_close(np.array(parsed["drift"]), result.drift)
    every = np.array(parsed["loss_at"])
    assert set(result.observed_at) <= set(every.tolist())
    assert_close(np.array(parsed["loss"]), np.asarray(result.loss)[..., every])
    assert list(parsed["steps"]) == ["A", "B", "B'", "C", "C'", "D", "D'"]
    assert [s["quantity"] for s in parsed["slopes"]] == [
        "start_distance",
        "drift",
        "gap",
        "parameter_distance",
    ]


def test_tables_fit_into_120_columns_unbroken(result):
    for table in result.tables():
        console = Console(width=120, record=True, file=io.StringIO())
        console.print(table)
        lines = console.export_text().splitlines()
        assert max(map(len, lines)) <= 120
        num_rows = sum("│" in line for line in lines)
        assert num_rows == table.row_count, "a cell was broken over lines"


def test_figure_has_panels_with_labels(result):
    figure = result.figure()
    assert len(figure.axes) == 4
    assert all(axes.get_xlabel() and axes.get_ylabel() for axes in figure.axes)
    assert plot.png_bytes(figure, dpi=50).startswith(b"\x89PNG")


def test_quickstart_size_is_that_of_the_claims():
    size = SIZES["quick"]
    assert len(size.widths) >= 4
    assert size.widths[-1] >= 8 * size.widths[0]
    assert size.num_seeds >= 4
    assert size.num_train == 100


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"widths": (8,)}, r"`len\(widths\)` must be at least 2"),
        ({"widths": (8, 8)}, "`widths` must be one or more increasing"),
        ({"widths": (0, 8)}, r"`widths\[0\]` must be at least 1"),
        ({"num_seeds": 1}, "`num_seeds` must be at least 2"),
        ({"num_steps": 0}, "`num_steps` must be at least 1"),
    ],
)
def test_bad_sizes_are_refused_by_name(own_errors, changes, message):
    with pytest.raises(ValueError, match=message):
        Du2019Size(**({"widths": (8, 16)} | changes))


def test_the_verdict_needs_inputs_that_are_not_parallel():
    result = checked_run("du2019", word="reproduced")
    assert result.verdict.checks[0].measured == 1
    control = check_control("du2019")
    assert float(control.measured.measurement.positive.measured) < 1e-5
