"""Fully connected networks as plain float64 arrays, one `Layers` for each branch."""

import dataclasses
import math
import types
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from lazyjax._checks import check_batch, check_floating, check_params, check_targets
from lazyjax.architecture import Architecture
from lazyjax.nets import Network
from lazyjax.nets.scales import bias_scale, weight_scale
from lazyjax.typing import AnyArray, Params

HANDLED = frozenset(
    {
        "activation",
        "activation_scale",
        "b_std",
        "depth",
        "input_scaling",
        "num_outputs",
        "output_scale",
        "parameterization",
        "readout",
        "symmetrized",
        "trained",
        "w_std",
    }
)
"""Fields of `Architecture` that bounds take account of, whatever their values."""

_OF_OTHER_KINDS = "it belongs to networks that are not fully connected"

REFUSED: Mapping[str, str] = types.MappingProxyType(
    {
        "kind": "only fully connected networks, from `lazyjax.nets.mlp`, have bounds",
        "normalization": "no theorem here covers normalized pre-activations",
        "residual_scale": _OF_OTHER_KINDS,
        "recurrent_std": _OF_OTHER_KINDS,
        "width_factors": _OF_OTHER_KINDS,
        "filter_shape": _OF_OTHER_KINDS,
        "strides": _OF_OTHER_KINDS,
        "padding": _OF_OTHER_KINDS,
        "pool_after": _OF_OTHER_KINDS,
        "pooling": _OF_OTHER_KINDS,
        "head": _OF_OTHER_KINDS,
        "pixel_scaling": _OF_OTHER_KINDS,
        "patch_size": _OF_OTHER_KINDS,
        "num_heads": _OF_OTHER_KINDS,
    }
)
"""Fields of `Architecture` that must have their default values, and why."""


@dataclasses.dataclass(frozen=True)
class Layer:
    r"""The map $h \mapsto s W^\top h + s_b b$.

    Attributes:
        weight: $W$, of shape (fan-in, units).
        bias: $b$; zeros if there is none.
        scale: $s$, rounded at most once.
        bias_scale: $s_b$, likewise; 0 if there are no biases.
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


def is_described(architecture: Architecture) -> bool:
    """Whether bounds take account of all that a description of a network says."""
    return all(
        field.name in HANDLED or getattr(architecture, field.name) == field.default
        for field in dataclasses.fields(architecture)
    )


def check_architecture(architecture: Architecture) -> None:
    """Check that there are bounds for networks of this description.

    Raises:
        ValueError: If a field that bounds take no account of is not at its default.
    """
    for field in dataclasses.fields(architecture):
        value = getattr(architecture, field.name)
        if field.name in HANDLED or value == field.default:
            continue
        reason = REFUSED.get(field.name, "no theorem here takes account of it")
        raise ValueError(
            f"`network` must have {field.name} = {field.default!r} to be certified; got "
            f"{value!r}: {reason}."
        )


def layers_of(network: Network, params: Params) -> tuple[Layers, ...]:
    """Branches of the network: one, or "plus" and "minus" if it is symmetrized.

    That `network.apply` computes the same is for `lazyjax.certify.bounds.start` to check.

    Args:
        network: Fully connected network.
        params: Its parameters; taken as the real numbers that they are.

    Returns:
        Its branches, in float64.

    Raises:
        ValueError: If bounds do not cover the network, or the parameters are not those
            of such a network, or not finite.
        TypeError: If a parameter is not a floating-point array.
    """
    architecture = network.architecture
    check_architecture(architecture)
    check_params("params", params)
    if not architecture.symmetrized:
        return (_layers(network, params, "params"),)
    _check_names(params, ("minus", "plus"), "params")
    return tuple(
        _layers(network, params[name], f"params[{name!r}]")
        for name in ("plus", "minus")
    )


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


def check_features(branches: tuple[Layers, ...], name: str, x: np.ndarray) -> None:
    """Check that inputs have as many features as the first layer reads.

    Raises:
        ValueError: If they have not.
    """
    expected = branches[0].layers[0].weight.shape[0]
    if x.shape[1] != expected:
        raise ValueError(
            f"`{name}` must have {expected} features per example, as `params` do; got "
            f"{x.shape[1]}."
        )


def _layers(network: Network, params: Params, where: str) -> Layers:
    architecture = network.architecture
    numbers = range(1, architecture.num_layers + 1)
    _check_names(params, tuple(f"layer_{number}" for number in numbers), where)
    # Any number of features; each layer reads what the one before it makes.
    layers, fan_in = [], None
    for number in numbers:
        name = f"layer_{number}"
        layers.append(
            _layer(network, number, params[name], fan_in, f"{where}[{name!r}]")
        )
        fan_in = layers[-1].weight.shape[1]
    # The scale of activations is found by JAX, in the precision that is enabled.
    with jax.enable_x64(True):
        factor = architecture.activation_factor(1) if architecture.depth else 1.0
    return Layers(
        layers=tuple(layers), activation=architecture.activation, factor=factor
    )


def _layer(
    network: Network, number: int, entry: Params, fan_in: int | None, where: str
) -> Layer:
    """Layer `number`, of shapes that fit the network."""
    architecture, width = network.architecture, network.width
    is_last = number == architecture.num_layers
    units = architecture.num_outputs if is_last else width
    of_bias = bias_scale(architecture, number, width)
    names = ("kernel",) if of_bias is None else ("bias", "kernel")
    _check_names(entry, names, where)
    weight = _array(entry["kernel"], (fan_in, units), f"{where}['kernel']", network)
    bias = np.zeros(units)
    if of_bias is not None:
        bias = _array(entry["bias"], (units,), f"{where}['bias']", network)
    fan_in = architecture.fan_in(number, weight.shape[0])
    of_weight = weight_scale(architecture, number, fan_in, width)
    # The output's scale is one more factor of the last layer's.
    factor = architecture.output_scale if is_last else 1.0
    return Layer(
        weight=weight,
        bias=bias,
        scale=factor * of_weight.multiplier,
        bias_scale=0.0 if of_bias is None else factor * of_bias.multiplier,
        is_trained=architecture.is_trained(number),
    )


def _check_names(params: Params, names: tuple[str, ...], where: str) -> None:
    """Check that a level of the tree of parameters is a mapping with these keys.

    Raises:
        ValueError: If it is not.
    """
    found = sorted(params) if isinstance(params, Mapping) else type(params).__name__
    if found != sorted(names):
        raise ValueError(
            f"`{where}` must be those of the network's `init`, with the entries "
            f"{', '.join(map(repr, sorted(names)))}; got {found}."
        )


def _array(
    leaf: AnyArray, shape: tuple[int | None, ...], where: str, network: Network
) -> np.ndarray:
    """A finite array of parameters of this shape, of which `None` is any size."""
    found = np.shape(leaf)
    is_fit = len(found) == len(shape) and all(
        size in (None, other) for size, other in zip(shape, found, strict=True)
    )
    if not is_fit:
        expected = ", ".join("features" if n is None else str(n) for n in shape)
        raise ValueError(
            f"`{where}` must have shape ({expected}), as in a network of width "
            f"{network.width} with {network.architecture.num_outputs} outputs; got "
            f"{found}."
        )
    value = np.asarray(leaf, np.float64)
    if not np.all(np.isfinite(value)):
        raise ValueError(f"`{where}` must be finite; got NaN or infinite values.")
    return value


SYMMETRIZED_SCALE = 1 / math.sqrt(2)
"""What each branch of a symmetrized network is multiplied by, rounded."""
