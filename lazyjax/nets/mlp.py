"""Fully connected networks."""

import dataclasses
import math
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from lazyjax._checks import check_at_least
from lazyjax.activations import activation_fn
from lazyjax.architecture import Architecture
from lazyjax.nets.network import Apply, Init, Network, symmetrize
from lazyjax.typing import (
    Activation,
    InputScaling,
    Parameterization,
    Params,
    Readout,
    Trained,
)


def mlp(
    *,
    width: int,
    depth: int = 1,
    activation: Activation = "relu",
    w_std: float = 1.0,
    b_std: float = 0.0,
    parameterization: Parameterization = "ntk",
    num_outputs: int = 1,
    trained: Trained = "all",
    input_scaling: InputScaling = "fan_in",
    readout: Readout = "normal",
    symmetrized: bool = False,
) -> Network:
    r"""Fully connected network with `depth` hidden layers of `width` units.

    Inputs with several feature axes are flattened. The options are those of
    `lazyjax.Architecture`, where their formulas stand.

    Args:
        width: Units in each hidden layer.
        depth: Number of hidden layers; 0 is a linear model, whatever the width.
        activation: Name of an activation, or an elementwise function of one array.
        w_std: Standard deviation of weights, before division by $\sqrt{\text{fan-in}}$.
        b_std: Standard deviation of biases; 0 means none.
        parameterization: "ntk", "standard" or "mup".
        num_outputs: Number of outputs $k$.
        trained: "all" layers, or only the "first" or the "last".
        input_scaling: Whether the first layer is divided by $\sqrt d$ ("fan_in") or
            not ("none").
        readout: Last layer's weights, "normal" or random "sign".
        symmetrized: Whether to start from zero output by doubling the network.

    Returns:
        The network. Its parameters are `{"layer_1": {"kernel": (d, width), "bias":
        (width,)}, ...}`, without `bias` if `b_std` is 0.

    Raises:
        ValueError: If an option is out of range or not one of its choices.
        TypeError: If a count is not an integer.

    Example:
        >>> import jax, jax.numpy as jnp, lazyjax
        >>> net = lazyjax.nets.mlp(width=32, depth=2, activation="tanh")
        >>> x = jnp.ones((5, 3))
        >>> params = net.init(jax.random.key(0), x)
        >>> net.apply(params, x).shape
        (5, 1)

    References:
        Jacot, Gabriel and Hongler (2018), arXiv:1806.07572; Yang and Hu (2021),
        arXiv:2011.14522 (equation numbers not checked).
    """
    architecture = Architecture(
        kind="mlp",
        depth=depth,
        activation=activation,
        w_std=w_std,
        b_std=b_std,
        parameterization=parameterization,
        num_outputs=num_outputs,
        trained=trained,
        input_scaling=input_scaling,
        readout=readout,
        symmetrized=False,
    )
    check_at_least("width", width, 1)
    module = _MLP(architecture=architecture, width=width)
    network = Network(
        init=Init(_ModuleInit(module)),
        apply=Apply(_ModuleApply(module), _num_features),
        architecture=architecture,
        width=width,
    )
    return symmetrize(network) if symmetrized else network


class _Scale(NamedTuple):
    """How an array of parameters enters: `multiplier * (init_std * randomness)`."""

    multiplier: float
    init_std: float


def _weight_scale(
    architecture: Architecture, layer: int, fan_in: int, width: int
) -> _Scale:
    """Scale of weight layer `layer`, counted from 1; W = multiplier * w."""
    if layer == 1 and architecture.input_scaling == "none":
        fan_in = 1
    std = architecture.w_std / math.sqrt(fan_in)
    if architecture.parameterization == "standard":
        return _Scale(1.0, std)
    if architecture.parameterization == "ntk" or architecture.depth == 0:
        return _Scale(std, 1.0)
    # mup: Yang and Hu's (a, b) are (-1/2, 1/2), (0, 1/2), (1/2, 1/2) by layer.
    root = math.sqrt(width)
    if layer == 1:
        return _Scale(std * root, 1 / root)
    if layer == architecture.num_layers:
        return _Scale(std, 1 / root)
    return _Scale(std * root, 1 / root)


def _bias_scale(architecture: Architecture, layer: int, width: int) -> _Scale:
    """Scale of the biases of layer `layer`; they act like weights of a constant input."""
    std = architecture.b_std
    if architecture.parameterization == "standard":
        return _Scale(1.0, std)
    if architecture.parameterization == "mup" and layer < architecture.num_layers:
        return _Scale(std * math.sqrt(width), 1 / math.sqrt(width))
    return _Scale(std, 1.0)


class _Dense(nn.Module):
    features: int
    weight: _Scale
    bias: _Scale | None
    readout: Readout
    is_trained: bool

    @nn.compact
    def __call__(self, h: Float[Array, "n fan_in"]) -> Float[Array, "n features"]:
        def weight_init(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
            sample = (
                jax.random.rademacher if self.readout == "sign" else jax.random.normal
            )
            return self.weight.init_std * sample(key, shape, dtype)

        def parameter(name: str, init: Any, shape: tuple[int, ...]) -> Array:
            value = self.param(name, init, shape, h.dtype)
            return value if self.is_trained else jax.lax.stop_gradient(value)

        kernel = parameter("kernel", weight_init, (h.shape[-1], self.features))
        z = self.weight.multiplier * (h @ kernel)
        if self.bias is None:
            return z
        bias_init = nn.initializers.normal(self.bias.init_std)
        bias = parameter("bias", bias_init, (self.features,))
        return z + self.bias.multiplier * bias[None, :]


class _MLP(nn.Module):
    architecture: Architecture
    width: int

    @nn.compact
    def __call__(self, x: Float[Array, "n *d"]) -> Float[Array, "n k"]:
        spec = self.architecture
        phi = activation_fn(spec.activation)
        h = x.reshape(x.shape[0], -1)
        for layer in range(1, spec.num_layers + 1):
            is_last = layer == spec.num_layers
            h = _Dense(
                features=spec.num_outputs if is_last else self.width,
                weight=_weight_scale(spec, layer, h.shape[-1], self.width),
                bias=_bias_scale(spec, layer, self.width) if spec.b_std > 0 else None,
                readout=spec.readout if is_last else "normal",
                is_trained=spec.is_trained(layer),
                name=f"layer_{layer}",
            )(h)
            if not is_last:
                h = phi(h)
        return h


@dataclasses.dataclass(frozen=True)
class _ModuleInit:
    module: nn.Module

    def __call__(self, key: Array, x: Array) -> Params:
        return self.module.init(key, x)["params"]


@dataclasses.dataclass(frozen=True)
class _ModuleApply:
    module: nn.Module

    def __call__(self, params: Params, x: Array) -> Array:
        return cast(Array, self.module.apply({"params": params}, x))


def _num_features(params: Params) -> int:
    return params["layer_1"]["kernel"].shape[0]
