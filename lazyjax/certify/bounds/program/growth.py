r"""Bounds of first and second derivatives in a ball, equation by equation.

For each value $z$ of an example, in the ball of radius $R$ about the parameters $w_0$,
and for changes $u, v$ of the leaves $u_a$ of parameters,

$$\lVert Dz[u] \rVert \le \sum_a \ell_a \lVert u_a \rVert, \qquad
\lVert D^2 z[u, v] \rVert \le \sum_{ab} M_{ab} \lVert u_a \rVert \lVert v_b \rVert,$$

in Euclidean norms of all entries. So $z$ is within $R \lVert \ell \rVert$ of its value at
$w_0$, which bounds the sizes that the rules need. Proofs of the rules are in
`docs/theory/program_bounds.md`.
"""

import math
from typing import NamedTuple

import numpy as np

from lazyjax.certify.bounds.program.spans import Span

UP = 1 + 2.0**-36
"""Each rule has fewer roundings than this makes up for."""


class Growth(NamedTuple):
    r"""Bounds of the derivatives of a value, for each example.

    Attributes:
        first: $\ell$.
        second: $M$.
    """

    first: np.ndarray
    second: np.ndarray


class Operand(NamedTuple):
    """An operand of an equation.

    Attributes:
        span: What is known of it at the centre; `None` if it is a truth value.
        growth: Of its derivatives; `None` if it does not depend on trained parameters.
        radius: Of the ball.
    """

    span: Span
    growth: Growth | None
    radius: float

    @property
    def drift(self) -> np.ndarray:
        """How far it gets from the centre, for each example."""
        if self.growth is None:
            return np.zeros(1)
        return self.radius * np.sqrt(np.sum(self.growth.first**2, axis=1)) * UP

    @property
    def ends(self) -> tuple[np.ndarray, np.ndarray]:
        """Bounds of all entries in the ball, from below and above."""
        moved = self.drift * UP
        low = np.nextafter(self.span.low - moved, -math.inf)
        return low, np.nextafter(self.span.high + moved, math.inf)

    @property
    def largest(self) -> np.ndarray:
        """Largest absolute value of an entry in the ball."""
        return self.span.largest + self.drift

    @property
    def norm(self) -> np.ndarray:
        """Largest norm in the ball."""
        return self.span.norm + self.drift

    @property
    def smallest(self) -> np.ndarray:
        """Smallest absolute value of an entry in the ball, or less."""
        return self.span.smallest - self.drift * UP


def scaled(growth: Growth, factor: np.ndarray | float) -> Growth:
    """Bounds of a linear map of a value, from a bound of the norm of the map."""
    factor = np.reshape(factor, -1) * UP
    return Growth(
        times(growth.first, factor[:, None]),
        times(growth.second, factor[:, None, None]),
    )


def added(*growths: Growth | None) -> Growth | None:
    """Bounds of a sum."""
    moving = [growth for growth in growths if growth is not None]
    if not moving:
        return None
    return Growth(
        np.asarray(sum(growth.first for growth in moving)) * UP,
        np.asarray(sum(growth.second for growth in moving)) * UP,
    )


def joined(*growths: Growth | None) -> Growth | None:
    """Bounds of values side by side."""
    moving = [growth for growth in growths if growth is not None]
    if len(moving) < 2:
        return moving[0] if moving else None
    return Growth(
        np.sqrt(sum(growth.first**2 for growth in moving)) * UP,
        np.sqrt(sum(growth.second**2 for growth in moving)) * UP,
    )


def outer(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Products of bounds of first derivatives, in both orders."""
    product = a[:, :, None] * b[:, None, :]
    return product + product.swapaxes(1, 2)


def of_scalar_function(
    growth: Growth, slope: np.ndarray, curvature: np.ndarray
) -> Growth:
    """Bounds of a function of each entry."""
    bent = growth.first[:, :, None] * growth.first[:, None, :]
    first = times(growth.first, slope[:, None])
    second = times(growth.second, slope[:, None, None]) + times(
        bent, curvature[:, None, None]
    )
    return Growth(first * UP, second * UP)


def times(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Products, of which those with 0 are 0: what does not move is not bent."""
    return np.where(a == 0, 0.0, a * b)


def bilinear(
    a: Growth | None,
    b: Growth | None,
    norm_a: np.ndarray,
    norm_b: np.ndarray,
    norm: float = 1.0,
) -> Growth | None:
    """Bounds of a product, from norms of the maps that each operand makes of the other."""
    parts = []
    if a is not None:
        parts.append(scaled(a, norm_b))
    if b is not None:
        parts.append(scaled(b, norm_a))
    total = added(*parts)
    if a is None or b is None or total is None:
        return total
    second = total.second + norm * outer(*np.broadcast_arrays(a.first, b.first))
    return Growth(total.first, second * UP)


def infinite(growth: Growth) -> Growth:
    """Bounds that say nothing."""
    return Growth(
        np.full(growth.first.shape, math.inf), np.full(growth.second.shape, math.inf)
    )


def without_kinks(growth: Growth, gap: np.ndarray, drift: np.ndarray) -> Growth:
    """Bounds where no entry reaches a kink, `gap` away; else they say nothing."""
    is_smooth = gap > drift * UP
    still = np.all(growth.first == 0, axis=1)
    holds = np.reshape(is_smooth | still, (-1, 1))
    return Growth(
        np.where(holds, growth.first, math.inf),
        np.where(holds[:, :, None], growth.second, math.inf),
    )
