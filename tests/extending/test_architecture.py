"""A kind of network from outside the package, in every verb that takes one."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lazyjax
from lazyjax import Architecture, Network
from lazyjax.architecture import KINDS, ArchitectureKind, kinds, register
from lazyjax.interop.neural_tangents import compare
from tests.helpers.compare import assert_close

pytestmark = pytest.mark.once
X = np.random.default_rng(0).normal(size=(4, 3))
MLP: Any = KINDS["mlp"]


def build(architecture, width):
    """A network of kind "mlp" plus a linear model."""
    mlp = MLP.build(dataclasses.replace(architecture, kind="mlp"), width)
    init = lambda key, x: {"mlp": mlp.init(key, x), "skip": jnp.ones((x.shape[1], 1))}
    linear = lambda params, x: x @ params["skip"] / x.shape[1] ** 0.5
    apply = lambda params, x: mlp.apply(params["mlp"], x) + linear(params, x)
    return Network(init, apply, architecture, width)


def kernels(architecture, x1, x2, *others):
    found = MLP.limit.kernels(architecture, x1, x2, *others)
    linear = x1 @ x2 / x1.size
    ntk = None if found.ntk is None else found.ntk + linear  # of untrained networks
    return found._replace(nngp=found.nngp + linear, ntk=ntk)


def layers(stax_layers):
    stax = stax_layers.stax
    linear = stax.serial(stax.Flatten(), stax.Dense(1))
    branches = stax.parallel(stax.serial(*MLP.stax(stax_layers)), linear)
    return [stax.FanOut(2), branches, stax.FanInSum()]


def test_a_kind_of_network_is_one_record(request, x64):
    request.addfinalizer(lambda: [kinds._KINDS.pop(n) for n in ("skip", "finite")])
    limit = dataclasses.replace(MLP.limit, kernels=kernels)
    register(ArchitectureKind(name="skip", build=build, limit=limit, stax=layers))
    register(ArchitectureKind(name="finite", build=build))
    spec = Architecture(kind="skip", depth=2)
    net = lazyjax.nets.build(dataclasses.replace(spec, symmetrized=True), width=8)
    assert not np.any(net.apply(net.init(jax.random.key(0), X), jnp.array(X)))
    plain = lazyjax.infinite_ntk(Architecture(depth=2), X)
    assert_close(lazyjax.infinite_ntk(spec, X), plain + X @ X.T / 3)
    assert compare(spec, X).ntk_difference < 1e-6
    with pytest.raises(ValueError, match="none is registered with kind 'finite'"):
        lazyjax.infinite_ntk(Architecture(kind="finite"), X)
    with pytest.raises(ValueError, match="`head` has no meaning for kind 'skip'"):
        Architecture(kind="skip", head="average")
