"""Students of a teacher, lazy and not, at a size that takes seconds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lazyjax.experiments import run
from lazyjax.experiments.lazy import chizat_bach as module
from tests.helpers.experiments import check_control, check_repeatable, checked_run

pytestmark = pytest.mark.once


@pytest.mark.slow
def test_lazy_students_generalize_worse_in_both_ways():
    found = checked_run("chizat-bach", word="reproduced").measured
    assert found.test_by_tau.shape == (2, 4)
    # Lazy or not, they learn something.
    assert found.test_by_tau.max() < 0.7
    # A wider student is worse with one scaling, and not with the other.
    sqrt, inverse = found.test_by_width.mean(axis=-1)
    assert sqrt[1] > sqrt[0]
    assert inverse[1] < 1.2 * inverse[0]


@pytest.mark.slow
def test_of_noise_there_is_nothing_to_learn():
    found = check_control("chizat-bach").measured
    assert found.test_by_tau.min() > 0.9


@pytest.mark.slow
def test_quick_is_reproduced_again_and_again():
    result = run("chizat-bach")
    assert result.verdict.word == "reproduced", result.verdict.line
    check_repeatable("chizat-bach", result, size="quick")


def test_doubled_students_start_at_zero_and_others_at_their_scale():
    key, x = jax.random.key(0), jax.random.normal(jax.random.key(1), (300, 8))
    params, factor, _ = module._student(
        key, jnp.float32(3.0), width=40, num_features=8, is_doubled=True
    )
    f = factor * jax.nn.relu(x @ params["w"]) @ params["a"]
    assert float(jnp.abs(f).max()) < 1e-3
    assert float(params["w"].std()) == pytest.approx(3, rel=0.15)
    sizes = {}
    for power in module.SCALINGS.values():
        params, factor, rate = module._student(
            key, jnp.float32(1.0), width=400, num_features=8, power=power
        )
        sizes[power] = factor, float(rate)
        f = factor * jax.nn.relu(x @ params["w"]) @ params["a"]
        # Sums of 400 independent terms of variance |x|²/2 = 4.
        assert float(f.std()) == pytest.approx(2 * factor * 20, rel=0.4)
    # Rates make up for the factor of outputs.
    products = [factor**2 * rate for factor, rate in sizes.values()]
    np.testing.assert_allclose(products[0], products[1], rtol=1e-6)
