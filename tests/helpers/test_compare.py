"""The comparator fails when it should."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers.compare import assert_close


@pytest.mark.parametrize("level", ["exact", "same_algebra", "other_algorithm"])
def test_equal_arrays_pass(level):
    a = jnp.arange(1.0, 5.0)
    assert_close(a, a, level)


@pytest.mark.parametrize("level", ["exact", "same_algebra", "other_algorithm", 1e-3])
def test_other_shape_fails_even_if_it_broadcasts(level):
    with pytest.raises(AssertionError):
        assert_close(np.ones((3, 1)), np.ones((3, 3)), level)


@pytest.mark.parametrize("level", ["same_algebra", "other_algorithm", 1e3])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_fail(level, bad):
    a = np.array([1.0, bad])
    with pytest.raises(AssertionError, match="finite"):
        assert_close(a, a, level)


def test_exact_fails_on_other_dtype_and_on_one_ulp():
    a = np.ones(3, np.float32)
    with pytest.raises(AssertionError, match="float64"):
        assert_close(a, a.astype(np.float64), "exact")
    with pytest.raises(AssertionError):
        assert_close(a, np.nextafter(a, 2, dtype=np.float32), "exact")


@pytest.mark.parametrize(
    ("level", "tolerance"),
    [
        ("same_algebra", 100 * 2.0**-52),
        ("other_algorithm", 10 * 2.0**-26),
        (1e-6, 1e-6),
    ],
)
def test_fails_just_beyond_the_tolerance(level, tolerance):
    a = np.array([3.0, 4.0])
    assert_close(a * (1 + 0.9 * tolerance), a, level)
    with pytest.raises(AssertionError, match="relative error"):
        assert_close(a * (1 + 2 * tolerance), a, level)


def test_lower_precision_of_the_two_sets_the_level():
    a = np.array([3.0, 4.0])
    assert_close((a * (1 + 1e-6)).astype(np.float32), a)
    with pytest.raises(AssertionError, match="relative error"):
        assert_close(a * (1 + 1e-6), a)


def test_integers_must_be_equal_at_every_level():
    a = np.array([1000, 2000])
    assert_close(a, a, "other_algorithm")
    with pytest.raises(AssertionError, match="relative error"):
        assert_close(a + 1, a, "other_algorithm")
