"""Recurrent networks."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lazyjax.activations import activation_fn
from lazyjax.architecture import Architecture
from lazyjax.architecture.kinds import complete
from lazyjax.nets._layers import dense, normalize
from lazyjax.nets.build import build
from lazyjax.nets.network import Network, builder, check_sequence
from lazyjax.nets.scales import Scale, recurrent_scale


def rnn(*, width: int, **options: Any) -> Network:
    r"""Recurrent network (Elman) of inputs (time, features), read at the last time.

    Args:
        width: Units of each hidden layer.
        **options: Fields of `lazyjax.Architecture`, where their formulas stand.

    Returns:
        The network. Its parameters are those of `lazyjax.nets.mlp`, and `{"recurrent_1":
        {"kernel": (width, width)}, ...}`.

    Raises:
        ValueError: If an option is out of range, not one of its choices, or without
            meaning for this kind.
        TypeError: If a count is not an integer, or an option unknown.

    Example:
        >>> import jax, jax.numpy as jnp, lazyjax
        >>> net = lazyjax.nets.rnn(width=16, activation="erf", b_std=0.1)
        >>> x = jnp.ones((5, 7, 3))
        >>> net.apply(net.init(jax.random.key(0), x), x).shape
        (5, 1)

    References:
        Elman (1990), Finding Structure in Time (not checked); Alemohammad, Wang,
        Balestriero and Baraniuk (2021), arXiv:2006.10246, for the kernel of its infinite
        width (not checked: derived here, and compared with wide networks).
    """
    return build(Architecture(kind="rnn", **options), width=width)


class _RNN(nn.Module):
    architecture: Architecture
    width: int

    @nn.compact
    def __call__(self, x: Float[Array, "n time d"]) -> Float[Array, "n k"]:
        spec = self.architecture
        phi = activation_fn(spec.activation)
        h = x
        for layer in range(1, spec.num_layers):

            def units(z: Array, factor: float = spec.activation_factor(layer)) -> Array:
                return factor * phi(normalize(spec, z))

            h = _Recurrence(
                weight=recurrent_scale(spec, layer, self.width),
                is_trained=spec.is_trained(layer),
                units_fn=units,
                name=f"recurrent_{layer}",
            )(dense(spec, layer, self.width, h))
        return dense(spec, spec.num_layers, self.width, h[:, -1])


class _Recurrence(nn.Module):
    """Units that read, beside their inputs, those of the time before; at first none."""

    weight: Scale
    is_trained: bool
    units_fn: Callable[[Array], Array]

    @nn.compact
    def __call__(self, z: Float[Array, "n time m"]) -> Float[Array, "n time m"]:
        num_units = z.shape[-1]
        init = nn.initializers.normal(self.weight.init_std)
        kernel = self.param("kernel", init, (num_units, num_units), z.dtype)
        if not self.is_trained:
            kernel = jax.lax.stop_gradient(kernel)

        def step(h: Array, z: Array) -> tuple[Array, Array]:
            h = self.units_fn(z + self.weight.multiplier * h @ kernel)
            return h, h

        _, h = jax.lax.scan(step, jnp.zeros_like(z[:, 0]), jnp.moveaxis(z, 1, 0))
        return jnp.moveaxis(h, 0, 1)


complete("rnn", build=builder(_RNN, check_sequence))
