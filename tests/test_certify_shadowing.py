"""Runs whose beginning is computed: the exact ones are where they are said to be."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lazyjax import certify
from lazyjax.certify import Verdict
from lazyjax.certify.shadowing import descent, flow, following
from lazyjax.certify.shadowing.points import LayersPoints, ProgramPoints
from lazyjax.nets import mlp
from tests.helpers.program_problems import KINDS, start

pytestmark = pytest.mark.once

NETWORKS = {
    "softplus, first": mlp(
        width=24, activation="softplus", trained="first", readout="sign"
    ),
    "tanh, symmetrized, biases": mlp(
        width=12, activation="tanh", symmetrized=True, b_std=0.3
    ),
    "gelu, depth 2, two outputs": mlp(
        width=8, depth=2, activation="gelu", num_outputs=2, output_scale=0.7
    ),
}


def example(name, n=4):
    """A network with parameters, inputs and targets."""
    network, rng = NETWORKS[name], np.random.default_rng(0)
    x = rng.standard_normal((n, 5))
    y = rng.standard_normal((n, network.architecture.num_outputs))
    with jax.enable_x64(True):
        params = network.init(jax.random.key(1), jnp.asarray(x))
    return network, jax.tree.map(np.asarray, params), x, y


class Recorded:
    """Dynamics that note where the computed run is, and how far off it may be."""

    def __init__(self, inner):
        self.inner, self.name, self.seen = inner, inner.name, []

    def tail(self, bounds):
        return self.inner.tail(bounds)

    def advance(self, at, zone):
        residual = self.inner.advance(at, zone)
        self.seen.append((at.span, list(at.leaves), at.off))
        return residual


def slope_of(fn, structure, x, y):
    """The field of gradient flow, of leaves."""

    def loss(leaves):
        r = fn(structure.unflatten(leaves), x) - y
        return jnp.sum(r**2) / 2

    return lambda leaves: [-g for g in jax.grad(loss)(leaves)]


def moved(leaves, slopes, size):
    return [a + size * b for a, b in zip(leaves, slopes, strict=True)]


def runge_kutta_step(slope, leaves, h):
    """Leaves after a time `h`, by the classical method of fourth order."""
    k1 = slope(leaves)
    k2 = slope(moved(leaves, k1, h / 2))
    k3 = slope(moved(leaves, k2, h / 2))
    k4 = slope(moved(leaves, k3, h))
    for k, weight in ((k1, 1), (k2, 2), (k3, 2), (k4, 1)):
        leaves = moved(leaves, k, h * weight / 6)
    return leaves


def flow_at(slope, leaves, times, num_steps=200):
    """Gradient flow at several times, by the method of Runge and Kutta."""

    def step(h, leaves, _):
        return runge_kutta_step(slope, leaves, h), None

    @jax.jit
    def advance(leaves, time):
        run = functools.partial(step, time / num_steps)
        return jax.lax.scan(run, leaves, None, num_steps)[0]

    found, last = [], 0.0
    for time in times:
        leaves = advance(leaves, time - last)
        found.append(leaves)
        last = time
    return found


def distance(leaves, others):
    squares = (
        np.sum((np.asarray(a) - np.asarray(b)) ** 2)
        for a, b in zip(leaves, others, strict=True)
    )
    return float(np.sqrt(sum(squares)))


def ratios_of_flow(name):
    """Distances of the exact flow from computed points, by what they may be."""
    network, params, x, y = example(name)
    problem = following.problem_of(network, params, x, y, "proof")
    recorded = Recorded(flow._Flow(problem, 0.005))
    following.follow(problem, recorded, 30)
    while recorded.seen[-1][2] == np.inf:  # where it was lost, nothing is said
        recorded.seen.pop()
    structure = jax.tree.structure(params)
    with jax.enable_x64(True):
        leaves = list(map(jnp.asarray, problem.leaves))
        times = [span for span, *_ in recorded.seen]
        exact = flow_at(slope_of(network.apply, structure, x, y), leaves, times)
    return [
        distance(there, computed) / off
        for there, (_, computed, off) in zip(exact, recorded.seen, strict=True)
    ]


@pytest.mark.parametrize("name", NETWORKS)
def test_the_exact_flow_is_as_near_as_is_said(name):
    ratios = ratios_of_flow(name)
    assert len(ratios) >= 10
    assert max(ratios) <= 1
    assert min(ratios) > 1e-4  # of errors that are those of the method, not of rounding


def test_a_tube_without_its_defect_would_be_too_narrow(monkeypatch):
    tube = flow._tube

    def narrow(zone, step, off, time):
        return off + 1e-3 * (tube(zone, step, off, time) - off)

    monkeypatch.setattr(flow, "_tube", narrow)
    assert max(ratios_of_flow("softplus, first")) > 1


# Descent, in twice as many digits.


def wide_descent(params, x, y, step, num_steps):
    """Descent of a tanh network with one hidden layer, all in extended precision."""
    a = params["layer_1"]["kernel"].astype(np.longdouble)
    b = params["layer_2"]["kernel"].astype(np.longdouble)
    x, y, step = (np.asarray(v, np.longdouble) for v in (x, y, step))
    s, t = (np.sqrt(np.longdouble(1) / len(v)) for v in (a, b))
    s, t = (np.longdouble(float(v)) for v in (s, t))
    for _ in range(num_steps):
        h = np.tanh(s * (x @ a))
        r = t * (h @ b) - y
        slope_b = t * (h.T @ r)
        slope_a = s * (x.T @ (t * (r @ b.T) * (1 - h**2)))
        a, b = a - step * slope_a, b - step * slope_b
    return a, b


@pytest.mark.parametrize("is_described", [True, False])
def test_exact_descent_is_as_near_as_is_said(is_described):
    network = mlp(width=6, activation="tanh")
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((3, 4)), rng.standard_normal((3, 1))
    with jax.enable_x64(True):
        params = network.init(jax.random.key(1), jnp.asarray(x))
    params = jax.tree.map(np.asarray, params)
    given = network if is_described else network.apply
    problem = following.problem_of(given, params, x, y, "proof")
    points = LayersPoints if is_described else ProgramPoints
    assert isinstance(problem.points, points)
    recorded = Recorded(descent._Descent(problem, 0.125))
    following.follow(problem, recorded, 8)
    assert len(recorded.seen) == 8
    for number in (1, len(recorded.seen)):
        _, computed, off = recorded.seen[number - 1]
        exact = wide_descent(params, x, y, 0.125, number)
        away = distance(exact, [np.asarray(v, np.longdouble) for v in computed])
        assert 0 < away <= off < 1e-9


def test_both_ways_to_a_gradient_agree():
    for name in NETWORKS:
        network, params, x, y = example(name)
        one = following.problem_of(network, params, x, y, "proof")
        two = following.problem_of(network.apply, params, x, y, "proof")
        leaves = [leaf + 0.1 for leaf in one.leaves]
        assert one.points.trained == two.points.trained
        here, there = (p.points.gradient(leaves) for p in (one, two))
        apart = distance(here.leaves, there.leaves)
        assert apart <= here.error + there.error < 1e-8
        q = np.arange(1.0, y.size + 1)
        here, there = (p.points.linearized(leaves) for p in (one, two))
        (a, error_a), (b, error_b) = here.pull(q), there.pull(q)
        assert distance(a, b) <= error_a + error_b < 1e-8
        gap = np.linalg.norm(here.kernel.value - there.kernel.value, 2)
        assert gap <= here.kernel.error + there.kernel.error < 1e-8


# What is certified is kept.

NUM_STEPS = 1500


def check_promises(network, params, x, seed):
    """Check runs of a start that bounds alone do not certify.

    Returns:
        Whether flow and descent were certified.
    """
    fn, rng = getattr(network, "apply", network), np.random.default_rng(seed)
    with jax.enable_x64(True):
        f = np.asarray(fn(params, x))
    bounds = certify.bounds_at(network, params, x, f + 1e-3).local
    threshold = bounds.blocks[0].sigma_min ** 2 / (2 * bounds.lipschitz(0.0))
    way = rng.standard_normal(f.shape)
    y = f + float(rng.choice([1.5, 3.0, 10.0])) * threshold * way / np.linalg.norm(way)
    leaves, structure = jax.tree.flatten(params)
    verdicts = []
    for verb in (certify.shadowed_flow, certify.shadowed_descent):
        found = verb(network, params, x, y, num_steps=200)
        verdicts.append(found.is_certified)
        if not found.is_certified:
            continue
        assert found["num_computed"] > 0
        is_flow = verb is certify.shadowed_flow
        step = 0.2 / found["jacobian_norm"] ** 2
        if not is_flow:
            assert found.step_size is not None
            step = found.step_size
        losses, away = run_of(fn, structure, leaves, x, y, step, is_flow)
        times = np.arange(NUM_STEPS) * (step if is_flow else 1)
        allowed = np.array([found.loss_bound(float(t)) for t in times])
        floor = 1e-26 * (1 + np.sum(y**2))
        assert np.all(losses <= losses[0] * allowed * (1 + 1e-7) + floor)
        assert found.radius is not None
        assert np.all(away <= found.radius * (1 + 1e-9) + 1e-13)
    return verdicts


def run_of(fn, structure, leaves, x, y, step, is_flow):
    """Losses and distances along a run, after every step."""
    slope = slope_of(fn, structure, x, y)

    def advance(p, _):
        r = fn(structure.unflatten(p), x) - y
        squares = (jnp.sum((a - b) ** 2) for a, b in zip(p, leaves, strict=True))
        seen = jnp.sum(r**2) / 2, jnp.sqrt(sum(squares))
        if not is_flow:
            return moved(p, slope(p), step), seen
        return runge_kutta_step(slope, p, step), seen

    with jax.enable_x64(True):
        first = list(map(jnp.asarray, leaves))
        run = jax.jit(lambda p: jax.lax.scan(advance, p, None, NUM_STEPS)[1])
        return tuple(map(np.asarray, run(first)))


@pytest.mark.parametrize("name", ["softplus, first", "tanh, symmetrized, biases"])
def test_what_is_certified_is_kept(name):
    network, params, x, _ = example(name)
    assert check_promises(network, params, x, 0) == [True, True]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_certified_is_kept_by_many(kind):
    verdicts = [
        check_promises(KINDS[kind], *start(kind, seed), seed) for seed in range(6)
    ]
    assert sum(map(sum, verdicts)) >= 3


def test_a_slow_beginning_is_in_the_rate():
    """Of f = w^2 from near 0, all steps are known: the bound is met, and by one nearly."""
    fn = lambda p, x: p**2 * x
    x, y, w = np.ones((1, 1)), np.ones((1, 1)), 0.2
    found = certify.shadowed_descent(
        fn, np.array([[w]]), x, y, learning_rate=0.3, num_steps=50
    )
    assert found.is_certified
    losses = []
    for _ in range(60):
        losses.append((w**2 - 1) ** 2 / 2)
        w = w - 0.3 * (w**2 - 1) * 2 * w
    bounds = [losses[0] * found.loss_bound(k) for k in range(60)]
    assert np.all(np.array(losses) <= np.array(bounds) * (1 + 1e-9) + 1e-30)
    assert max(np.array(losses[1:6]) / np.array(bounds[1:6])) > 0.99


# What must not be promised.


def test_nothing_is_known_beyond_a_jump():
    jumps = lambda p, x: jnp.where(p < 1, p, -p) * x
    args = (np.array([[0.5]]), np.ones((1, 1)), np.array([[2.0]]))
    assert not certify.shadowed_flow(jumps, *args, num_steps=16).is_certified


def test_a_singular_start_may_be_left_and_a_singular_end_is_not_certified():
    fn = lambda p, x: p**2 * x
    one, zero = np.ones((1, 1)), np.zeros((1, 1))
    for verb in (certify.shadowed_flow, certify.shadowed_descent):
        assert not verb(fn, zero, one, one, num_steps=16).is_certified
    # The residual goes to zero, and so does the Jacobian.
    assert not certify.shadowed_flow(fn, one, one, zero, num_steps=32).is_certified


def test_more_steps_than_there_are_change_nothing_and_none_is_the_theorem():
    network, params, x, y = example("softplus, first")
    found = certify.shadowed_descent(network, params, x, y, num_steps=0)
    assert not found.is_certified
    assert found.theorem == "gradient descent from bounds at the start"
    few = certify.shadowed_descent(network, params, x, y, num_steps=3)
    assert not few.is_certified
    many = [
        certify.shadowed_descent(network, params, x, y, num_steps=n)
        for n in (2000, 3000)
    ]
    assert many[0].is_certified
    assert many[0] == many[1]


def test_descent_that_diverges_is_not_certified():
    network, params, x, y = example("softplus, first")
    norm = certify.bounds_at(network, params, x, y).local.jacobian_norm
    found = certify.shadowed_descent(
        network, params, x, y, learning_rate=2.5 / norm**2, num_steps=300
    )
    assert not found.is_certified


def test_equal_inputs_with_two_targets_are_refuted():
    network, params, _, _ = example("softplus, first")
    x, y = np.ones((2, 5)), np.array([[1.0], [-1.0]])
    for verb in (certify.shadowed_flow, certify.shadowed_descent):
        assert verb(network, params, x, y, num_steps=2).verdict is Verdict.REFUTED


@pytest.mark.usefixtures("own_errors")
def test_bad_arguments_are_named():
    network, params, x, y = example("softplus, first")
    with pytest.raises(ValueError, match="`num_steps`"):
        certify.shadowed_flow(network, params, x, y, num_steps=-1)
    with pytest.raises(ValueError, match="`learning_rate`"):
        certify.shadowed_descent(network, params, x, y, learning_rate=-0.1)
