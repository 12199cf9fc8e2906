r"""Functions with kinks and jumps, as a smoother function and truncated powers."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lazyjax.activations.breakpoints import breaks
from lazyjax.infinite.duals.truncated_powers import NUM_POWERS
from lazyjax.typing import AnyArray


@dataclasses.dataclass(frozen=True)
class Piecewise:
    r"""A function, with the jumps of it and of its derivatives.

    With $\pm$ the side of 0 on which a corner $c$ is, the sum over corners and powers of
    `jumps` times $(\pm (u - c))_+^p / p!$ has the same jumps as the function: what is
    left has fewer.
    """

    fn: Callable[[Array], Array]
    breaks: tuple[float, ...]  # places where it may have a kink or jump
    corners: tuple[float, ...]  # those where it has one
    # Coefficients of truncated powers, by corner and power.
    jumps: Float[AnyArray, "corners powers"]

    @property
    def sides(self) -> list[int]:
        """The side of 0 on which each corner is."""
        return [-1 if corner < 0 else 1 for corner in self.corners]

    @property
    def used_powers(self) -> tuple[int, ...]:
        """Powers with a jump at some corner; all of them where jumps are traced."""
        try:
            return tuple(
                np.flatnonzero(np.any(np.asarray(self.jumps), axis=0)).tolist()
            )
        except jax.errors.TracerArrayConversionError:
            return tuple(range(NUM_POWERS))

    @property
    def is_continuous(self) -> bool:
        """Whether it is known to have no jumps."""
        try:
            return not np.any(np.asarray(self.jumps)[:, 0])
        except jax.errors.TracerArrayConversionError:
            return False

    def powers(self, u: Float[Array, "*q"]) -> Float[Array, "powers *q"]:
        """The sums over corners of truncated powers, by power that is used."""
        total = dict.fromkeys(self.used_powers, jnp.zeros_like(u))
        for corner, side, jumps in zip(
            self.corners, self.sides, self.jumps, strict=True
        ):
            beyond = side * (u - corner)
            is_beyond = (beyond > 0).astype(u.dtype)
            for p in total:
                power = jumps[p] / math.factorial(p) * is_beyond * beyond**p
                total[p] = total[p] + power
        return jnp.stack(list(total.values()))


def piecewise(
    fn: Callable[[Array], Array], dtype: Any, places: tuple[float, ...] | None = None
) -> Piecewise:
    """A function with its kinks and jumps, looked for unless `places` are given."""
    if places is None:
        places = breaks(fn, dtype)
    if not places:
        return Piecewise(fn, (), (), np.zeros((0, NUM_POWERS), dtype))
    sides = np.where(np.array(places) < 0, -1.0, 1.0)[:, None]
    signs = (sides ** (np.arange(NUM_POWERS) + 1)).astype(dtype)
    with jax.ensure_compile_time_eval():
        jumps = _jumps(fn, np.array(places), dtype) * signs
    try:
        known = np.asarray(jumps)
    except jax.errors.TracerArrayConversionError:
        return Piecewise(fn, places, places, jumps)
    is_corner = np.any(known, axis=1)
    corners = tuple(c for c, is_one in zip(places, is_corner, strict=True) if is_one)
    return Piecewise(fn, places, corners, known[is_corner])


def _jumps(fn: Callable[[Array], Array], places: np.ndarray, dtype: Any) -> Array:
    """Jumps at `places` of the function and its derivatives, 0 where it is singular."""
    eps = float(jnp.finfo(dtype).eps)
    step = np.maximum(4 * eps * np.abs(places), eps**2)
    points = places + step * np.array([[-8], [-1], [1], [8]])  # on two sides, twice

    def sided(u: Array) -> list[Array]:
        found = [fn]
        for _ in range(NUM_POWERS - 1):
            found.append(derivative(found[-1]))
        return [each(u.ravel()).reshape(u.shape) for each in found]

    values = jnp.stack(jax.jit(sided)(jnp.asarray(points, dtype)), -1)
    far_below, below, above, far_above = values
    size = jnp.abs(below) + jnp.abs(above)
    jump = above - below
    # A singularity has no one-sided derivative: it changes from one point to the next.
    drift = jnp.abs(far_below - below) + jnp.abs(far_above - above)
    is_real = (drift <= 1e-2 * jnp.abs(jump)) & (jnp.abs(jump) > 1e3 * eps * (1 + size))
    return jnp.where(is_real & jnp.isfinite(jump), jump, 0)


def derivative(fn: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """Derivative of an elementwise function."""
    return jax.grad(lambda u: jnp.sum(fn(u)))
