"""Theorems from bounds at the start: what they promise holds where they are sharp.

The scalar model f(w) = sigma w - lipschitz w^2 / 2 attains the bounds of its Jacobian:
with it, verdicts, rates and radii can be held against runs and closed forms.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lazyjax.certify import (
    JacobianBlock,
    LocalBounds,
    Verdict,
    adversary,
)
from lazyjax.certify.arithmetic.rounding import Interval
from lazyjax.certify.comparison import compare
from lazyjax.certify.theorems import (
    chatterjee2022,
    chizat2019,
    liu2022,
    oymak2019,
    residual as theorems,
)
from lazyjax.nets import mlp
from tests.helpers.compare import assert_close

pytestmark = pytest.mark.once


def bounds_of(residual, sigma=1.0, lipschitz: Any = 0.0, norm=None, *, of_block=None):
    constant: Any = lipschitz if callable(lipschitz) else lambda radius: lipschitz
    return LocalBounds(
        residual=Interval(residual, residual),
        jacobian_norm=sigma if norm is None else norm,
        lipschitz=constant,
        blocks=(
            JacobianBlock(name="all", sigma_min=sigma, lipschitz=of_block or constant),
        ),
        newton_norm=residual / sigma if sigma else math.inf,
    )


def number(value):
    """A number that may be missing, and is not."""
    assert value is not None
    return value


def verdict(certificate):
    return certificate.verdict.name


THEOREMS = {
    "oymak": (oymak2019.descent_theorem, 1 / 16),
    "chatterjee": (chatterjee2022.flow_theorem, 1 / 4),
    "chatterjee descent": (chatterjee2022.descent_theorem, 0.95 / 4),
    "flow": (theorems.flow_theorem, 1 / 2),
}


@pytest.mark.parametrize("name", THEOREMS)
def test_theorem_holds_just_up_to_its_threshold(name):
    """In terms of h = Lip(J) |r0| / sigma_min^2, for a constant Lipschitz constant."""
    theorem, threshold = THEOREMS[name]
    sigma, lipschitz = 0.7, 3.0
    for share, expected in ((0.98, "CERTIFIED"), (1.02, "INCONCLUSIVE")):
        residual = share * threshold * sigma**2 / lipschitz
        certificate = theorem(bounds_of(residual, sigma, lipschitz))
        assert verdict(certificate) == expected
        assert (certificate.margin > 0) == (expected == "CERTIFIED")


def test_pl_star_pays_for_the_condition_number():
    """mu = (1 - L R)^2 and R = 2 beta^(1/2) r0 / mu, for small L: L r0 cond < 1/8 or so."""
    for cond in (1.0, 10.0):
        for h, expected in ((0.05 / cond, "CERTIFIED"), (0.13 / cond, "INCONCLUSIVE")):
            found = liu2022.descent_theorem(bounds_of(h, 1.0, 1.0, norm=cond))
            assert verdict(found) == expected


def random_bounds(rng):
    sigma = 10 ** rng.uniform(-2, 1)
    norm = sigma * 10 ** rng.uniform(0, 1.5)
    base, growth = 10 ** rng.uniform(-1, 1), rng.choice([0.0, 1.0])
    residual = 10 ** rng.uniform(-3.5, 0) * sigma**2 / base
    scale = residual / sigma
    of_block = None
    if rng.random() < 0.5:
        of_block = lambda radius: 0.5 * base * (1 + growth * radius / scale / 9)
    return bounds_of(
        residual,
        sigma,
        lambda radius: base * (1 + growth * radius / scale / 9),
        norm,
        of_block=of_block,
    )


@pytest.mark.slow
def test_stricter_theorems_imply_laxer_ones():
    """PL* or Oymak's implies Chatterjee's criterion, and that the certificate of flow."""
    rng = np.random.default_rng(0)
    counts = dict.fromkeys(("liu", "oymak", "chatterjee", "flow"), 0)
    for _ in range(25):
        bounds = random_bounds(rng)
        liu = liu2022.descent_theorem(bounds)
        oymak = oymak2019.descent_theorem(bounds)
        chatterjee = chatterjee2022.flow_theorem(bounds)
        flow = theorems.flow_theorem(bounds)
        if liu.is_certified or oymak.is_certified:
            assert chatterjee.is_certified
        if chatterjee.is_certified:
            assert flow.is_certified
            assert number(flow.radius) <= number(chatterjee.radius) * (1 + 1e-9)
        if oymak.is_certified:
            ours = theorems.descent_theorem(bounds, learning_rate=oymak.step_size)
            assert ours.is_certified
            assert number(ours.rate) >= number(oymak.rate) * (1 - 1e-9)
            assert number(ours.radius) <= number(oymak.radius) * (1 + 1e-9)
        counts["liu"] += liu.is_certified
        counts["oymak"] += oymak.is_certified
        counts["chatterjee"] += chatterjee.is_certified
        counts["flow"] += flow.is_certified
    # All differ somewhere, and none is vacuous.
    assert 3 < counts["liu"] < counts["chatterjee"] < counts["flow"] < 25
    assert 3 < counts["oymak"] < counts["chatterjee"]


def sharp_descent(residual, sigma, lipschitz, step, num_steps):
    """Losses and distance of gradient descent on the model that attains its bounds."""
    w, losses = 0.0, []
    for _ in range(num_steps):
        r = sigma * w - lipschitz * w**2 / 2 - residual
        losses.append(r**2 / 2)
        w = w - step * (sigma - lipschitz * w) * r
    return np.array(losses), abs(w)


@pytest.mark.parametrize(
    "theorem",
    [
        oymak2019.descent_theorem,
        liu2022.descent_theorem,
        chatterjee2022.descent_theorem,
        theorems.descent_theorem,
    ],
)
@pytest.mark.sampled(2)
def test_certified_descent_keeps_its_promise_where_bounds_are_attained(theorem):
    rng = np.random.default_rng(1)
    seen = 0
    for _ in range(9):
        sigma, lipschitz = 10 ** rng.uniform(-1, 1, 2)
        residual = 10 ** rng.uniform(-2.5, -0.3) * sigma**2 / lipschitz
        found = theorem(bounds_of(residual, sigma, lipschitz))
        if not found.is_certified:
            continue
        seen += 1
        losses, distance = sharp_descent(
            residual, sigma, lipschitz, found.step_size, 60
        )
        allowed = losses[0] * (1 - number(found.rate)) ** np.arange(60)
        assert np.all(losses <= allowed * (1 + 1e-9) + 1e-28 * losses[0])
        assert distance <= number(found.radius)
    assert seen >= 5


def test_rates_of_chatterjee_are_not_idle_where_bounds_are_attained():
    """Twice the guaranteed rate is not kept: the bound is within that of the truth."""
    found = chatterjee2022.descent_theorem(bounds_of(0.2, 1.0, 1.0))
    losses, _ = sharp_descent(0.2, 1.0, 1.0, found.step_size, 400)
    tail = losses[:300][losses[:300] > 1e-24]
    slowest = np.max(tail[1:] / tail[:-1])
    assert slowest > (1 - number(found.rate)) ** 16
    assert slowest <= 1 - number(found.rate)


@pytest.mark.parametrize(
    "theorem",
    [
        oymak2019.descent_theorem,
        liu2022.descent_theorem,
        chatterjee2022.flow_theorem,
        chatterjee2022.descent_theorem,
        chizat2019.lazy_theorem,
        lambda bounds: chizat2019.horizon_theorem(bounds, 1.0),
    ],
)
def test_nothing_known_never_certifies(theorem):
    good = bounds_of(0.01, 1.0, 0.01)
    assert theorem(good).is_certified
    for change in (
        {"lipschitz": lambda radius: math.inf},
        {"jacobian_norm": math.inf},
        {"residual": Interval(0.0, math.inf)},
    ):
        bounds = dataclasses.replace(good, **change)
        fn = bounds.lipschitz
        bounds = dataclasses.replace(
            bounds, blocks=(JacobianBlock(name="all", sigma_min=1.0, lipschitz=fn),)
        )
        # Flow by the criterion asks nothing of the whole Jacobian's norm.
        if theorem is chatterjee2022.flow_theorem and "jacobian_norm" in change:
            continue
        assert not theorem(bounds).is_certified
    if "horizon" not in theorem(good).theorem:
        assert not theorem(bounds_of(0.01, 0.0, 0.01)).is_certified


def test_equal_inputs_with_two_targets_refute_every_theorem():
    from lazyjax.certify import Assumption

    conflict = Assumption(name="conflict", statement="no fit", holds=True)
    bounds = dataclasses.replace(bounds_of(1.0, 0.0, 0.01), conflict=conflict)
    for theorem in (
        oymak2019.descent_theorem,
        liu2022.descent_theorem,
        chatterjee2022.flow_theorem,
        chatterjee2022.descent_theorem,
    ):
        assert theorem(bounds).verdict is Verdict.REFUTED


# Chatterjee's criterion


def test_criterion_of_a_quadratic_holds_beyond_the_distance_of_its_minimum():
    """L = mu w^2 / 2 has alpha = 2 mu: r > (2 L0 / mu)^(1/2), the distance itself."""
    mu, start = 0.3, 2.0
    loss = mu * start**2 / 2
    for radius, expected in ((1.001 * start, "CERTIFIED"), (0.999 * start, "REFUTED")):
        found = chatterjee2022.criterion(
            loss, radius, alpha_lower=2 * mu, alpha_upper=2 * mu
        )
        assert verdict(found) == expected
    assert found.explain().startswith("REFUTED")


@pytest.mark.parametrize("radius", [0.1, 0.5, 0.9, 1.0, 3.0])
def test_criterion_is_refuted_for_a_degenerate_minimum_where_lojasiewicz_holds(radius):
    """L = w^4 from 1: |L'|^2 / L = 16 w^2, and |L'| = 4 L^(3/4); descent is sublinear."""
    alpha = 16 * max(1 - radius, 0.0) ** 2
    found = chatterjee2022.criterion(1.0, radius, alpha_lower=alpha, alpha_upper=alpha)
    assert verdict(found) == "REFUTED"


def test_criterion_at_a_given_radius_is_exact_where_bounds_are_attained():
    residual, sigma, lipschitz = 0.2, 1.0, 1.0
    bounds = bounds_of(residual, sigma, lipschitz)
    for radius in np.linspace(0.05, 1.2, 24):
        alpha = 2 * max(sigma - lipschitz * float(radius), 0.0) ** 2
        found = chatterjee2022.flow_theorem(
            bounds, radius=float(radius), alpha_upper=alpha
        )
        holds = residual < radius * (sigma - lipschitz * radius)
        assert verdict(found) == ("CERTIFIED" if holds else "REFUTED")


def test_an_adversary_may_not_contradict_a_proof():
    with pytest.raises(ValueError, match="`alpha_lower` must be at most"):
        chatterjee2022.criterion(1.0, 3.0, alpha_lower=0.5, alpha_upper=0.4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: chatterjee2022.criterion(1.0, 0.0), "`radius`"),
        (
            lambda: chatterjee2022.flow_theorem(bounds_of(1.0), alpha_upper=1.0),
            "`radius`",
        ),
        (
            lambda: chatterjee2022.descent_theorem(bounds_of(1.0), learning_rate=-1.0),
            "`learning_rate`",
        ),
        (lambda: chizat2019.lazy_theorem(bounds_of(1.0), tolerance=0.0), "`tolerance`"),
        (lambda: chizat2019.horizon_theorem(bounds_of(1.0), -1.0), "`time`"),
        (lambda: chizat2019.scales(bounds_of(0.0), math.nan), "`target_norm`"),
    ],
)
def test_bad_numbers_are_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_larger_step_is_certified_up_to_its_limit_only():
    bounds = bounds_of(0.1, 1.0, 1.0, norm=2.0)
    best = chatterjee2022.descent_theorem(bounds)
    small = chatterjee2022.descent_theorem(
        bounds, learning_rate=number(best.step_size) / 2
    )
    assert small.is_certified
    assert number(small.rate) < number(best.rate)
    # 2 / |J|^2 is beyond what any step may be.
    assert not chatterjee2022.descent_theorem(bounds, learning_rate=0.5).is_certified


# Networks


def unit_rows(n, d, seed=0):
    x = np.random.default_rng(seed).standard_normal((n, d))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def signs(n):
    return np.where(np.arange(n) % 2, 1.0, -1.0)[:, None]


@pytest.fixture(scope="module")
def problem():
    with jax.enable_x64(True):
        x, y = unit_rows(3, 8, seed=2), signs(3)

        def start(width, **options):
            options = {"input_scaling": "none", "w_std": 12.0} | options
            net = mlp(width=width, activation="tanh", **options)
            return net, net.init(jax.random.key(0), jnp.asarray(x))

        return x, y, start


def verdicts(comparison):
    return {name: verdict(found) for name, found in comparison.certificates.items()}


def test_conditions_side_by_side_differ_where_they_should(problem, x64):
    x, y, start = problem
    seen = {}
    for width in (64, 1024, 4096, 65536, 2**19):
        net, params = start(width, symmetrized=True)
        found = compare(net, params, x, y)
        # Both layers vanish at zero: critical, whatever the start.
        assert verdict(found.polyak) == "REFUTED"
        assert verdict(found.lojasiewicz) == "INCONCLUSIVE"
        assert found.lojasiewicz.assumptions[0].holds
        for name, outcome in verdicts(found).items():
            if outcome == "CERTIFIED":
                seen.setdefault(name, width)
    # Smallest widths at which each holds.
    assert seen["flow"] <= seen["chatterjee"] <= min(seen["oymak"], seen["liu"])
    assert seen["flow"] < seen["oymak"]


def test_only_a_linear_model_satisfies_the_inequality_everywhere(problem, x64):
    x, y, start = problem
    linear = mlp(width=1, depth=0)
    params = linear.init(jax.random.key(0), jnp.asarray(x))
    assert set(verdicts(compare(linear, params, x, y)).values()) == {
        "CERTIFIED",
        "INCONCLUSIVE",  # Lojasiewicz' own
    }
    # With the first layer alone, zero is no critical point: nothing is refuted.
    net, params = start(16, trained="first")
    found = compare(net, params, x, y)
    assert verdict(found.polyak) == "INCONCLUSIVE"
    assert found.polyak["gradient_at_zero"] > 0


@pytest.mark.parametrize("case", ["cancelled", "underflowed", "exponent"])
@pytest.mark.sampled(2)
def test_a_gradient_that_only_rounding_makes_zero_refutes_nothing(problem, x64, case):
    x, y, _ = problem
    activation, scale = ("softplus" if case == "exponent" else "tanh"), 1.0
    if case == "cancelled":
        x, y = np.stack([x[0], x[0] + 1e-9 * x[1]]), y[:2]
    elif case == "underflowed":
        scale = 1e-170
    # Linear in what is trained; the first two have independent features, so that the
    # inequality holds, and in none is the gradient zero.
    found = []
    for seed in range(6):
        net = mlp(
            width=16,
            activation=activation,
            trained="last",
            input_scaling="none",
            output_scale=scale,
        )
        params = net.init(jax.random.key(seed), jnp.asarray(x))
        if case == "exponent":
            ones = np.ones_like(params["layer_1"]["kernel"])
            params["layer_1"]["kernel"] = -1e4 * ones
            x = np.abs(x)
        found.append(verdict(compare(net, params, x, y).polyak))
    assert set(found) == {"INCONCLUSIVE"}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"depth": 3}, "REFUTED"),
        ({"depth": 2, "b_std": 1.0}, "INCONCLUSIVE"),
        ({"depth": 2, "trained": (1, 2)}, "REFUTED"),
        ({"depth": 2, "trained": (2,)}, "INCONCLUSIVE"),
        ({"depth": 2, "trained": (1, 3)}, "REFUTED"),
    ],
)
@pytest.mark.sampled(2)
def test_critical_points_at_zero_are_those_of_vanishing_factors(
    problem, x64, options, expected
):
    x, y, start = problem
    net, params = start(8, **options)
    found = compare(net, params, x, y)
    assert verdict(found.polyak) == expected
    assert (found.polyak["gradient_at_zero"] == 0) == (expected == "REFUTED")


def test_adversary_is_not_misled_by_squares_that_underflow():
    # A linear model of slope 1, whose ratio is 2 everywhere.
    num_params = 10_000
    found = adversary.refute(
        lambda w, x: x @ w,
        jnp.zeros((num_params, 1), jnp.float32),
        jnp.full((1, num_params), num_params**-0.5, jnp.float32),
        jnp.full((1, 1), 1e-18, jnp.float32),
        key=jax.random.key(0),
        num_steps=3,
        radius=1.0,
    )
    assert verdict(found) == "INCONCLUSIVE"
    assert found["alpha_upper"] == pytest.approx(2.0, rel=1e-4)


def test_adversary_refutes_small_networks_and_not_certified_ones(problem, x64):
    x, y, start = problem
    net, params = start(8, w_std=1.0)
    # Targets out of reach of any ball that does not hold the critical point at zero.
    far = 30 * y
    found = adversary.refute(
        net.apply, params, x, far, key=jax.random.key(0), num_steps=40
    )
    assert verdict(found) == "REFUTED"
    proven = chatterjee2022.flow_theorem(_bounds(net, params, x, far))
    assert proven.verdict is Verdict.INCONCLUSIVE
    net, params = start(4096, symmetrized=True)
    proven = chatterjee2022.flow_theorem(_bounds(net, params, x, y))
    assert proven.is_certified
    attacked = adversary.attack(
        net.apply,
        params,
        x,
        y,
        [number(proven.radius)],
        key=jax.random.key(0),
        num_steps=10,
        num_starts=2,
    )
    assert attacked.alpha_upper(number(proven.radius)) >= proven["alpha"]


def _bounds(net, params, x, y):
    from lazyjax.certify import local_bounds

    return local_bounds(net, params, x, y)


# Chizat, Oyallon and Bach (2019)


def test_output_scales_have_their_closed_forms():
    """For a constant Lipschitz constant: sigma^3 / (32 |J| L), and 2 L |y| / sigma^2."""
    sigma, norm, lipschitz, target = 0.5, 2.0, 3.0, 1.7
    found = chizat2019.scales(bounds_of(0.0, sigma, lipschitz, norm), target)
    assert_close(found.largest_output, sigma**3 / (32 * norm * lipschitz), 1e-9)
    assert_close(found.theirs, target * 32 * norm * lipschitz / sigma**3, 1e-9)
    assert_close(found.sharper, 2 * lipschitz * target / sigma**2, 1e-6)
    assert_close(found.theirs / found.sharper, 16 * norm / sigma, 1e-6)


def test_output_scale_is_that_of_the_certificate_of_flow():
    """alpha h has alpha times the singular values and the Lipschitz constant of h."""
    sigma, lipschitz, target, output = 0.5, 3.0, 1.7, 0.01
    found = chizat2019.scales(bounds_of(output, sigma, lipschitz), target)
    for share, certified in ((1.01, True), (0.99, False)):
        alpha = share * found.sharper
        scaled = bounds_of(alpha * output + target, alpha * sigma, alpha * lipschitz)
        assert theorems.flow_theorem(scaled).is_certified == certified
    # Outputs that are too large at the start cannot be made up for by any scale.
    far = chizat2019.scales(bounds_of(0.1, sigma, lipschitz), target)
    assert far.theirs == far.sharper == math.inf


def sharp_flow(residual, sigma, lipschitz, time):
    """Flow of the model that attains its bounds, by fine steps, and its linear model."""
    w, num_steps = 0.0, 20_000
    for _ in range(num_steps):
        r = sigma * w - lipschitz * w**2 / 2 - residual
        w -= time / num_steps * (sigma - lipschitz * w) * r
    outputs = sigma * w - lipschitz * w**2 / 2
    return outputs, residual * (1 - math.exp(-(sigma**2) * time)), w


@pytest.mark.parametrize("time", [0.1, 0.5, 2.0])
def test_finite_horizon_is_respected_where_bounds_are_attained(time):
    residual, sigma, lipschitz = 0.3, 1.0, 0.5
    found = chizat2019.horizon_theorem(bounds_of(residual, sigma, lipschitz), time)
    outputs, linear, w = sharp_flow(residual, sigma, lipschitz, time)
    gap = abs(outputs - linear)
    assert found.is_certified
    assert 0 < gap <= found["linearization_gap"]
    assert w <= number(found.radius)
    if time == 0.1:  # the bound is of the right order while the horizon is short
        assert found["linearization_gap"] < 4 * gap


def test_gap_at_a_fixed_horizon_falls_like_the_output_scale():
    """T = K / (alpha Lip h)^2: relative gaps are K^2 Lip(Dh) |r0| / (alpha Lip(h)^2)."""
    relative = []
    for alpha in (100.0, 200.0, 400.0):
        bounds = bounds_of(0.5, alpha * 1.0, alpha * 0.5)
        found = chizat2019.horizon_theorem(bounds, 1 / alpha**2)
        relative.append(found["linearization_gap"] / 0.5)
    assert_close(np.divide(relative[:-1], relative[1:]), [2.0, 2.0], 0.02)
    assert_close(relative[0], 0.5 * 0.5 / 100, 0.02)


def test_laziness_needs_a_tolerance_above_the_gap():
    bounds = bounds_of(0.3, 1.0, 0.1)
    flow = theorems.flow_theorem(bounds)
    relative = flow["linearization_gap"] / 0.3
    tight, loose = (
        chizat2019.lazy_theorem(bounds, tolerance=share * relative)
        for share in (0.99, 1.01)
    )
    assert flow.is_certified
    assert verdict(tight) == "INCONCLUSIVE"
    assert verdict(loose) == "CERTIFIED"
    assert_close(loose["kappa"], 0.3 * 0.1)
