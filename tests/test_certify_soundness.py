"""No certificate promises what the run does not keep; and bounds decide, not chance."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lazyjax import certify
from lazyjax.certify import Verdict
from lazyjax.certify.arithmetic import activations as activation_bounds
from lazyjax.certify.bounds import layers as dense_layers
from lazyjax.certify.bounds.start import described_start
from lazyjax.certify.theorems import relu, residual as theorems
from lazyjax.nets import mlp
from tests.helpers import certified_runs, random_problems
from tests.helpers.certified_runs import KINDS
from tests.helpers.compare import assert_close

pytestmark = pytest.mark.once

NUM_STEPS = 60
# Fractions of the residual that flow can just be certified for.
CONDITIONS = (0.2, 0.8, 0.98, 1.02, 1.5)

FAMILIES = {
    "softplus, first layer": (
        mlp(width=16, activation="softplus", trained="first", readout="sign"),
        (4, 6),
    ),
    "tanh, both layers, two outputs": (
        mlp(width=16, activation="tanh", num_outputs=2, b_std=0.5),
        (3, 5),
    ),
    "gelu, mup, symmetrized": (
        mlp(width=12, activation="gelu", parameterization="mup", symmetrized=True),
        (4, 5),
    ),
    "sin, depth 2": (mlp(width=10, depth=2, activation="sin"), (3, 4)),
    "tanh, depth 3, standard": (
        mlp(
            width=8, depth=3, activation="tanh", parameterization="standard", b_std=0.2
        ),
        (3, 4),
    ),
    "relu, first layer": (
        mlp(width=64, activation="relu", trained="first", readout="sign"),
        (3, 5),
    ),
}


def problems_of(family: str, per_cell: int, first_seed: int = 0):
    network, shape = FAMILIES[family]
    cells = [(kind, condition) for kind in KINDS for condition in CONDITIONS]
    return network, [
        certified_runs.problem(
            network, shape, kind, first_seed + 1000 * cell + i, condition
        )
        for cell, (kind, condition) in enumerate(cells)
        for i in range(per_cell)
    ]


def certificates_of(network, problems) -> tuple[list[Any], list[Any]]:
    """Of flow and descent, from the same bounds, as they take most of the time."""
    flow, descent = [], []
    theorem: Any
    for p in problems:
        if network.architecture.activation == "relu":
            theorem = relu
            bounds = described_start(network, p.params, p.x, p.y).flips
        else:
            theorem = theorems
            bounds = certify.local_bounds(network, p.params, p.x, p.y)
        flow.append(theorem.flow_theorem(bounds))
        descent.append(theorem.descent_theorem(bounds))
    return flow, descent


def check_family(family: str, per_cell: int, first_seed: int = 0) -> tuple[int, int]:
    """Number of certificates of either kind that held, after all were checked."""
    network, problems = problems_of(family, per_cell, first_seed)
    flow, descent = certificates_of(network, problems)
    # A step for Runge and Kutta that is short for all the path.
    short = [
        0.1 / (c["jacobian_norm"] ** 2 * 4 + 1e-300) if c.is_certified else 0.0
        for c in flow
    ]
    steps = [c.step_size if c.is_certified else 0.0 for c in descent]
    counts = []
    for how, certificates, sizes in (
        ("flow", flow, short),
        ("descent", descent, steps),
    ):
        loss, away = certified_runs.runs(network, how, problems, sizes, NUM_STEPS)
        for i, certificate in enumerate(certificates):
            if not certificate.is_certified:
                continue
            scale = 1 + np.sum(problems[i].y ** 2)
            times = np.arange(NUM_STEPS + 1) * (sizes[i] if how == "flow" else 1)
            broken = certified_runs.violations(
                certificate, loss[i], away[i], times, floor=1e-24 * scale
            )
            assert not broken, (family, how, problems[i].kind, i, broken)
        counts.append(sum(c.is_certified for c in certificates))
    for p, certificate in zip(problems, flow, strict=True):
        if p.kind == "duplicates":
            assert certificate.verdict is not Verdict.CERTIFIED
            equal = np.array_equal(p.y[0], p.y[1])
            assert (certificate.verdict is Verdict.REFUTED) == (not equal)
    return counts[0], counts[1]


@pytest.mark.parametrize("family", FAMILIES)
def test_what_runs_is_the_network_that_users_have(family):
    network, (p, *_) = problems_of(family, 1)
    batch, copies = certified_runs.start_of(network, [p])
    loss, gradient = batch.loss_and_gradient(copies)

    def loss_of(params):
        return jnp.sum((network.apply(params, jnp.asarray(p.x)) - p.y) ** 2) / 2

    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, p.params)
        value, grads = jax.value_and_grad(loss_of)(params)
    assert_close(loss[0], value, 1e-9)
    # In the order of the arrays: by size, as one holds lists and the other a tree.
    norms = [np.linalg.norm(v) for v in certified_runs.leaves(gradient)]
    expected = [np.linalg.norm(v) for v in jax.tree.leaves(grads)]
    assert_close(np.sort(norms), np.sort(expected), 1e-9)


# Random networks, below, have several outputs and copies too.
LONGER = {*FAMILIES} - {"tanh, depth 3, standard"}


@pytest.mark.parametrize(
    "family",
    [pytest.param(f, marks=[pytest.mark.slow] * (f in LONGER)) for f in FAMILIES],
)
def test_certified_runs_keep_their_promise(family):
    per_cell = 3
    num_flow, num_descent = check_family(family, per_cell)
    # Not vacuous, though most kinds of problems are meant to be hard.
    num_problems = per_cell * len(KINDS) * len(CONDITIONS)
    assert num_problems * len(FAMILIES) >= 500
    assert 5 <= num_flow < num_problems
    assert 3 <= num_descent <= num_flow


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_certified_runs_keep_their_promise_on_many_problems(family):
    check_family(family, per_cell=40, first_seed=10**6)


@pytest.mark.parametrize("family", ["softplus, first layer", "sin, depth 2"])
def test_plain_floats_agree_with_proofs_where_rounding_does_not_matter(family):
    network, problems = problems_of(family, 1)
    for p in problems:
        if p.kind != "plain":
            continue
        proof = certify.gradient_flow(network, p.params, p.x, p.y)
        plain = certify.gradient_flow(network, p.params, p.x, p.y, rigor="float")
        assert plain.verdict is proof.verdict
        for name in ("sigma_min", "lipschitz", "residual", "jacobian_norm"):
            assert plain[name] == pytest.approx(proof[name], rel=1e-6)
        # Bounds are on their side of the plain values.
        assert proof["sigma_min"] <= plain["sigma_min"] * (1 + 1e-15)
        assert proof["residual"] >= plain["residual"] * (1 - 1e-15)
        assert proof["jacobian_norm"] >= plain["jacobian_norm"] * (1 - 1e-15)


def test_a_flow_certificate_implies_existence():
    network, problems = problems_of("tanh, both layers, two outputs", 1)
    some = 0
    for p in problems:
        flow: Any = certify.gradient_flow(network, p.params, p.x, p.y)
        exists: Any = certify.existence(network, p.params, p.x, p.y)
        # The flow may be certified by the first layer alone, existence is not.
        if flow.is_certified and not any("alone" in s for s in flow.premises):
            some += 1
            assert exists.is_certified
            assert exists.radius <= flow.radius * (1 + 1e-9)
        if exists.is_certified:
            assert exists["zero_distance"] <= exists.radius
    assert some >= 2


@pytest.mark.parametrize(
    "changes",
    [
        {"x": lambda x: x * math.nan},
        {"y": lambda y: y * math.inf},
    ],
)
@pytest.mark.usefixtures("own_errors")
def test_data_that_are_not_finite_are_refused(changes):
    network, (p, *_) = problems_of("sin, depth 2", 1)
    data = {"x": p.x, "y": p.y}
    (name,) = changes
    data[name] = changes[name](data[name])
    with pytest.raises(ValueError, match=f"`{name}` must be finite"):
        certify.gradient_flow(network, p.params, data["x"], data["y"])


def test_residual_of_plain_floats_is_a_number_whatever_the_order_of_its_sums():
    """Sums of squares in two orders may differ by an ulp, in either direction."""
    network, problems = problems_of("softplus, first layer", 1)
    p = problems[0]
    rng = np.random.default_rng(0)
    for _ in range(50):
        y = p.y + rng.standard_normal(p.y.shape)
        bounds = certify.local_bounds(network, p.params, p.x, y, rigor="float")
        assert 0 < bounds.residual.low <= bounds.residual.high


# Random networks, of all fields.


def check_random_problems(first_seed: int, num_networks: int, per_network: int) -> dict:
    """Numbers of verdicts, after all promises were checked."""
    counts: dict[tuple[str, str], int] = {}
    broken = []
    for seed in range(first_seed, first_seed + num_networks):
        rng = np.random.default_rng(seed)
        network = random_problems.random_network(rng)
        for i in range(per_network):
            problem = random_problems.random_problem(network, rng)
            verdicts, found = random_problems.broken_promises(network, problem, rng)
            broken += [(seed, i, problem.kind, network.architecture, f) for f in found]
            for name, verdict in verdicts.items():
                key = name, verdict.name
                counts[key] = counts.get(key, 0) + 1
    assert not broken
    return counts


def test_random_networks_keep_what_is_certified_of_them():
    counts = check_random_problems(10**4, num_networks=3, per_network=10)
    assert counts["flow", "CERTIFIED"] >= 5
    assert counts["descent", "CERTIFIED"] >= 5
    assert counts["existence", "CERTIFIED"] >= 2
    assert counts["existence", "REFUTED"] >= 2
    assert counts["flow", "INCONCLUSIVE"] >= 2


@pytest.mark.slow
def test_many_random_networks_keep_what_is_certified_of_them():
    counts = check_random_problems(0, num_networks=130, per_network=8)
    assert sum(n for (name, _), n in counts.items() if name == "flow") >= 1000
    for name in ("flow", "descent", "descent at a rate", "existence"):
        assert counts[name, "CERTIFIED"] >= 80


def test_random_networks_have_all_values_of_all_fields_that_are_handled():
    networks = [
        random_problems.random_network(np.random.default_rng(seed))
        for seed in range(130)
    ]
    for name in dense_layers.HANDLED:
        values = {getattr(network.architecture, name) for network in networks}
        assert len(values) >= 2, name
    activations = {network.architecture.activation for network in networks}
    assert activations >= set(activation_bounds.SMOOTH_ACTIVATIONS)
    depths = {network.architecture.depth for network in networks}
    assert depths == {0, 1, 2, 3}


@pytest.mark.parametrize("seed", range(10**4, 10**4 + 3))
def test_random_networks_that_run_are_those_that_users_have(seed):
    rng = np.random.default_rng(seed)
    network = random_problems.random_network(rng)
    problem = random_problems.random_problem(network, rng)
    batch, copies = certified_runs.start_of(network, [problem])
    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, problem.params)
        f = network.apply(params, jnp.asarray(problem.x))
    assert_close(
        batch.residual(copies), np.asarray(f).ravel() - problem.y.ravel(), 1e-7
    )


def test_promises_that_are_not_kept_are_found():
    """Of a network whose outputs are ten times those that it was certified for."""
    rng = np.random.default_rng(3)
    network = mlp(width=6, depth=0)
    found = 0
    for _ in range(12):
        problem = random_problems.random_problem(network, rng)
        described = dataclasses.replace(network.architecture, output_scale=10.0)
        scaled = dataclasses.replace(network, architecture=described)
        certificate: Any = certify.gradient_descent(
            network, problem.params, problem.x, problem.y
        )
        if certificate.is_certified:
            loss, _ = certified_runs.runs(
                scaled, "descent", [problem], [certificate.step_size], NUM_STEPS
            )
            bound = loss[0, 0] * certificate.loss_bound(NUM_STEPS)
            found += not loss[0, -1] <= bound
    assert found >= 2
