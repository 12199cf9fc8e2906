"""Checks of what follows from bounds, on models where it is sharp; see
`test_certify_bounds`.
"""

import math
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from lazyjax.certify import logistic
from lazyjax.certify.arithmetic import rounding
from lazyjax.certify.arithmetic.rounding import Interval
from lazyjax.certify.bounds import (
    ball,
    evaluation,
    flips,
    lipschitz,
)
from lazyjax.certify.bounds.layers import Layer, Layers
from lazyjax.certify.bounds.local import JacobianBlock, LocalBounds
from lazyjax.certify.theorems import residual as theorems

U = rounding.UNIT_ROUNDOFF


# The ball: sharp for one parameter with r = -r0 + sigma w - lambda w^2 / 2.


def scalar_bounds(sigma: float, constant: float, residual: float) -> LocalBounds:
    fn = lambda radius, constant=constant: constant
    return LocalBounds(
        residual=Interval(residual, residual),
        jacobian_norm=sigma,
        lipschitz=fn,
        blocks=(JacobianBlock(name="all", sigma_min=sigma, lipschitz=fn),),
        newton_norm=residual / sigma,
    )


def root_of(sigma, constant, residual):
    return (sigma - math.sqrt(sigma**2 - 2 * constant * residual)) / constant


def check_ball_is_sharp():
    for sigma, constant in ((1.0, 0.5), (3.0, 7.0)):
        for h in (0.01, 0.4, 0.4999):
            residual = h * sigma**2 / constant
            found = ball.smallest_ball(
                sigma, residual, lambda radius, constant=constant: constant
            )
            root = root_of(sigma, constant, residual)
            assert found.holds
            assert root * (1 - 1e-13) <= found.length.high <= root * (1 + 1e-9)
            mu = sigma - constant * root
            assert mu * (1 - 1e-9) <= found.sigma_end.low <= mu * (1 + 1e-12)
            assert h * (1 - 1e-14) <= found.condition.high <= h * (1 + 1e-9)
            assert found.margin <= 1 - 2 * h + 1e-14
        for h in (0.50001, 0.6, 3.0, math.inf, math.nan):
            residual = h * sigma**2 / constant
            assert not ball.smallest_ball(
                sigma, residual, lambda radius, constant=constant: constant
            ).holds


def check_ball_needs_its_radius():
    """A constant that grows: the path must fit the radius that it is taken for."""
    grows = lambda radius: 0.1 if radius < 1.0 else 10.0
    assert not ball.smallest_ball(1.0, 1.0, grows).holds
    found = ball.smallest_ball(1.0, 0.9, grows)
    assert found.holds
    assert found.lipschitz == 0.1
    assert found.length.high <= found.radius < 1


def check_zero_distance():
    """The farthest that r = -r0 + norm w + constant w^2 / 2 can be from its zero."""
    for norm, constant, residual in ((1.0, 0.5, 2.0), (2.0, 0.0, 3.0), (0.5, 9.0, 1.0)):
        nearest = ball.zero_distance(scalar_bounds(norm, constant, residual))
        if constant:
            true = (math.sqrt(norm**2 + 2 * constant * residual) - norm) / constant
        else:
            true = residual / norm
        assert true * 0.9 <= nearest <= true


def check_gap_and_drift():
    """One parameter: K = (sigma - lambda w)^2, so drift 2 sigma lambda s + ... is near."""
    bounds = scalar_bounds(2.0, 0.5, 1.0)
    certificate: Any = theorems.flow_theorem(bounds)
    s = certificate.radius
    largest = 2 * 2.0 * 0.5 * s + (0.5 * s) ** 2
    assert certificate["kernel_drift"] == pytest.approx(largest, rel=1e-9)
    assert certificate["kernel_drift"] >= 4.0 - (2.0 - 0.5 * s) ** 2
    # The gap itself, by integration of both.
    time = np.linspace(0, 8, 80_001)
    w = r_lin = 0.0
    r, r_lin, worst = -1.0, -1.0, 0.0
    step = time[1]
    for _ in time:
        j = 2.0 - 0.5 * w
        worst = max(worst, abs(r - r_lin))
        w -= step * j * r
        r = -1.0 + 2.0 * w - 0.25 * w * w
        r_lin -= step * 4.0 * r_lin
    assert worst <= certificate["linearization_gap"] <= 10 * worst


def check_flow_rate():
    """The loss of the sharp model falls at the rate promised, and not much faster."""
    bounds = scalar_bounds(2.0, 0.5, 3.0)
    certificate: Any = theorems.flow_theorem(bounds)
    mu = math.sqrt(4 - 3)
    assert certificate.rate == pytest.approx(2 * mu**2, rel=1e-9)
    assert certificate.rate <= 2 * mu**2


def check_descent_step_and_rate():
    """Curvature of the worst model of these bounds, and the rate at its end."""
    bounds = scalar_bounds(2.0, 0.5, 1.0)
    certificate: Any = theorems.descent_theorem(bounds)
    epsilon = certificate["epsilon"]
    s = root_of(2.0, 0.5, 1.0 / (1 - epsilon))
    assert certificate.radius == pytest.approx(s, rel=1e-9)
    assert certificate.radius >= s * (1 - 1e-13)
    smoothness = (2 + 0.5 * s) ** 2 + 0.5
    largest = 2 * epsilon / smoothness
    assert largest * (1 - 1e-9) <= certificate.step_size <= largest * (1 + 1e-13)
    mu = 2.0 - 0.5 * s
    rate = 2 * (1 - epsilon) * largest * mu**2
    assert rate * (1 - 1e-9) <= certificate.rate <= rate * (1 + 1e-12)
    over = theorems.descent_theorem(bounds, learning_rate=2.0 / (2.0**2 + 0.5) * 1.01)
    assert not over.is_certified
    inexact: Any = theorems.descent_theorem(bounds, gradient_error=0.2)
    epsilon = inexact["epsilon"]
    s = root_of(2.0, 0.5, 1.2 / 0.8 / (1 - epsilon))
    largest = 2 * epsilon * 0.8 / (((2 + 0.5 * s) ** 2 + 0.5) * 1.2**2)
    assert inexact.radius == pytest.approx(s, rel=1e-9)
    assert inexact.step_size == pytest.approx(largest, rel=1e-9)
    rate = 2 * (1 - epsilon) * 0.8 * largest * (2.0 - 0.5 * s) ** 2
    assert inexact.rate == pytest.approx(rate, rel=1e-9)


def check_existence_radius():
    """Newton and Kantorovich are sharp on the same quadratic."""
    for h in (0.1, 0.499):
        certificate: Any = theorems.existence_theorem(scalar_bounds(1.0, 2.0, h / 2.0))
        assert certificate.is_certified
        root = root_of(1.0, 2.0, h / 2.0)
        assert root * (1 - 1e-13) <= certificate.radius <= root * (1 + 1e-9)
    assert not theorems.existence_theorem(scalar_bounds(1.0, 2.0, 0.2501)).is_certified


# Flips of ReLU units.


def relu_case():
    rng = np.random.default_rng(8)
    first = Layer(rng.standard_normal((3, 6)), rng.standard_normal(6), 0.5, 0.2, True)
    last = Layer(rng.standard_normal((6, 2)), np.zeros(2), 0.4, 0.0, False)
    network = Layers((first, last), "relu", 1.3)
    return network, rng.standard_normal((4, 3))


def check_margins():
    """A unit that moves straight towards its kink flips just beyond the margin."""
    network, x = relu_case()
    found = evaluation.evaluate(network, x, U)
    layer = network.layers[0]
    gram = lipschitz.input_gram(x, layer, U)
    margins = flips.margins_lower(found, gram)
    for i, row in enumerate(x):
        full = np.append(layer.scale * row, layer.bias_scale)
        for r in range(layer.weight.shape[1]):
            z = full @ np.append(layer.weight[:, r], layer.bias[r])
            true = abs(z) / np.linalg.norm(full)
            assert true * (1 - 1e-9) <= margins[i, r] <= true * (1 + 1e-15)


def check_flips():
    """All patterns of few flips, by enumeration."""
    network, x = relu_case()
    found = evaluation.evaluate(network, x, U)
    gram = lipschitz.input_gram(x, network.layers[0], U)
    bound = flips.flips_fn((found,), gram)
    margins = flips.margins_lower(found, gram)
    first, last = network.layers
    full = np.concatenate([first.scale * x, np.full((4, 1), first.bias_scale)], 1)
    outer = last.scale * network.factor
    for radius in np.sort(margins.ravel())[[0, 2, 5]]:
        can = np.argwhere(margins <= radius)
        worst = 0.0
        for pattern in range(2 ** len(can)):
            change = np.zeros((4, 2, 6, 4))
            for bit, (i, r) in enumerate(can):
                if pattern >> bit & 1:
                    was_on = found.preactivations[0].value[i, r] > 0
                    sign = -1.0 if was_on else 1.0
                    change[i, :, r] += sign * outer * np.outer(last.weight[r], full[i])
            worst = max(worst, np.linalg.norm(change.reshape(8, -1), 2))
        assert worst * (1 - 1e-9) <= bound(float(radius)) <= 2 * worst
    assert bound(0.0) <= 1e-100


def check_drive():
    """Speed of the fastest unit, for residuals of unit norm: attained by one unit."""
    first = Layer(np.array([[1.0, 0.1], [0.0, 0.1]]), np.zeros(2), 0.5, 0.0, True)
    last = Layer(np.array([[3.0], [1.0]]), np.zeros(1), 0.4, 0.0, False)
    network = Layers((first, last), "relu", 1.0)
    x = np.array([[2.0, 0.0]])
    found = evaluation.evaluate(network, x, U)
    bound = flips.drive_upper((found,), lipschitz.input_gram(x, first, U))
    speed = 0.4 * 3.0 * 0.5 * 2.0
    assert speed <= bound <= speed * (1 + 1e-9)
    assert flips.drive_upper((found, found), lipschitz.input_gram(x, first, U)) >= (
        speed / 2**0.5
    )


# The logistic loss.


def check_logistic():
    """One example and one parameter, f = w: the length to the target is known."""
    for start, target in ((3.0, 0.01), (0.5, 0.1), (800.0, 1e-3)):
        demand = logistic.demand_of(start, target, 1)
        # log(1 + e^-f) = a at f = -log(e^a - 1).
        f = [-math.log(math.expm1(a)) if a < 700 else -a for a in (start, target)]
        true = f[1] - f[0]
        assert true * (1 - 1e-13) <= demand <= true * (1 + 1e-9)
        time = (logistic._antiderivative(start) - logistic._antiderivative(target)).high
        # dt = df / (1 - e^-loss), by quadrature.
        grid = np.linspace(f[0], f[1], 200_001)
        speed = 1 / (1 + np.exp(np.minimum(grid, 700)))
        middle = (1 / speed[1:] + 1 / speed[:-1]) / 2
        quadrature = float(np.sum(np.diff(grid) * middle))
        assert time == pytest.approx(quadrature, rel=1e-3)
    output, labels = np.array([[0.3], [-2.0]]), np.array([[1.0], [1.0]])
    total = logistic.total_loss_upper(output, labels, 0.0, U)
    true = sum((1 + (-Decimal(float(v))).exp()).ln() for v in output.ravel())
    assert Decimal(total) >= true
    assert total <= float(true) * (1 + 1e-12)
    worse = logistic.total_loss_upper(output, labels, 0.1, U)
    shifted = output - 0.1 / 2**0.5 * np.ones((2, 1))
    assert worse >= float(np.sum(np.log1p(np.exp(-shifted)))) - 1e-12
