"""Kernels of some of the parameters: chosen by path, or layer by layer."""

import dataclasses
import functools
from typing import Any, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from lazyjax._checks import check_choice
from lazyjax._static import as_static
from lazyjax.ntk._validate import (
    check_arguments,
    check_network,
    refuse_interaction,
    row_interaction,
)
from lazyjax.ntk.empirical import empirical_ntk
from lazyjax.ntk.structured import contracted_in_groups, task_of
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
    `layer_1/kernel` and `layer_1/bias`; a leaf at the top is a layer of its own.

    Args:
        apply_fn: Network `(params, x) -> f`.
        params: Point at which the network is linearized.
        x1: First batch.
        x2: Second batch; `None` means `x1`.
        outputs: As in `empirical_ntk`.
        method: As in `empirical_ntk`; "auto" is "structured", which shares the work of
            all layers, where the others start anew for each.
        precision: As in `empirical_ntk`.

    Returns:
        Kernels by the layer's path, in the order of the leaves. Layers that `apply_fn`
        does not use have the kernel 0.

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
    check_choice("method", method, get_args(Method))
    layers = tuple(dict.fromkeys(_layer(path) for path in leaf_paths(params)))
    if method in ("auto", "structured"):
        check_arguments(apply_fn, params, x1, x2)
        x2 = None if x2 is None else jnp.asarray(x2)
        with jax.default_matmul_precision(precision):
            kernels, interaction = _by_layer(
                params,
                jnp.asarray(x1),
                x2,
                apply_fn=as_static(apply_fn),
                outputs=outputs,
                precision=precision,
            )
        refuse_interaction(interaction, kernels[0].dtype)
        return dict(zip(layers, kernels, strict=True))
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


@functools.partial(jax.jit, static_argnames=("apply_fn", "outputs", "precision"))
def _by_layer(
    params: Params,
    x1: Array,
    x2: Array | None,
    *,
    apply_fn: ApplyFn,
    outputs: Outputs,
    precision: Any,
) -> tuple[list[Array], Array]:
    """Kernels of all layers from the same cotangents, and how much rows interact."""
    # As a program of its own, the network is traced once for each size of batch.
    apply_fn = jax.jit(apply_fn)
    check_network(apply_fn, params, x1, outputs)
    names = [_layer(path) for path in leaf_paths(params)]
    layers = list(dict.fromkeys(names))
    kernels = contracted_in_groups(
        task_of(apply_fn, params, x1, x2, outputs),
        params,
        x1,
        x2,
        groups=[layers.index(name) for name in names],
        outputs=outputs,
        precision=precision,
    )
    return kernels, row_interaction(apply_fn, params, x1, x2)


def _layer(path: str) -> str:
    return path.rpartition("/")[0] or path


@dataclasses.dataclass(frozen=True)
class _InLayer:
    layer: str

    def __call__(self, path: str) -> bool:
        return _layer(path) == self.layer
