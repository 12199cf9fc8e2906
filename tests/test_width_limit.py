"""One description, two readings: finite networks against their infinite-width limit."""

import math

import jax
import numpy as np
import pytest

import lazyjax
from tests.helpers.compare import relative_error
from tests.helpers.compilation import OPTIMIZED

pytestmark = pytest.mark.once

OPTIONS = [
    {"depth": 1, "activation": "relu", "parameterization": "ntk"},
    {"depth": 2, "activation": "erf", "parameterization": "ntk", "b_std": 0.5},
    {"depth": 2, "activation": "relu", "parameterization": "standard", "w_std": 1.5},
    {"depth": 2, "activation": "tanh", "parameterization": "mup", "b_std": 0.3},
    {"depth": 2, "activation": "relu", "trained": "first", "input_scaling": "none"},
    {"depth": 1, "activation": "relu", "trained": "last", "readout": "sign"},
    {"depth": 2, "activation": "erf", "symmetrized": True, "parameterization": "mup"},
]


def inputs(num_examples=3):
    return jax.random.normal(jax.random.key(0), (num_examples, 4))


def samples(net, x, num_seeds, kernel_fn):
    def sample(key):
        kernel = kernel_fn(net.apply, net.init(key, x), x)
        return kernel[..., 0, 0]

    keys = jax.random.split(jax.random.key(1), num_seeds)
    draw = jax.jit(lambda keys: jax.lax.map(sample, keys), compiler_options=OPTIMIZED)
    return np.asarray(draw(keys), "f8")


def assert_mean_is(values, truth, max_relative_sem=0.05):
    """Within five standard errors, and those small enough to mean something."""
    mean = values.mean(0)
    sem = values.std(0, ddof=1) / math.sqrt(len(values))
    assert np.all(np.abs(mean - truth) <= 5 * sem)
    assert np.linalg.norm(sem) <= max_relative_sem * np.linalg.norm(truth)


@pytest.mark.parametrize(
    "options",
    OPTIONS,
    ids=lambda options: "-".join(str(value) for value in options.values()),
)
@pytest.mark.sampled(2)
def test_mean_kernel_of_wide_networks_is_the_infinite_one(options):
    width = 256
    net = lazyjax.nets.mlp(width=width, **options)
    x = inputs()
    is_standard = options.get("parameterization") == "standard"
    truth = lazyjax.infinite_ntk(
        net.architecture, x, width=width if is_standard else None
    )
    assert_mean_is(samples(net, x, 100, lazyjax.empirical_ntk), np.asarray(truth, "f8"))


@pytest.mark.parametrize("wrong", [{"w_std": 1.05}, {"b_std": 0.55}])
def test_a_wrong_constant_would_be_noticed(wrong):
    options = {"depth": 1, "activation": "erf", "b_std": 0.5}
    net = lazyjax.nets.mlp(width=256, **options)
    x = inputs()
    other = lazyjax.Architecture(**{**options, **wrong})
    truth = np.asarray(lazyjax.infinite_ntk(other, x), "f8")
    with pytest.raises(AssertionError):
        assert_mean_is(samples(net, x, 400, lazyjax.empirical_ntk), truth)


def test_mean_product_of_outputs_is_the_gaussian_process_kernel():
    net = lazyjax.nets.mlp(width=64, depth=2, activation="relu", w_std=2**0.5)
    x = inputs()
    truth = np.asarray(lazyjax.infinite_nngp(net.architecture, x), "f8")
    assert_mean_is(samples(net, x, 4000, lazyjax.empirical_nngp), truth)


def test_kernel_error_falls_like_one_over_the_root_of_the_width():
    x = inputs(8)
    widths = [32, 128, 512, 2048]
    errors = []
    for width in widths:
        net = lazyjax.nets.mlp(width=width, activation="relu")
        truth = lazyjax.infinite_ntk(net.architecture, x)
        kernels = samples(net, x, 40, lazyjax.empirical_ntk)
        errors.append(np.mean([relative_error(k, truth) for k in kernels]))
    slope = np.polyfit(np.log(widths), np.log(errors), 1)[0]
    assert abs(slope + 0.5) <= 0.15
