"""What the contract ranges over: networks, methods, modes, and kernels computed once."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

import lazyjax
from lazyjax.typing import Method, Outputs
from tests.helpers import oracles, zoo
from tests.helpers.zoo_base import ZOO

METHODS: tuple[Method, ...] = ("structured", "auto", "jacobian", "vjp")
# What does not depend on the method is tried on one, and nightly on the others.
ONE_METHOD = (
    METHODS[0],
    *(pytest.param(method, marks=pytest.mark.slow) for method in METHODS[1:]),
)
OUTPUTS: tuple[Outputs, ...] = ("full", "diagonal", "trace", "pseudo", 0)
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}

# The networks that the full product of modes is run on: one of each kind.
CORE = (
    "mlp_relu",
    "mlp_no_bias_ntk_parameterization",
    "layer_norm",
    "cnn_global_average_pool",
    "cnn_strided",
    "cnn_dilated",
    "cnn_depthwise",
    "cnn_grouped",
    "cnn_transposed",
    "cnn_group_norm",
    "cnn_max_pool",
    "resnet_with_projection",
    "vision_transformer",
    "gpt_tied_embeddings",
    "rnn",
    "gru",
    "transformer_scanned_over_layers",
    "mlp_scanned_over_layers",
    "rematerialized_blocks",
    "cond_on_the_data",
    "lora_of_the_weight",
    "weight_norm",
    "dense_used_three_times",
    "tied_autoencoder",
    "unused_and_empty_leaves",
    "mixture_of_experts",
    "linen_cnn",
    "nnx_model",
    "equinox_model",
    "physics_informed_residuals",
)

# Those that the laws of a kernel are tried on.
LAWS = (
    "mlp_gelu",
    "cnn_strided",
    "embedding_bag",
    "scan_with_stacked_and_shared_weights",
    "cond_on_the_data_with_shared_weight",
    "tied_autoencoder",
    "one_use_behind_stop_gradient",
)


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of `empirical_ntk`."""

    name: str
    method: Method
    dtype: str
    outputs: Outputs
    paired: bool  # x2 is given
    jit: bool

    def __str__(self) -> str:
        x2 = "x2" if self.paired else "none"
        mode = "jit" if self.jit else "eager"
        fields = (self.name, self.method, self.dtype, self.outputs, x2, mode)
        return "-".join(map(str, fields))


class Case(Call):
    """One call for a network of one array, beside the oracle."""

    def kernel(self) -> np.ndarray:
        """What the library returns."""
        with jax.enable_x64(self.dtype == "float64"):
            return _kernel(self)

    def expected(self) -> np.ndarray:
        """What the oracle returns."""
        return oracles.reduce_ntk(
            zoo.oracle(self.name, paired=self.paired), self.outputs
        )


@functools.cache
def _kernel(case: Case) -> np.ndarray:
    net = ZOO[case.name]
    x1, x2 = zoo.batches(case.name, case.dtype)

    def ntk(params: object, x1: jax.Array, x2: jax.Array | None) -> jax.Array:
        return lazyjax.empirical_ntk(
            net.apply_fn, params, x1, x2, outputs=case.outputs, method=case.method
        )

    call = jax.jit(ntk) if case.jit else ntk
    return np.asarray(call(net.params(case.dtype), x1, x2 if case.paired else None))


def rotation(method: Method) -> list[Case]:
    """One case per network: dtype, outputs, x2 and mode take turns over the zoo.

    Outside the core, which has the full product too, it is all of the kernel in
    float64: what says most about a network by itself.
    """
    cases = []
    for i, name in enumerate(ZOO):
        paired, jit = i % 2 == 0, (i // 2) % 2 == 0
        reduced = name in CORE and (i // 4) % 2 == 0
        dtype = "float32" if reduced else "float64"
        outputs = OUTPUTS[1 + i % 4] if reduced else "full"
        cases.append(Case(name, method, dtype, outputs, paired, jit))
    return cases


def product(method: Method) -> list[Case]:
    """Every combination of dtype, outputs, x2 and mode on the core of the zoo."""
    return [
        Case(name, method, dtype, outputs, paired, jit)
        for name in CORE
        for dtype in TOLERANCE
        for outputs in OUTPUTS
        for paired in (False, True)
        for jit in (False, True)
    ]
