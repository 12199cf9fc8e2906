"""Numbers that are known up to a radius, and equations computed in float64."""

import math
from typing import Any, NamedTuple

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np

from lazyjax.certify.arithmetic.rounding import UNIT_ROUNDOFF, gamma

UP = 1 + 2.0**-40
"""Radii are larger than computed by this factor, which a few roundings are within."""

_EXACT = np.zeros(())


def norm_of(array: np.ndarray) -> float:
    """Upper bound of the Euclidean norm of all entries.

    Args:
        array: The entries.

    Returns:
        The bound.
    """
    flat = array.reshape(-1)
    norm = math.sqrt(float(flat @ flat))
    return norm * (1 + gamma(flat.size + 4, UNIT_ROUNDOFF))


def enclosed(value: Any, radius: Any, norm: float = math.inf) -> "Enclosure":
    """Numbers, of which no error is larger than all of them together.

    Args:
        value: The computed numbers.
        radius: Bounds of their errors.
        norm: Upper bound of the Euclidean norm of all errors.

    Returns:
        The numbers.
    """
    if not norm < math.inf:
        return Enclosure(np.asarray(value), np.asarray(radius))
    return Enclosure(np.asarray(value), np.fmin(radius, norm * UP), norm * UP)


def leads(value: np.ndarray, radius: np.ndarray, axis: int) -> np.ndarray:
    """By how much the largest numbers along an axis exceed all others, at least.

    Args:
        value: The computed numbers.
        radius: How far off they may be.
        axis: The axis.

    Returns:
        The differences, without the axis; infinite if there are no others.
    """
    place = np.expand_dims(np.argmax(value, axis=axis), axis)
    first = [np.take_along_axis(array, place, axis) for array in (value, radius)]
    others = np.abs(first[0] - value) * (1 - 2.0**-50)
    gap = others - (first[1] + radius) * (1 + 2.0**-50)
    np.put_along_axis(gap, place, math.inf, axis)
    return np.min(gap, axis=axis)


class Enclosure(NamedTuple):
    """Numbers and how far off they may be.

    Attributes:
        value: The computed numbers.
        radius: Of floats, how far away the exact numbers may be; of others, whether
            they may be different ones. A single zero says that all are exact.
        norm: Upper bound of the Euclidean norm of all errors together; infinite if none
            is known but that of the radii.
    """

    value: np.ndarray
    radius: np.ndarray
    norm: float = math.inf

    @property
    def is_exact(self) -> bool:
        """Whether the numbers are what they are, without a radius."""
        return self.radius.ndim == 0 and not self.radius

    @property
    def is_float(self) -> bool:
        """Whether these are floating-point numbers."""
        return self.value.dtype == np.float64

    @property
    def size(self) -> np.ndarray:
        """Upper bounds of absolute values."""
        return np.asarray((np.abs(self.value) + self.radius) * UP)

    @property
    def error(self) -> float:
        """Upper bound of the Euclidean norm of all errors together."""
        if self.is_exact:
            return 0.0
        return min(self.norm, norm_of(np.broadcast_to(self.radius, self.value.shape)))

    @property
    def low(self) -> np.ndarray:
        """Lower bounds."""
        return np.asarray(np.nextafter(self.value - self.radius, -math.inf))

    @property
    def high(self) -> np.ndarray:
        """Upper bounds."""
        return np.asarray(np.nextafter(self.value + self.radius, math.inf))


class UnsupportedError(ValueError):
    """A program that no bounds are known of."""


def exact(value: Any) -> Enclosure:
    """Numbers as they are; floating-point ones in float64."""
    array = np.asarray(value)
    if jnp.issubdtype(array.dtype, jnp.floating):
        array = array.astype(np.float64)
    return Enclosure(array, _EXACT)


def bind(eqn: jex.JaxprEqn, *operands: np.ndarray) -> list[np.ndarray]:
    """Results of an equation, computed by JAX in 64 bits on the CPU.

    Args:
        eqn: The equation.
        *operands: Values of its operands.

    Returns:
        The results.
    """
    params = dict(eqn.params)
    if params.get("preferred_element_type") is not None:
        params["preferred_element_type"] = np.dtype(np.float64)
        params["precision"] = None
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        results = eqn.primitive.bind(*map(jnp.asarray, operands), **params)
    several = eqn.primitive.multiple_results
    return [np.asarray(result) for result in (results if several else [results])]
