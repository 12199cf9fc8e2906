"""Checks say which argument, what was expected and what came."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lazyjax import _checks


def test_choice_suggests_the_nearest_name_only_if_there_is_one():
    _checks.check_choice("loss", "square", ("square", "hinge"))
    with pytest.raises(ValueError, match=r"`loss`.*'square', 'hinge'.*mean 'square'"):
        _checks.check_choice("loss", "sqare", ("square", "hinge"))
    with pytest.raises(ValueError, match="got 'xyz'") as error:
        _checks.check_choice("loss", "xyz", ("square", "hinge"))
    assert "Did you mean" not in str(error.value)


def test_booleans_are_not_counts():
    with pytest.raises(TypeError, match="`depth` must be an integer; got True"):
        _checks.check_at_least("depth", True, 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_counted(bad):
    x = np.ones((2, 3), np.float32)
    _checks.check_finite("x", x)
    x[1, 2] = bad
    with pytest.raises(ValueError, match="`x` must be finite; 1 of its 6 values is"):
        _checks.check_finite("x", x)


def test_values_are_not_looked_at_under_jit():
    @jax.jit
    def f(x):
        _checks.check_finite("x", x)
        return x

    assert np.isnan(f(jnp.nan))


def test_same_features_compares_shape_and_dtype():
    x = np.ones((2, 3), np.float32)
    _checks.check_same_features("x1", x, "x2", np.ones((5, 3), np.float32))
    with pytest.raises(ValueError, match=r"`x1` and `x2`.*\(3,\) and \(4,\)"):
        _checks.check_same_features("x1", x, "x2", np.ones((2, 4), np.float32))
    with pytest.raises(TypeError, match="float32 and float64"):
        _checks.check_same_features("x1", x, "x2", np.ones((2, 3)))


def test_targets_without_an_output_axis_get_a_hint():
    with pytest.raises(ValueError, match=r"`y` must have shape \(3, 1\).*y\[:, None\]"):
        _checks.check_targets("y", np.ones(3, np.float32), 3, 1)
    with pytest.raises(TypeError, match="dtype int"):
        _checks.check_targets("y", np.ones((3, 1), int), 3, 1)


def test_bad_parameter_is_named_by_its_path():
    params = {"a": [jnp.ones(2), jnp.arange(3)]}
    with pytest.raises(TypeError, match=r"`params\['a'\]\[1\]` .*got dtype int32"):
        _checks.check_params("params", params)
    with pytest.raises(TypeError, match="got a float"):
        _checks.check_params("params", {"a": 1.0})
    with pytest.raises(ValueError, match="at least one array"):
        _checks.check_params("params", {})
