"""Kernels of some of the parameters: chosen by path, or layer by layer."""

import dataclasses

import jax
from jaxtyping import Array, Float, Shaped

from lazyjax.ntk.empirical import empirical_ntk
from lazyjax.trees import leaf_paths
from lazyjax.typing import AnyArray, ApplyFn, Method, Outputs, Params


def layerwise_ntk(
    apply_fn: ApplyFn,
    params: Params,
    x1: Shaped[AnyArray, "n1 *d"],
    x2: Shaped[AnyArray, "n2 *d"] | None = None,
    *,
    outputs: Outputs = "full",
    method: Method = "auto",
    precision: jax.lax.PrecisionLike = "highest",
) -> dict[str, Float[Array, "n1 n2 *k"]]:
    """Kernel of each layer apart; their sum is `empirical_ntk`.

    A layer is all leaves whose paths differ in the last part only, such as
    `layer_1/kernel` and `layer_1/bias`.

    Args:
        apply_fn: Network `(params, x) -> f`.
        params: Point at which the network is linearized.
        x1: First batch.
        x2: Second batch; `None` means `x1`.
        outputs: As in `empirical_ntk`.
        method: As in `empirical_ntk`.
        precision: As in `empirical_ntk`.

    Returns:
        Kernels by the layer's path, in the order of the leaves; "" for leaves at the
        top. Layers that `apply_fn` does not use have the kernel 0.

    Raises:
        ValueError: As `empirical_ntk`.
        TypeError: As `empirical_ntk`.

    Example:
        >>> import jax, jax.numpy as jnp, lazyjax
        >>> net = lazyjax.nets.mlp(width=8, b_std=1.0)
        >>> x = jnp.ones((2, 3))
        >>> params = net.init(jax.random.key(0), x)
        >>> list(lazyjax.layerwise_ntk(net.apply, params, x))
        ['layer_1', 'layer_2']
    """
    layers = dict.fromkeys(_layer(path) for path in leaf_paths(params))
    return {
        layer: empirical_ntk(
            apply_fn,
            params,
            x1,
            x2,
            outputs=outputs,
            method=method,
            precision=precision,
            filter=_InLayer(layer),
        )
        for layer in layers
    }


def _layer(path: str) -> str:
    return path.rpartition("/")[0]


@dataclasses.dataclass(frozen=True)
class _InLayer:
    layer: str

    def __call__(self, path: str) -> bool:
        return _layer(path) == self.layer
