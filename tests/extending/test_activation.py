"""An activation from outside the package, in every verb that takes one."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lazyjax
from lazyjax.activations import ActivationSpec, Float64Activation, register, registry
from lazyjax.interop.neural_tangents import compare
from tests.helpers.compare import assert_close

pytestmark = pytest.mark.once
X = np.random.default_rng(0).normal(size=(4, 3))
ROOT = math.sqrt(2)


def moments(q11, q12, q22):  # Williams (1997)
    det = (1 + q11) * (1 + q22)
    angle = jnp.arcsin(q12 / jnp.sqrt(det))
    return 2 / jnp.pi * angle, 2 / jnp.pi / jnp.sqrt(det - q12**2)


PROBIT = ActivationSpec(
    name="probit",
    fn=lambda u: jax.lax.erf(u / ROOT),
    breaks=(),
    moments=moments,
    float64=Float64Activation(
        value=lambda u: np.vectorize(math.erf)(u / ROOT),
        derivative=lambda u: math.sqrt(2 / math.pi) * np.exp(-(u**2) / 2),
        slope=0.7978846,
        curvature=0.4839415,
    ),
    stax=lambda stax: stax.Erf(b=1 / ROOT),
)


@pytest.mark.parametrize("verdict", ["CERTIFIED", "INCONCLUSIVE"])
def test_an_activation_is_one_record(verdict, request, x64):
    request.addfinalizer(lambda: registry._SPECS.pop("probit"))
    bare = ActivationSpec(name="probit", fn=PROBIT.fn)  # all but this can be left out
    register(PROBIT if verdict == "CERTIFIED" else bare)

    net = lazyjax.nets.mlp(width=2048, activation="probit", symmetrized=True)
    params = net.init(jax.random.key(0), X)
    y = np.array([[0.01], [-0.01], [0.02], [0.0]])
    assert lazyjax.certify.gradient_flow(net, params, X, y).verdict.name == verdict

    # A smaller argument, and a readout that is smaller by the same factor.
    spec = lazyjax.Architecture(activation="erf", w_std=1 / ROOT)
    ntk = 2 * lazyjax.infinite_ntk(spec, X)
    net = lazyjax.nets.mlp(width=8, activation="probit")
    params = net.init(jax.random.key(0), X)
    assert_close(lazyjax.infinite_ntk(net.architecture, X), ntk, 1e-10)
    lifted = lazyjax.infinite_ntk_of(net.apply, params, X, variances=1.0)
    assert_close(lifted, ntk, 1e-10)
    assert_close(compare(net.architecture, X).their_ntk, ntk, 1e-6)
