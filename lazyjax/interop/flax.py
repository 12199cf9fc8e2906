"""Flax models, Linen and NNX, as `(apply_fn, params)`."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.core
import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from lazyjax._brief import brief
from lazyjax._checks import check_params
from lazyjax.interop._adapted import Adapted, freeze
from lazyjax.typing import ApplyFn, Params


def from_linen(
    module: nn.Module,
    variables: Mapping[str, Any],
    *,
    method: Callable[..., Any] | str | None = None,
    rngs: Mapping[str, Array] | None = None,
    batched: bool = True,
    **kwargs: Any,
) -> tuple[ApplyFn, Params]:
    """Apply function and parameters of a Flax Linen module.

    The parameters are the floating-point arrays of the collection "params". All else is
    frozen as it is now: integer leaves, the other collections (such as "batch_stats"),
    and the arguments of the call. Linen chooses training or inference by an argument
    of the module's own, so choose inference here: `train=False`, `deterministic=True`
    or `use_running_average=True`, as the module calls it.

    Args:
        module: The module.
        variables: Its variables, as `module.init` returns them.
        method: The method to call, or its name; `None` means `__call__`.
        rngs: Keys of random streams such as "dropout", for the kernel of one draw of
            the randomness: each example then goes through the module by itself, with
            the same keys, and so meets the same masks.
        batched: Whether the module takes a batch `(n, *d)`, or one example `(*d)`.
        **kwargs: More arguments of the call.

    Returns:
        `apply_fn(params, x)`, and the parameters as a nested dict. Where the module
        gives one number per example, `apply_fn` returns `(n, 1)`. Adapting again with
        equal arguments gives an equal function, for which nothing is compiled anew.

    Raises:
        TypeError: If `module` is not a Linen module, `variables` or `rngs` not a
            mapping, a parameter is complex, or `mutable` or `capture_intermediates` is
            among the arguments of the call.
        ValueError: If `variables` has no collection "params" or no floating-point
            array in it; and, when called, `apply_fn` if the module is in training
            mode: if it updates a collection or asks for a random stream not given.

    Example:
        >>> import flax.linen as nn, jax, jax.numpy as jnp, lazyjax
        >>> from lazyjax.interop.flax import from_linen
        >>> module = nn.Sequential([nn.Dense(8), nn.tanh, nn.Dense(2)])
        >>> x = jnp.ones((3, 4))
        >>> apply_fn, params = from_linen(module, module.init(jax.random.key(0), x))
        >>> lazyjax.empirical_ntk(apply_fn, params, x).shape
        (3, 3, 2, 2)
    """
    if not isinstance(module, nn.Module):
        hint = " Use `from_nnx` for it." if isinstance(module, nnx.Module) else ""
        raise TypeError(
            f"`module` must be a `flax.linen.Module`; got {_described(module)}.{hint}"
        )
    if not isinstance(variables, Mapping):
        raise TypeError(
            "`variables` must be a mapping from collections to their variables, as "
            f"`module.init` returns it; got {type(variables).__name__}."
        )
    if "params" not in variables:
        raise ValueError(
            '`variables` must hold the collection "params"; got '
            f"{', '.join(map(repr, variables)) or 'nothing'}. Parameters alone are "
            '`{"params": params}`.'
        )
    if rngs is not None and not isinstance(rngs, Mapping):
        raise TypeError(
            '`rngs` must be a mapping from random streams to keys, such as {"dropout": '
            f"key}}; got {type(rngs).__name__}."
        )
    for option in ("mutable", "capture_intermediates"):
        if option in kwargs:
            raise TypeError(
                f"`{option}` must not be given: every collection but the parameters is "
                "frozen, and only the module's output returned."
            )
    collections = nn.meta.unbox(flax.core.unfreeze(dict(variables)))
    params, rest = _partition(collections.pop("params"))
    check_params('variables["params"]', params)
    frozen = freeze(
        {
            "module": module,
            "method": method,
            "params": rest,
            "collections": collections,
            "rngs": None if rngs is None else dict(rngs),
            "kwargs": kwargs,
        }
    )
    alone = bool(rngs) and batched
    call = _call_linen_alone if alone else _call_linen
    return Adapted(call, frozen, batched and not alone), params


def from_nnx(
    model: nnx.Module,
    *,
    wrt: nnx.filterlib.Filter = nnx.Param,
    method: Callable[..., Any] | str | None = None,
    batched: bool = True,
    **kwargs: Any,
) -> tuple[ApplyFn, Params]:
    """Apply function and parameters of a Flax NNX model, in inference mode.

    What is adapted is a copy on which `eval()` was called: batch normalization uses its
    running statistics and dropout does nothing, whatever the mode of `model`, which is
    left as it is. The parameters are the floating-point arrays among the variables that
    `wrt` selects. All else is frozen as it is now: other variables, integer leaves,
    random streams (every call draws the same numbers), and the arguments of the call.
    After training `model` further, adapt it again.

    Args:
        model: The model.
        wrt: Which variables are parameters, as in `nnx.grad`: `nnx.LoRAParam` for
            the kernel of low-rank updates alone.
        method: The method to call, or its name; `None` means `__call__`.
        batched: Whether the model takes a batch `(n, *d)`, or one example `(*d)`.
        **kwargs: More arguments of the call. Layers that are told their mode by an
            argument need it here: `train=False`.

    Returns:
        `apply_fn(params, x)`, and the parameters as a nested dict of arrays, with
        paths such as `layers/0/kernel`. Where the model gives one number per example,
        `apply_fn` returns `(n, 1)`. Adapting again while nothing but parameters has
        changed gives an equal function, for which nothing is compiled anew.

    Raises:
        TypeError: If `model` is not an NNX module, or a parameter is complex.
        ValueError: If `wrt` selects no floating-point array.

    Example:
        >>> import jax.numpy as jnp, lazyjax
        >>> from flax import nnx
        >>> from lazyjax.interop.flax import from_nnx
        >>> rngs = nnx.Rngs(0)
        >>> model = nnx.Sequential(
        ...     nnx.Linear(4, 8, rngs=rngs), nnx.BatchNorm(8, rngs=rngs), nnx.tanh
        ... )
        >>> apply_fn, params = from_nnx(model)
        >>> list(lazyjax.layerwise_ntk(apply_fn, params, jnp.ones((3, 4))))
        ['layers/0', 'layers/1']
    """
    if not isinstance(model, nnx.Module):
        hint = " Use `from_linen` for it." if isinstance(model, nn.Module) else ""
        raise TypeError(
            f"`model` must be a `flax.nnx.Module`; got {_described(model)}.{hint}"
        )
    model = nnx.clone(model)
    model.eval()
    graphdef, selected, others = nnx.split(model, wrt, ...)
    params, rest = _partition(nnx.to_pure_dict(selected))
    if not jax.tree.leaves(params):
        raise ValueError(
            "`wrt` must select at least one floating-point variable of `model`; "
            f"{brief(wrt)} selects none."
        )
    check_params("model", params)
    frozen = freeze(
        {
            "graphdef": graphdef,
            "method": method,
            "params": rest,
            "state": nnx.to_pure_dict(others),
            "kwargs": kwargs,
        }
    )
    return Adapted(_call_nnx, frozen, batched), params


def _call_linen(frozen: dict[str, Any], params: Params, x: Array) -> Any:
    params = _combine(params, frozen["params"])
    try:
        return frozen["module"].apply(
            {"params": params, **frozen["collections"]},
            x,
            rngs=frozen["rngs"],
            method=frozen["method"],
            **frozen["kwargs"],
        )
    except flax.errors.ModifyScopeVariableError as error:
        what = "updates a collection"
        raise _training_mode(what, error) from error
    except flax.errors.InvalidRngError as error:
        what = "asks for a random stream"
        hint = ', or `rngs={"dropout": key}` for one draw of the randomness'
        raise _training_mode(what, error, hint) from error


def _call_linen_alone(frozen: dict[str, Any], params: Params, row: Array) -> Any:
    return jax.tree.map(lambda f: f[0], _call_linen(frozen, params, row[None]))


def _training_mode(what: str, error: Exception, hint: str = "") -> ValueError:
    return ValueError(
        f"`module` {what} when called: it is in training mode. Pass `from_linen` the "
        "argument by which the module chooses inference, such as `train=False`, "
        f"`deterministic=True` or `use_running_average=True`{hint}. Flax says: {error}"
    )


def _call_nnx(frozen: dict[str, Any], params: Params, x: Array) -> Any:
    params = _combine(params, frozen["params"])
    state = (nnx.State(params), nnx.State(frozen["state"]))
    model = nnx.merge(frozen["graphdef"], *state)
    method = frozen["method"]
    if method is None:
        return model(x, **frozen["kwargs"])
    if isinstance(method, str):
        return getattr(model, method)(x, **frozen["kwargs"])
    return method(model, x, **frozen["kwargs"])


def _partition(tree: Any) -> tuple[Any, Any]:
    """The tree with `None` for all but floating-point leaves, and with them only."""
    # A parameter may have been given as a Python number.
    is_number = lambda leaf: isinstance(leaf, float | complex)
    tree = jax.tree.map(lambda a: jnp.asarray(a) if is_number(a) else a, tree)
    is_trained = lambda a: jnp.issubdtype(getattr(a, "dtype", bool), jnp.inexact)
    params = jax.tree.map(lambda a: a if is_trained(a) else None, tree)
    return params, jax.tree.map(lambda a: None if is_trained(a) else a, tree)


def _combine(params: Any, rest: Any) -> Any:
    """The tree that `_partition` took apart."""
    is_none = lambda node: node is None
    pick = lambda a, b: b if a is None else a
    return jax.tree.map(pick, params, rest, is_leaf=is_none)


def _described(value: object) -> str:
    is_class = isinstance(value, type)
    return f"the class {value.__name__}" if is_class else type(value).__name__
