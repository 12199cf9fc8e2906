"""Fully connected networks as plain float64 arrays, one `Layers` for each copy."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from lazyjax._checks import (
    check_batch,
    check_floating,
    check_params,
    check_targets,
)
from lazyjax.nets import Network
from lazyjax.nets._layers import bias_scale, weight_scale
from lazyjax.typing import AnyArray, Params


@dataclasses.dataclass(frozen=True)
class Layer:
    r"""The map $h \mapsto s W^\top h + s_b b$.

    Attributes:
        weight: $W$, of shape (fan-in, units).
        bias: $b$; zeros if there is none.
        scale: $s$.
        bias_scale: $s_b$; 0 if there are no biases.
        is_trained: Whether $W$ and $b$ are trained.
    """

    weight: Float[np.ndarray, "fan_in units"]
    bias: Float[np.ndarray, "units"]
    scale: float
    bias_scale: float
    is_trained: bool


@dataclasses.dataclass(frozen=True)
class Layers:
    r"""A fully connected network $f = z^L$, $h^l = c\, \phi(z^l)$.

    Attributes:
        layers: The layers, of which the last has no activation.
        activation: Name of $\phi$, or a function.
        factor: $c$.
    """

    layers: tuple[Layer, ...]
    activation: Any
    factor: float

    @property
    def depth(self) -> int:
        """Number of hidden layers."""
        return len(self.layers) - 1


def layers_of(network: Network, params: Params) -> tuple[Layers, ...]:
    """Copies of the network: one, or "plus" and "minus" if it is symmetrized.

    Args:
        network: Fully connected network.
        params: Its parameters; taken as the real numbers that they are.

    Returns:
        Its copies, in float64.

    Raises:
        ValueError: If the network is of another kind, or the parameters are not those
            of such a network, or not finite.
        TypeError: If a parameter is not a floating-point array.
    """
    architecture = network.architecture
    if architecture.kind != "mlp":
        raise ValueError(
            "`network` must be fully connected, from `lazyjax.nets.mlp`, to be "
            f"certified; got kind {architecture.kind!r}."
        )
    check_params("params", params)
    for leaf in jax.tree.leaves(params):
        if not np.all(np.isfinite(np.asarray(leaf, np.float64))):
            raise ValueError("`params` must be finite; got NaN or infinite values.")
    copies = (
        (_entry(params, "plus"), _entry(params, "minus"))
        if architecture.symmetrized
        else (params,)
    )
    return tuple(_layers(network, copy) for copy in copies)


def data_of(
    network: Network, x: AnyArray, y: AnyArray
) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, "n k"]]:
    """Inputs, flattened, and targets, checked, in float64.

    Args:
        network: The network.
        x: Inputs.
        y: Targets.

    Returns:
        Both.

    Raises:
        ValueError: If a shape does not fit, or a value is not finite.
        TypeError: If one is not floating point.
    """
    check_floating("x", x)
    check_batch("x", x)
    check_targets("y", y, x.shape[0], network.architecture.num_outputs)
    inputs = np.asarray(x, np.float64).reshape(x.shape[0], -1)
    return inputs, np.asarray(y, np.float64)


def check_features(copies: tuple[Layers, ...], x: np.ndarray) -> None:
    """Check that inputs have as many features as the first layer reads.

    Raises:
        ValueError: If they have not.
    """
    expected = copies[0].layers[0].weight.shape[0]
    if x.shape[1] != expected:
        raise ValueError(
            f"`x` must have {expected} features per example, as `params` do; got "
            f"{x.shape[1]}."
        )


def _layers(network: Network, params: Params) -> Layers:
    architecture = network.architecture
    layers = []
    for number in range(1, architecture.num_layers + 1):
        entry = _entry(params, f"layer_{number}")
        weight = np.asarray(_entry(entry, "kernel"), np.float64)
        is_unscaled = number == 1 and architecture.input_scaling == "none"
        fan_in = 1 if is_unscaled else weight.shape[0]
        of_weight = weight_scale(architecture, number, fan_in, network.width)
        of_bias = bias_scale(architecture, number, network.width)
        if of_bias is None:
            bias = np.zeros(weight.shape[1])
        else:
            bias = np.asarray(_entry(entry, "bias"), np.float64)
        layers.append(
            Layer(
                weight=weight,
                bias=bias,
                scale=of_weight.multiplier,
                bias_scale=0.0 if of_bias is None else of_bias.multiplier,
                is_trained=architecture.is_trained(number),
            )
        )
    return Layers(
        layers=tuple(layers),
        activation=architecture.activation,
        factor=architecture.activation_factor(1) if architecture.depth else 1.0,
    )


def _entry(params: Params, name: str) -> Any:
    if not isinstance(params, Mapping) or name not in params:
        raise ValueError(
            f"`params` must be those of the network's `init`; got no {name!r}."
        )
    return params[name]


SYMMETRIZED_SCALE = 1 / math.sqrt(2)
"""What each copy of a symmetrized network is multiplied by, rounded."""
