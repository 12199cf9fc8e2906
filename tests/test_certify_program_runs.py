"""No certificate read from a program promises what the run does not keep."""

import collections
import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from lazyjax import certify
from lazyjax.certify.arithmetic.rounding import Interval
from lazyjax.certify.bounds.program.lipschitz import ProgramLipschitz
from lazyjax.certify.bounds.program.start import program_start
from lazyjax.certify.theorems import residual
from tests.helpers.program_functions import start_of
from tests.helpers.program_problems import KINDS, start

pytestmark = pytest.mark.once

THEOREMS = {"flow": residual.flow_theorem, "descent": residual.descent_theorem}

# Sizes of the residual, as a fraction of what a theorem just certifies.
CONDITIONS = (0.3, 0.9, 0.99, 1.0, 1.02, 1.3)
NUM_STEPS = 3000

# Problems of a kind that run at once, in one compiled program.
BATCH = 80


class Problem(NamedTuple):
    """A problem, and its certificates by name of the theorem."""

    name: str
    condition: float
    params: Any
    x: np.ndarray
    y: np.ndarray
    certificates: dict[str, Any]


class Coarse(ProgramLipschitz):
    """Bounds that ask for few radii, each a little larger, and so are quick."""

    def __call__(self, radius):
        if 0 < radius < math.inf:
            radius = 1.02 ** math.ceil(math.log(radius) / math.log(1.02))
        return super().__call__(radius)


def on_a_grid(bounds):
    """Bounds for the search of a threshold."""
    known = bounds.lipschitz
    coarse = Coarse(known.program, known.spans, known.num_examples)
    blocks = tuple(dataclasses.replace(b, lipschitz=coarse) for b in bounds.blocks)
    return dataclasses.replace(bounds, lipschitz=coarse, blocks=blocks)


def problem_of(kind, seed):
    """A problem near the threshold of one of the theorems."""
    condition = CONDITIONS[seed % len(CONDITIONS)]
    name = ("flow", "descent")[seed // len(CONDITIONS) % 2]
    params, x = start(kind, seed)
    fn, rng = KINDS[kind], np.random.default_rng(seed)
    with jax.enable_x64(True):
        f = np.asarray(fn(params, x))
    direction = rng.standard_normal(f.shape)
    direction /= np.linalg.norm(direction)
    found = program_start(fn, params, x, f + direction, "proof")
    unit = on_a_grid(found.local)

    def is_certified(size):
        bounds = dataclasses.replace(
            unit,
            residual=Interval(size * unit.residual.low, size * unit.residual.high),
            newton_norm=size * unit.newton_norm,
        )
        return THEOREMS[name](bounds).is_certified

    low, high = 1e-6, 10.0
    guess = unit.blocks[0].sigma_min ** 2 / unit.lipschitz(0.0)
    if guess > 0 and is_certified(guess / 64) and not is_certified(guess):
        low, high = guess / 64, guess  # nearly always
    while high > (1 + 2e-3) * low:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if is_certified(middle) else (low, middle)
    y = f + condition * low * direction
    again = dataclasses.replace(found, targets=y)
    for part in ("program", "lipschitz", "jacobian"):  # which do not depend on targets
        again.__dict__[part] = getattr(found, part)
    certificates = {key: theorem(again.local) for key, theorem in THEOREMS.items()}
    return Problem(name, condition, params, x, y, certificates)


@functools.cache
def run_of(kind, name):
    """Losses and distances along flow, by short steps of Runge and Kutta, or descent."""
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
            if name == "descent":
                return moved(p, k1, step), (loss, distance)
            k2 = jax.grad(loss_fn)(moved(p, k1, step / 2))
            k3 = jax.grad(loss_fn)(moved(p, k2, step / 2))
            k4 = jax.grad(loss_fn)(moved(p, k3, step))
            for k, weight in ((k1, 1), (k2, 2), (k3, 2), (k4, 1)):
                p = moved(p, k, weight * step / 6)
            return p, (loss, distance)

        return jax.lax.scan(advance, start, None, NUM_STEPS)[1]

    return jax.jit(jax.vmap(run))


def check_runs(kind, problems, name):
    """Check losses and distances of certified problems against what is promised."""
    chosen, steps = [], []
    for problem in problems:
        certificate = problem.certificates[name]
        if certificate.is_certified:
            chosen.append((problem, certificate))
            short = 0.2 / certificate["jacobian_norm"] ** 2
            steps.append(short if name == "flow" else certificate.step_size)
    if not chosen:
        return
    # As many at a time each time, so that one program is compiled.
    size = min(BATCH, len(problems))
    places = np.arange(size) % len(chosen)
    stacked = [(chosen[i][0].params, chosen[i][0].x, chosen[i][0].y) for i in places]
    with jax.enable_x64(True):
        arrays = jax.tree.map(lambda *v: jnp.stack(v), *stacked)
        found = run_of(kind, name)(*arrays, jnp.asarray(steps)[places])
    for (problem, certificate), step, losses, distances in zip(
        chosen, steps, *map(np.asarray, found), strict=False
    ):
        chosen_steps = np.arange(0, NUM_STEPS, 25)
        times = chosen_steps * (step if name == "flow" else 1)
        bounds = np.array([certificate.loss_bound(float(t)) for t in times])
        floor = 1e-26 * (1 + np.sum(problem.y**2))
        allowed = losses[0] * bounds * (1 + 1e-7) + floor
        assert np.all(losses[chosen_steps] <= allowed)
        assert np.all(distances <= certificate.radius * (1 + 1e-7) + 1e-13)


def check_kind(kind, seeds):
    """Check certificates of several problems, and count verdicts of both theorems."""
    problems = [problem_of(kind, seed) for seed in seeds]
    counts: collections.Counter = collections.Counter()
    for problem in problems:
        for name, certificate in problem.certificates.items():
            counts[name, certificate.verdict.value] += 1
        own = problem.certificates[problem.name]
        if not own.is_certified:  # or all units of an example are dead
            assert problem.condition >= 1 or own["sigma_min"] == 0
    for name in THEOREMS:
        check_runs(kind, problems, name)
    return counts


# With kinks, and with shared weights.
QUICK = ("relu", "recurrent")


@pytest.mark.parametrize(
    "kind",
    [pytest.param(k, marks=[pytest.mark.slow] * (k not in QUICK)) for k in KINDS],
)
def test_what_is_certified_is_kept(kind):
    assert check_kind(kind, range(1, 2))["flow", "CERTIFIED"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_certified_is_kept_by_very_many(kind):
    counts = check_kind(kind, range(100, 100 + BATCH))
    assert sum(counts.values()) == 2 * BATCH
    assert counts["flow", "CERTIFIED"] >= BATCH / 2
    assert counts["descent", "CERTIFIED"] >= BATCH / 4


def check_points(kind, count):
    """Check values and Jacobians at points of balls, many where they change most."""
    params, x = start(kind, 7)
    found = start_of(KINDS[kind], params, x).lipschitz
    masks = {key: np.full(v.shape, float(key != "frozen")) for key, v in params.items()}
    with jax.enable_x64(True):
        flat, unravel = ravel_pytree(params)
        flat, moving = np.asarray(flat), np.asarray(ravel_pytree(masks)[0])

    def outputs(point):
        return KINDS[kind](unravel(point), x).reshape(-1)

    both = jax.jit(jax.vmap(lambda point: (outputs(point), jax.jacrev(outputs)(point))))
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        value, rows = (np.asarray(v)[0] for v in both(jnp.asarray(flat)[None]))
        radius = next(r for r in (0.1, 0.01, 1e-3, 1e-4) if found(r) < math.inf)
        growth, constant = found.growth(radius), found(radius)
        assert growth is not None
        ways = rng.standard_normal((count, flat.size))
        ways[::2] = rng.standard_normal((len(ways[::2]), len(rows))) @ rows
        ways *= moving / np.linalg.norm(ways * moving, axis=1, keepdims=True)
        ways *= radius * rng.uniform(0, 1, (count, 1)) ** 0.1
        values, jacobians = map(np.asarray, both(jnp.asarray(flat + ways)))
    sizes = np.linalg.norm(ways, axis=1)
    moves = np.abs(values - value).reshape(count, len(x), -1)
    allowed = sizes[:, None] * np.linalg.norm(growth.first, axis=1)
    assert np.all(np.linalg.norm(moves, axis=2) <= allowed * (1 + 1e-9) + 1e-13)
    changes = np.linalg.norm((jacobians - rows) * moving, 2, (1, 2))
    assert np.all(changes <= constant * sizes * (1 + 1e-9) + 1e-13)


@pytest.mark.parametrize(
    "kind",
    [pytest.param(k, marks=[pytest.mark.slow] * (k != "relu")) for k in KINDS],
)
def test_points_of_the_ball_are_within_bounds(kind):
    check_points(kind, 10_000)


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
