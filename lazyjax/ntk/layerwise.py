"""Kernels of some of the parameters: chosen by path, or layer by layer."""

from typing import get_args

import jax
from jaxtyping import Array

from lazyjax._checks import check_choice
from lazyjax.ntk.empirical import empirical_ntk
from lazyjax.ntk.methods.structured import build_problem, contract_by_leaf
from lazyjax.ntk.methods.tiles import in_tiles
from lazyjax.ntk.requests.compiled import KernelProgram, run_program
from lazyjax.ntk.requests.memory import Budget
from lazyjax.ntk.requests.request import KernelRequest
from lazyjax.trees import leaf_paths, path_names
from lazyjax.typing import ApplyFn, Inputs, Kernel, Method, Outputs, Params


def layerwise_ntk(
    apply_fn: ApplyFn,
    params: Params,
    x1: Inputs,
    x2: Inputs | None = None,
    *,
    outputs: Outputs = "full",
    method: Method = "auto",
    precision: jax.lax.PrecisionLike = "highest",
    memory: int | str | None = None,
    check_rows: bool = True,
) -> dict[str, Kernel]:
    """Kernel of each layer apart; their sum is `empirical_ntk`.

    A layer is all leaves whose paths differ in the last part only, such as
    `layer_1/kernel` and `layer_1/bias`; a leaf at the top is a layer of its own. Where
    names contain slashes and two paths read the same, they are written as
    `['layer/1']['kernel']` instead.

    Args:
        apply_fn: Network `(params, x) -> f`.
        params: Point at which the network is linearized.
        x1: First batch.
        x2: Second batch; `None` means `x1`.
        outputs: As in `empirical_ntk`.
        method: As in `empirical_ntk`; "auto" is "structured", which shares the work of
            all layers, where the others start anew for each.
        precision: As in `empirical_ntk`.
        memory: As in `empirical_ntk`.
        check_rows: As in `empirical_ntk`.

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
    layers = _layers(params)
    if method in ("auto", "structured"):
        program = _Layerwise(outputs=outputs, precision=precision, memory=memory)
        kernels = run_program(program, apply_fn, params, x1, x2, check_rows=check_rows)
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
            memory=memory,
            filter=frozenset(paths).__contains__,
            check_rows=check_rows,
        )
        for layer, paths in layers.items()
    }


class _Layerwise(KernelProgram):
    """Kernels of all layers from the same cotangents."""

    def compute(self, request: KernelRequest, budget: Budget) -> list[Array]:
        layers = list(_layers(request.params).values())
        number = {path: i for i, paths in enumerate(layers) for path in paths}
        kernel_of_leaf = [number[path] for path in leaf_paths(request.params)]
        return in_tiles(
            lambda request: contract_by_leaf(build_problem(request), kernel_of_leaf),
            request,
            method="structured",
            budget=budget,
            num_kernels=len(layers),
        )


def _layers(params: Params) -> dict[str, list[str]]:
    """Paths of the leaves of each layer, by the layer's own."""
    members: dict[tuple, list[str]] = {}
    keyed = jax.tree_util.tree_leaves_with_path(params)
    for (keys, _), path in zip(keyed, leaf_paths(params), strict=True):
        members.setdefault(keys[:-1] or keys, []).append(path)
    return dict(zip(path_names(list(members)), members.values(), strict=True))
