"""Fully connected networks."""

import flax.linen as nn
from jaxtyping import Array, Float

from lazyjax.activations.functions import activation_fn
from lazyjax.architecture import Architecture
from lazyjax.nets._layers import check_num_features, dense, network_of, normalized
from lazyjax.nets.network import Network
from lazyjax.typing import (
    Activation,
    ActivationScale,
    InputScaling,
    Normalization,
    Parameterization,
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
    trained: Trained | tuple[int, ...] = "all",
    input_scaling: InputScaling = "fan_in",
    readout: Readout = "normal",
    symmetrized: bool = False,
    activation_scale: ActivationScale = "none",
    output_scale: float = 1.0,
    normalization: Normalization = "none",
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
        trained: Layers that are trained, "all" or some.
        input_scaling: Whether the first layer is divided by $\sqrt d$ ("fan_in") or
            not ("none").
        readout: Last layer's weights, "normal" or random "sign".
        symmetrized: Whether to start from zero output by doubling the network.
        activation_scale: "unit" scales activations to a second moment of 1.
        output_scale: What the output is multiplied by.
        normalization: "layer" normalizes pre-activations of hidden layers over units.

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
        symmetrized=symmetrized,
        activation_scale=activation_scale,
        output_scale=output_scale,
        normalization=normalization,
    )
    return network_of(
        _MLP(architecture, width), architecture, width, check_num_features
    )


class _MLP(nn.Module):
    architecture: Architecture
    width: int

    @nn.compact
    def __call__(self, x: Float[Array, "n *d"]) -> Float[Array, "n k"]:
        spec = self.architecture
        phi = activation_fn(spec.activation)
        h = x.reshape(x.shape[0], -1)
        for layer in range(1, spec.num_layers):
            z = normalized(spec, dense(spec, layer, self.width, h))
            h = spec.activation_factor(layer) * phi(z)
        return dense(spec, spec.num_layers, self.width, h)
