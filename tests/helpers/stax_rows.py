"""Every layer, option and activation of neural-tangents 0.6.5, each in a small network.

Each network is the one of neural-tangents itself: what is lifted is its `apply_fn`, and
what is expected its `kernel_fn`. Where Flax has the same layer, or an `Architecture`
describes the network, that is compared too.
"""

import dataclasses
import functools
import math
import re
import warnings
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import lazyjax
from lazyjax import Architecture
from lazyjax.interop.neural_tangents import load_neural_tangents

WIDTH = 6
W_STD, B_STD = 1.3, 0.2


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table."""

    layer: str  # of neural-tangents
    option: str
    # Layers of the network, from `Layers`.
    layers: Callable[["Layers"], list[Any]]
    inputs: str = "vectors"
    flax: Callable[[], list[Any]] | None = None  # the same network, of standard layers
    architecture: Architecture | None = None
    # Arguments of `apply_fn`, and of `kernel_fn`, besides parameters and inputs.
    keywords: Callable[[str], dict[str, Any]] = lambda of: {}


class Layers:
    """The layers of `neural_tangents.stax`, with the standard deviations of this table."""

    def __init__(self, parameterization: str) -> None:
        self.stax = load_neural_tangents().stax
        self.parameterization = parameterization

    def __getattr__(self, name: str) -> Any:
        layer = getattr(self.stax, name)
        if name in ("Dense", "Conv", "ConvLocal", "ConvTranspose"):
            given = {"W_std": W_STD, "b_std": B_STD}
            return functools.partial(
                layer, **given, parameterization=self.parameterization
            )
        return layer

    def around(self, *layers: Any) -> list[Any]:
        """Dense layers around some layers."""
        return [self.Dense(WIDTH), *layers, self.Dense(1)]

    def around_images(self, *layers: Any) -> list[Any]:
        """Convolutions of images, some layers, and a readout of the mean over pixels."""
        return [
            *(self.Conv(WIDTH, (3, 3), padding="SAME"), *layers),
            *(self.GlobalAvgPool(), self.Dense(1)),
        ]

    def activated(self, *layers: Any) -> list[Any]:
        """Convolutions of images and an activation before some layers."""
        return self.around_images(self.Relu(), *layers)


_RNG = np.random.default_rng(0)
INPUTS = {
    "vectors": _RNG.normal(size=(3, 5)),
    "sequences": _RNG.normal(size=(2, 6, 2)),
    "images": _RNG.normal(size=(2, 5, 4, 2)),
    "channels first": _RNG.normal(size=(2, 2, 5, 4)),
    "volumes": _RNG.normal(size=(2, 3, 4, 2, 2)),
}


def halves(row: Row) -> tuple[jax.Array, jax.Array]:
    """Two batches without a common example: at equal ones, theirs are off by 1e-9."""
    x = INPUTS[row.inputs]
    return jnp.asarray(x[:1]), jnp.asarray(x[1:])


def network(row: Row, parameterization: str) -> tuple[Any, Any, Any]:
    """Functions (init, apply, kernel) of neural-tangents."""
    layers = Layers(parameterization)
    return layers.stax.serial(*row.layers(layers))


def shapes(row: Row, init_fn: Any) -> Any:
    """Shapes and dtypes of the parameters."""
    x = INPUTS[row.inputs]
    with jax.numpy_dtype_promotion("standard"):
        return jax.eval_shape(lambda k: init_fn(k, x.shape)[1], jax.random.key(0))


def expected(row: Row, parameterization: str = "ntk") -> tuple[jax.Array, jax.Array]:
    """Both kernels by neural-tangents, (nngp, ntk)."""
    x1, x2 = halves(row)
    kernel_fn = network(row, parameterization)[2]
    keywords = row.keywords("kernel")
    with (
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        found = jax.jit(lambda x1, x2: kernel_fn(x1, x2, ("nngp", "ntk"), **keywords))(
            x1, x2
        )
    return found.nngp, found.ntk


def from_plain(row: Row) -> tuple[jax.Array, jax.Array]:
    """Both kernels, read from the `apply_fn` of neural-tangents."""
    init_fn, apply_fn, _ = network(row, "ntk")
    keywords = row.keywords("apply")

    def call(params: Any, x: jax.Array) -> jax.Array:
        return apply_fn(params, x, **keywords)

    with (
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        params = shapes(row, init_fn)
        return both(call, params, row, 1.0)


def both(
    apply_fn: Any, params: Any, row: Row, variances: Any
) -> tuple[jax.Array, jax.Array]:
    """Both lifted kernels."""
    batches = halves(row)
    return (
        lazyjax.infinite_nngp_of(apply_fn, params, *batches, variances=variances),
        lazyjax.infinite_ntk_of(apply_fn, params, *batches, variances=variances),
    )


class Stack(nn.Module):
    """Flax layers and functions, one after the other."""

    layers: tuple[Any, ...]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in self.layers:
            x = layer(x)
        return x


def from_flax(row: Row) -> tuple[jax.Array, jax.Array]:
    """Both kernels, read from the layers of Flax."""
    assert row.flax is not None
    module, x = Stack(tuple(row.flax())), jnp.asarray(INPUTS[row.inputs])
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    variables = jax.eval_shape(module.init, rngs, x)
    params = variables["params"]

    def call(params: Any, x: jax.Array) -> jax.Array:
        found: Any = module.apply(
            {"params": params}, x, rngs={"dropout": jax.random.key(1)}
        )
        return found

    def variance(path: Any, leaf: Any) -> float:
        if path[-1].key == "bias":
            return B_STD**2
        return W_STD**2 / math.prod(leaf.shape[:-1])

    variances = jax.tree_util.tree_map_with_path(variance, params)
    return both(call, params, row, variances)


def from_architecture(row: Row) -> tuple[jax.Array, jax.Array]:
    """Both kernels of the description."""
    assert row.architecture is not None
    batches = halves(row)
    return (
        lazyjax.infinite_nngp(row.architecture, *batches),
        lazyjax.infinite_ntk(row.architecture, *batches),
    )


READINGS: dict[str, tuple[Callable[[Row], Any], str]] = {
    "Architecture": (from_architecture, "ntk"),
    "JAX": (from_plain, "ntk"),
    "Flax": (from_flax, "standard"),
}
"""Columns of the table: how a kernel is found, and the parameterization it is of."""

AGREES = 1e-10


def outcome(row: Row, reading: str) -> str:
    """How the kernels of a reading compare: a cell of the table.

    Args:
        row: The line.
        reading: The column.

    Returns:
        The larger relative difference of both kernels; "refused", with the operation; or
        nothing, where there is no such network.
    """
    if (reading, row.architecture) == ("Architecture", None):
        return ""
    if (reading, row.flax) == ("Flax", None):
        return ""
    read, parameterization = READINGS[reading]
    with (
        warnings.catch_warnings(),
        jax.numpy_dtype_promotion("standard"),  # which Flax and theirs need
        jax.numpy_rank_promotion("allow"),
    ):
        warnings.simplefilter("ignore")
        theirs = expected(row, parameterization)
        try:
            ours = read(row)
        except NotImplementedError:  # theirs is a kernel alone
            return ""
        except (TypeError, ValueError) as error:
            named = re.search(r"`(\w+)` \(at ", str(error))
            return f"refused, `{named[1]}`" if named else "refused"
    gaps = [
        float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b))
        for a, b in zip(ours, theirs, strict=True)
    ]
    return f"{max(gaps):.0e}"
