"""Equinox models as `(apply_fn, params)`."""

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array

try:
    import equinox as eqx
except ImportError as error:
    raise ImportError(
        "`lazyjax.interop.equinox` needs Equinox: pip install equinox."
    ) from error

from lazyjax._checks import check_params
from lazyjax.interop._adapted import Adapted, freeze
from lazyjax.typing import ApplyFn, Params


def from_equinox(
    model: eqx.Module,
    state: eqx.nn.State | None = None,
    *,
    filter_spec: Any = eqx.is_inexact_array,
    method: Callable[..., Any] | str | None = None,
    batched: bool = False,
    **kwargs: Any,
) -> tuple[ApplyFn, Params]:
    """Apply function and parameters of an Equinox model, in inference mode.

    What is adapted is `eqx.nn.inference_mode(model)`: batch normalization uses its
    running statistics and dropout does nothing, whatever the mode of `model`, which is
    left as it is. The parameters are the leaves that `filter_spec` selects; all else is
    frozen as it is now, `state` and the arguments of the call included. After training
    `model` further, adapt it again.

    Args:
        model: The model, of one example, as is the custom in Equinox.
        state: State of its stateful layers, from `eqx.nn.make_with_state`; the model
            then takes it as second argument and returns `(f, state)`.
        filter_spec: Which leaves are parameters, as in `eqx.partition`.
        method: The method to call, or its name; `None` means `__call__`.
        batched: Whether the model takes a batch `(n, *d)` instead.
        **kwargs: More arguments of the call, such as `key=None`.

    Returns:
        `apply_fn(params, x)` on batches, and the parameters as `model` with `None` for
        what is frozen, with paths such as `layers/0/weight`. Where the model gives one
        number per example, `apply_fn` returns `(n, 1)`. Adapting again while nothing
        but parameters has changed gives an equal function, for which nothing is
        compiled anew.

    Raises:
        TypeError: If `model` is not an Equinox module, or a parameter is complex or not
            an array; and, when called, `apply_fn` if there is a `state` and the model
            does not return a pair.
        ValueError: If `model` has stateful layers and `state` is not given, or
            `filter_spec` selects nothing.

    Example:
        >>> import equinox as eqx, jax, jax.numpy as jnp, lazyjax
        >>> from lazyjax.interop.equinox import from_equinox
        >>> model = eqx.nn.MLP(4, "scalar", 8, depth=1, key=jax.random.key(0))
        >>> apply_fn, params = from_equinox(model)
        >>> x = jnp.ones((3, 4))
        >>> lazyjax.empirical_ntk(apply_fn, params, x).shape
        (3, 3, 1, 1)
        >>> list(lazyjax.layerwise_ntk(apply_fn, params, x))
        ['layers/0', 'layers/1']
    """
    if not isinstance(model, eqx.Module):
        hint = ""
        if isinstance(model, tuple):
            hint = " Pass a model and its state as two arguments."
        raise TypeError(
            "`model` must be an Equinox module; got an object of type "
            f"{type(model).__name__}.{hint}"
        )
    if state is None and _is_stateful(model):
        raise ValueError(
            "`state` must be given: `model` has layers with a state, such as batch "
            "normalization. Make both with `eqx.nn.make_with_state`."
        )
    model = eqx.nn.inference_mode(model)
    params, rest = eqx.partition(model, filter_spec)
    if not jax.tree.leaves(params):
        raise ValueError("`filter_spec` must select at least one array; got none.")
    check_params("model", params)
    frozen = freeze({"model": rest, "method": method, "state": state, "kwargs": kwargs})
    return Adapted(_call, frozen, batched), params


def _call(frozen: dict[str, Any], params: Params, x: Array) -> Any:
    model = eqx.combine(params, frozen["model"])
    method = frozen["method"]
    if isinstance(method, str):
        call = getattr(model, method)
    else:
        call = model if method is None else lambda *a, **k: method(model, *a, **k)
    if frozen["state"] is None:
        return call(x, **frozen["kwargs"])
    # A state is spent by the first update: each call gets one of its own.
    state = jax.tree.map(lambda leaf: leaf, frozen["state"])
    result = call(x, state, **frozen["kwargs"])
    if not isinstance(result, tuple) or len(result) != 2:
        raise TypeError(
            "`model` must return the pair `(f, state)` if `state` is given; got "
            f"{type(result).__name__}."
        )
    return result[0]


def _is_stateful(model: eqx.Module) -> bool:
    is_index = lambda node: isinstance(node, eqx.nn.StateIndex)
    return any(map(is_index, jax.tree.leaves(model, is_leaf=is_index)))
