"""No certificate read from a program promises what the run does not keep."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lazyjax import certify
from lazyjax.certify.arithmetic.rounding import Interval
from lazyjax.certify.bounds.program.start import program_start
from lazyjax.certify.theorems import residual
from tests.helpers.program_problems import KINDS, start

pytestmark = pytest.mark.once

# Sizes of the residual, as a fraction of what flow can just be certified for.
CONDITIONS = (0.3, 0.9, 0.99, 0.9999, 1.01, 1.3)
NUM_STEPS = 3000


def certificates(kind, seed, condition):
    """A problem with a residual of that size, and certificates of flow and descent."""
    params, x = start(kind, seed)
    fn, rng = KINDS[kind], np.random.default_rng(seed)
    with jax.enable_x64(True):
        f = np.asarray(fn(params, x))
    direction = rng.standard_normal(f.shape)
    direction /= np.linalg.norm(direction)
    unit = program_start(fn, params, x, f + direction, "proof").local

    def is_certified(size):
        bounds = dataclasses.replace(
            unit,
            residual=Interval(size * unit.residual.low, size * unit.residual.high),
            newton_norm=size * unit.newton_norm,
        )
        return residual.flow_theorem(bounds).is_certified

    low, high = 1e-6, 10.0
    while high > (1 + 1e-4) * low:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if is_certified(middle) else (low, middle)
    y = f + condition * low * direction
    local = program_start(fn, params, x, y, "proof").local
    found = residual.flow_theorem(local), residual.descent_theorem(local)
    return params, x, y, found


@functools.cache
def run_of(kind, is_flow):
    """Losses and distances along flow, by short steps of Runge and Kutta, or descent.

    One compiled program for all problems of a kind.
    """
    fn = KINDS[kind]

    def moved(p, g, size):
        return jax.tree.map(lambda a, b: a - size * b, p, g)

    def run(start, x, y, step):
        def loss_fn(p):
            return jnp.sum((fn(p, x) - y) ** 2) / 2

        def advance(p, _):
            loss, k1 = jax.value_and_grad(loss_fn)(p)
            squares = jax.tree.map(lambda a, b: jnp.sum((a - b) ** 2), p, start)
            distance = jnp.sqrt(sum(jax.tree.leaves(squares)))
            if not is_flow:
                return moved(p, k1, step), (loss, distance)
            k2 = jax.grad(loss_fn)(moved(p, k1, step / 2))
            k3 = jax.grad(loss_fn)(moved(p, k2, step / 2))
            k4 = jax.grad(loss_fn)(moved(p, k3, step))
            for k, weight in ((k1, 1), (k2, 2), (k3, 2), (k4, 1)):
                p = moved(p, k, weight * step / 6)
            return p, (loss, distance)

        return jax.lax.scan(advance, start, None, NUM_STEPS)[1]

    return jax.jit(run)


def check_run(kind, params, x, y, certificate, is_flow):
    """Check loss and distance along flow, or descent by the certified step."""
    step = certificate.step_size
    if is_flow:
        step = 0.2 / certificate["jacobian_norm"] ** 2
    with jax.enable_x64(True):
        tree = jax.tree.map(jnp.asarray, params)
        losses, distances = map(np.asarray, run_of(kind, is_flow)(tree, x, y, step))
    times = np.arange(NUM_STEPS) * (step if is_flow else 1)
    allowed = losses[0] * np.array([certificate.loss_bound(float(t)) for t in times])
    floor = 1e-26 * (1 + np.sum(y**2))
    assert np.all(losses <= allowed * (1 + 1e-7) + floor)
    assert np.all(distances <= certificate.radius * (1 + 1e-7) + 1e-13)


def check_kind(kind, seeds):
    """Check certificates of several problems, and count those that hold."""
    count = 0
    for seed in seeds:
        condition = CONDITIONS[seed % len(CONDITIONS)]
        params, x, y, found = certificates(kind, seed, condition)
        for certificate, is_flow in zip(found, (True, False), strict=True):
            if certificate.is_certified:
                check_run(kind, params, x, y, certificate, is_flow)
                count += 1
            elif is_flow:  # or all units of an example are dead
                assert condition > 0.98 or certificate["sigma_min"] == 0
    return count


# One of each sort: smooth, with kinks, with shared weights.
QUICK = ("attention", "relu", "recurrent")


@pytest.mark.parametrize(
    "kind",
    [pytest.param(k, marks=[pytest.mark.slow] * (k not in QUICK)) for k in KINDS],
)
def test_what_is_certified_is_kept(kind):
    assert check_kind(kind, range(1, 2)) >= 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_certified_is_kept_by_very_many(kind):
    assert check_kind(kind, range(100, 160)) > 40


@pytest.mark.parametrize("kind", ["mlp", "attention"])
def test_training_ends_where_it_is_certified(kind):
    params, x = start(kind, 3)
    rng = np.random.default_rng(0)
    y = rng.standard_normal((2, 1))
    found = certify.warm_start(KINDS[kind], params, x, y, until="converged")
    assert found.certificate.is_certified
    with jax.enable_x64(True):
        f = np.asarray(KINDS[kind](found.params, x))
    assert np.linalg.norm(f - y) < 1e-12
