r"""Convergence of networks with one hidden layer of ReLU units, by counting flips.

Only the first layer is trained, $f = c \sum_r a_r \phi(\langle w_r, \tilde x\rangle)$
with slopes of $\phi$ below and above 0, and inputs $\tilde x$ that include scale and
bias. While no $w_r$ is farther than $R$ from its start, only units with
$|\langle w_r(0), \tilde x_i\rangle| \le R \lVert\tilde x_i\rVert$ can flip for example
$i$. Let $S_i$ be those. Two Jacobians in that ball differ by at most $\Delta$ in norm,

$$\Delta(R)^2 = \rho(M), \quad M_{ij} = c^2\, \text{jump}^2\, |\langle\tilde x_i, \tilde
x_j\rangle| \sum_{r \in S_i \cap S_j} a_r^2,$$

as the spectral radius of a nonnegative matrix grows with its entries. With $\mu =
\sigma_{\min}(J_0) - \Delta > 0$ and $D = c \max_r |a_r| \lVert\tilde X\rVert$:

- **Flow.** $\lVert r(t)\rVert \le e^{-\mu^2 t} \lVert r_0\rVert$ while in the ball, so
  no $w_r$ moves farther than $D \lVert r_0\rVert / \mu^2$, which must be below $R$.
- **Descent.** $r^+ = (I - \eta J J^\top) r - \eta (\bar J - J) J^\top r$ with a mean
  Jacobian $\bar J$, and the first term has norm at most $\lVert r\rVert - \eta
  (1-\epsilon) \lVert J^\top r\rVert^2/\lVert r\rVert$, $\epsilon = \eta\beta^2/2$,
  $\beta = \lVert J_0\rVert + \Delta$. So with $\text{gap} = (1-\epsilon)\mu - \Delta >
  0$, $\lVert r_k\rVert \le (1 - \eta\mu\,\text{gap})^k \lVert r_0\rVert$, and no $w_r$
  moves farther than $D \lVert r_0\rVert / (\mu\,\text{gap})$.
"""

import math
from collections.abc import Iterable

import numpy as np

from lazyjax._checks import check_nonnegative, check_positive
from lazyjax.certify.arithmetic.rounding import interval
from lazyjax.certify.bounds.ball import (
    check_radius,
    margin_within,
    start_quantities,
    within,
)
from lazyjax.certify.bounds.flips import FlipBounds
from lazyjax.certify.certificate import Certificate
from lazyjax.certify.statements import Quantity, assume_less
from lazyjax.certify.theorems.theorem import Theorem, first_layer_of_kinks

_RADII = np.geomspace(1.001, 50, 40)
_EPSILONS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)


def flow_theorem(bounds: FlipBounds, *, radius: float | None = None) -> Certificate:
    r"""Convergence of gradient flow to zero loss; see the module for the proof.

    Args:
        bounds: At the start.
        radius: Distance from the start that the path should stay within, if any.

    Returns:
        The certificate.

    Raises:
        ValueError: If `radius` is not positive, or `bounds` contradict themselves.

    References:
        Du, Zhai, Poczos and Singh (2019), arXiv:1810.02054, for the argument with
        other constants (not checked).
    """
    check_radius(radius)
    best = _search(
        _ReluAttempt(bounds, reach, None, None) for reach in _reaches(bounds)
    )
    return _certificate(best, radius)


def descent_theorem(
    bounds: FlipBounds,
    *,
    learning_rate: float | None = None,
    radius: float | None = None,
) -> Certificate:
    r"""Convergence of gradient descent to zero loss; see the module for the proof.

    Args:
        bounds: At the start.
        learning_rate: Step size to certify; `None` to find one.
        radius: Distance from the start that iterates should stay within, if any.

    Returns:
        The certificate.

    Raises:
        ValueError: If an argument is out of range.
    """
    if learning_rate is not None:
        check_positive("learning_rate", learning_rate)
    check_radius(radius)
    epsilons = _EPSILONS if learning_rate is None else (None,)
    best = _search(
        _ReluAttempt(bounds, reach, epsilon, learning_rate)
        for reach in _reaches(bounds)
        for epsilon in epsilons
    )
    return _certificate(best, radius)


def _reaches(bounds: FlipBounds) -> list[tuple[float, float]]:
    r"""Radii $R$ of units with their $\Delta$, while a positive $\mu$ is left."""
    if not bounds.sigma_min > 0:
        return [(math.inf, math.inf)]
    least = bounds.drive * bounds.residual.high / bounds.sigma_min**2
    reaches = []
    for factor in _RADII:
        reach = float(max(least * factor, 1e-300))
        flips = float(bounds.flips(reach))
        check_nonnegative("flips", flips)
        if reaches and flips < reaches[-1][1] * (1 - 1e-9):
            raise ValueError(
                "`flips` must not decrease with the radius; got "
                f"{reaches[-1][1]!r} and then {flips!r} at {reach!r}."
            )
        reaches.append((reach, flips))
        if not reaches[-1][1] < bounds.sigma_min:
            break
    return reaches


class _ReluAttempt:
    """The conditions for one radius of units and, for descent, one step size."""

    def __init__(
        self,
        bounds: FlipBounds,
        reach: tuple[float, float],
        epsilon: float | None,
        learning_rate: float | None,
    ) -> None:
        self.bounds = bounds
        self.reach, self.flips = reach
        self.is_descent = epsilon is not None or learning_rate is not None
        beta = interval(bounds.jacobian_norm) + self.flips
        self.mu = interval(bounds.sigma_min) - self.flips
        self.step = learning_rate
        if not self.is_descent:
            self.gap = self.mu
            self.rate = (2 * self.mu * self.mu).low
        else:
            if learning_rate is None:
                self.step = (2 * interval(epsilon or 0.0) / (beta * beta)).low
            spent = interval(self.step or 0.0) * beta * beta / 2
            self.gap = (1 - spent) * self.mu - self.flips
            fall = interval(self.step or 0.0) * self.mu * self.gap
            self.rate = (fall * (2 - fall)).low
        residual = bounds.residual.high
        self.movement = bounds.drive * interval(residual) / (self.mu * self.gap)
        self.length = residual / self.gap

    @property
    def holds(self) -> bool:
        return self.mu.low > 0 and self.gap.low > 0 and self.movement.high < self.reach

    @property
    def margin(self) -> float:
        if not (self.mu.low > 0 and self.gap.low > 0):
            return -math.inf if math.isnan(self.gap.low) else min(self.gap.low, 0.0)
        return 1 - self.movement.high / self.reach


def _search(attempts: Iterable[_ReluAttempt]) -> _ReluAttempt:
    """The fastest attempt that holds, else the one nearest to it."""
    return max(attempts, key=lambda a: (True, a.rate) if a.holds else (False, a.margin))


def _certificate(best: _ReluAttempt, radius: float | None) -> Certificate:
    bounds = best.bounds
    name = "gradient descent" if best.is_descent else "gradient flow"
    gap = (
        "(1 - epsilon) mu - flips" if best.is_descent else "mu = sigma_min(J0) - flips"
    )
    return Certificate(
        theorem=f"{name} of a two-layer ReLU network, by counting flips",
        conclusion=f"{name} converges to zero loss",
        assumptions=(
            assume_less("surjective", "0 < sigma_min(J0)", 0.0, bounds.sigma_min),
            assume_less("flips", "flips < sigma_min(J0)", best.flips, bounds.sigma_min),
            assume_less("gap", f"0 < {gap}", 0.0, best.gap.low),
            assume_less(
                "inside",
                "no unit moves farther than the radius that flips were counted for",
                best.movement.high,
                best.reach,
            ),
            *within(best.length.high, radius),
        ),
        margin=margin_within(best.margin, best.length.high, radius),
        quantities=_quantities(best),
        dynamics="descent" if best.is_descent else "flow",
        rate=best.rate,
        radius=best.length.high,
        step_size=best.step,
        rigor=bounds.rigor,
        refutation=bounds.conflict,
        premises=(
            *bounds.premises,
            "Where a unit is at its kink, its derivative is any number between the "
            "slopes (gradient flow is Clarke's).",
        ),
    )


def _quantities(best: _ReluAttempt) -> tuple[Quantity, ...]:
    bounds = best.bounds
    return (
        *start_quantities(bounds.residual, bounds.sigma_min, bounds.jacobian_norm),
        Quantity.exact(
            "unit_radius",
            best.reach,
            "radius of each unit's weights that flips were counted for",
        ),
        Quantity.upper("flips", best.flips, "distance between Jacobians in that ball"),
        Quantity.upper(
            "unit_movement", best.movement, "how far any unit's weights move"
        ),
    )


THEOREM = Theorem(
    name="relu",
    source="after Du, Zhai, Poczos and Singh (2019), arXiv:1810.02054; proven here",
    certify=lambda start: flow_theorem(start.flips),
    needs=first_layer_of_kinks,
)
