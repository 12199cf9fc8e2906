"""The one comparator of the suite: relative Frobenius error at a named level."""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

Level = Literal["exact", "same_algebra", "other_algorithm"]


def assert_close(
    actual: object, expected: object, level: Level | float = "same_algebra"
) -> None:
    """Assert that two arrays agree in shape, and in value to a relative error.

    Levels: "exact" to the bit (and in dtype); "same_algebra" 100 eps, for the same
    formula evaluated in another order; "other_algorithm" 10 sqrt(eps), for another
    way to the same quantity; eps is that of the lower precision of the two, and 0 for
    integers. A number is a relative error of its own, for claims that state one.
    """
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, f"{actual.shape} != {expected.shape}"
    if level == "exact":
        assert actual.dtype == expected.dtype, f"{actual.dtype} != {expected.dtype}"
        np.testing.assert_array_equal(actual, expected)
        return
    assert np.isfinite(expected).all(), "expected values must be finite"
    assert np.isfinite(actual).all(), "actual values must be finite"
    error = relative_error(actual, expected)
    tolerance = _tolerance(level, actual, expected)
    assert error <= tolerance, f"relative error {error:.3g} > {tolerance:.3g}"


def assert_trees_close(
    actual: object, expected: object, level: Level | float = "exact"
) -> None:
    """Assert of every leaf of two pytrees what `assert_close` does."""
    for one, other in zip(*map(jax.tree.leaves, (actual, expected)), strict=True):
        assert_close(one, other, level)


def relative_error(actual: object, expected: object) -> float:
    """Frobenius norm of the difference over that of `expected` (or 1 if it is 0)."""
    actual, expected = (_wide(np.asarray(array)) for array in (actual, expected))
    scale = np.linalg.norm(expected)
    return float(np.linalg.norm(actual - expected) / (scale if scale > 0 else 1.0))


def _wide(array: np.ndarray) -> np.ndarray:
    return array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)


def _tolerance(level: Level | float, *arrays: np.ndarray) -> float:
    if not isinstance(level, str):
        return level
    floating = [a for a in arrays if jnp.issubdtype(a.dtype, jnp.inexact)]
    if not floating:
        return 0.0
    eps = max(float(jnp.finfo(a.dtype).eps) for a in floating)
    return {"same_algebra": 100 * eps, "other_algorithm": 10 * eps**0.5}[level]
