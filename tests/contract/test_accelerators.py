"""Every verb, and kernels of every kind of network, compile for GPUs and TPUs.

Programs are lowered here, which needs no accelerator: what a backend does not have is
found, and what would wait for the host, or compute in double precision by mistake.
"""

import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lazyjax
from lazyjax.typing import Outputs
from tests.contract import cases
from tests.contract.test_public_verbs import TABLE, problem
from tests.helpers import zoo
from tests.helpers.zoo_base import ZOO

# Eigendecompositions, which each backend has by another name.
ALLOWED = {"cusolver_syevd_ffi", "Eigh"}
HEAVY = {"infinite_ntk_of", "infinite_nngp_of", "gradient_flow"}
LIGHT = ("mlp_relu", "cnn_strided", "gpt_tied_embeddings", "gru", "cond_on_the_data")


def faults(fn: Callable[..., object], *args: object) -> set[str]:
    """What of a program would not run on accelerators as it should."""
    traced = jax.jit(fn).trace(*args)
    found = set()
    for platform in ("cuda", "tpu"):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert "stablehlo" in text
        calls = {*re.findall(r"custom_call @(\w+)", text)} - ALLOWED
        # Sizes and axes are attributes in 64 bits, and random bits `ui64` in JAX itself.
        wide = re.findall(r"(?:stablehlo|chlo)\.(\w+) .*[x<]f64>", text)
        wide += re.findall(r"stablehlo\.constant .*: tensor<(?:\d+x)*(i64)>", text)
        found |= {f"{platform}: {name}" for name in {*calls, *wide}}
    return found


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in HEAVY)) for name in TABLE],
)
def test_verbs_lower(name):
    assert faults(TABLE[name].call, *problem()) == set()


@pytest.mark.parametrize(
    ("name", "outputs"),
    [
        pytest.param(name, outputs, marks=[pytest.mark.slow] * (name not in LIGHT))
        for name, outputs in zip(cases.CORE, cases.OUTPUTS * 6, strict=True)
    ],
)
def test_kernels_lower(name: str, outputs: Outputs):
    def kernel(params: object, x: jax.Array) -> jax.Array:
        return lazyjax.empirical_ntk(
            ZOO[name].apply_fn, params, x, outputs=outputs, method="structured"
        )

    x, _ = zoo.batches(name, "float32")
    assert faults(kernel, ZOO[name].params("float32"), x) == set()


def test_faults_are_seen():
    def on_the_host(x: jax.Array) -> jax.Array:
        return jax.pure_callback(np.sin, x, x)

    with pytest.raises((ValueError, NotImplementedError)):  # JAX itself refuses
        faults(on_the_host, jnp.ones(3))
    with jax.enable_x64(True):
        assert "tpu: multiply" in faults(lambda x: x * x, jnp.ones(3, jnp.float64))
        assert "cuda: constant" in faults(lambda: jnp.array([1.0, 2.0], jnp.float64))
