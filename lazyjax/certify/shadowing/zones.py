"""Balls around computed points, in which bounds of the Jacobian are known."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from lazyjax.certify.bounds.local import JacobianBlock, LocalBounds
from lazyjax.certify.bounds.program.enclosing.enclosure import UP, norm_of
from lazyjax.certify.shadowing.points import joint_norm

# A zone ends where the Jacobian may have moved by this share of its norm, unless its
# Lipschitz constant has hardly grown up to there.
_MOST_MOVED = 0.2
_MOST_GROWN = 1.5
_NUM_HALVINGS = 60


@dataclasses.dataclass(frozen=True)
class Zone:
    r"""A ball in which the Jacobian is Lipschitz.

    Attributes:
        leaves: Its centre: leaves of the parameters.
        radius: Its radius; 0 if no ball is known.
        lipschitz: Upper bound of the Lipschitz constant of the Jacobian in it.
        jacobian_norm: Upper bound of the norm of the Jacobian in it.
        sigma_min: Lower bound of its smallest singular value at the centre.
    """

    leaves: tuple[np.ndarray, ...]
    radius: float
    lipschitz: float
    jacobian_norm: float
    sigma_min: float

    def holds(self, leaves: Sequence[np.ndarray], off: float) -> bool:
        """Whether a ball of radius `off` around a point is inside."""
        return distance(leaves, self.leaves) + off <= self.radius

    def may_end_within(self, off: float) -> bool:
        """Whether a certificate is within sight of points that are so far off."""
        # Their residuals are uncertain by this times the norm of the Jacobian, and the
        # singular value may grow tenfold on the way.
        allowed = 100 * self.sigma_min**2
        demand = 2 * self.lipschitz * self.jacobian_norm * off
        return off < math.inf and (demand <= allowed or not allowed > 0)


def zone_at(leaves: Sequence[np.ndarray], bounds: LocalBounds) -> Zone:
    """A ball around a point, as large as is useful.

    Args:
        leaves: The point.
        bounds: Bounds there.

    Returns:
        The ball.
    """
    norm, least = bounds.jacobian_norm, bounds.lipschitz(0.0)
    sigma = max(block.sigma_min for block in bounds.blocks)
    size = joint_norm(norm_of(leaf) for leaf in leaves) + 1
    radius = min(size, _MOST_MOVED * norm / least if least > 0 else math.inf)
    for _ in range(_NUM_HALVINGS):
        constant = bounds.lipschitz(radius)
        moved = constant * radius * UP
        if moved <= _MOST_MOVED * norm and constant <= _MOST_GROWN * least:
            return Zone(tuple(leaves), radius, constant, (norm + moved) * UP, sigma)
        radius /= 2
    return Zone(tuple(leaves), 0.0, math.inf, math.inf, 0.0)


def moved_bounds(bounds: LocalBounds, off: float) -> LocalBounds:
    """Bounds at any point within a distance of the one that they are of.

    Args:
        bounds: Bounds.
        off: The distance.

    Returns:
        Bounds at the other point.
    """
    change = bounds.lipschitz(off) * off * UP
    norm = (bounds.jacobian_norm + change) * UP
    reach = norm * off * UP
    low, high = bounds.residual.low, bounds.residual.high

    def shifted(block: JacobianBlock) -> JacobianBlock:
        own = block.lipschitz(off) * off * UP
        sigma = max((block.sigma_min - own) / UP, 0.0) if own < math.inf else 0.0
        return dataclasses.replace(
            block,
            sigma_min=sigma,
            lipschitz=lambda radius: block.lipschitz((radius + off) * UP),
        )

    residual = dataclasses.replace(
        bounds.residual,
        low=max((low - reach) / UP, 0.0) if reach < math.inf else 0.0,
        high=(high + reach) * UP,
    )
    return dataclasses.replace(
        bounds,
        residual=residual,
        jacobian_norm=norm,
        lipschitz=lambda radius: bounds.lipschitz((radius + off) * UP),
        blocks=tuple(map(shifted, bounds.blocks)),
        newton_norm=math.inf,
    )


def distance(leaves: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> float:
    """Upper bound of the distance of two points."""
    pairs = zip(leaves, others, strict=True)
    return joint_norm(norm_of(a - b) * UP for a, b in pairs if a is not b)
