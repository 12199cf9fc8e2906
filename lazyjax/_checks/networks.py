"""Networks: functions, their parameters and their outputs."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lazyjax._brief import brief
from lazyjax._checks.arrays import check_not_explicit
from lazyjax._checks.inputs import one_example_hint
from lazyjax._models import model_hint
from lazyjax.batches import num_rows
from lazyjax.typing import Params


def check_function(name: str, fn: object, form: str, hint: str = "") -> None:
    """Check that `fn` can be called, and is no model but a function of two arguments.

    Args:
        name: The argument's.
        fn: The function.
        form: Its arguments and result, such as `(f, y) -> scalar`.
        hint: What else may be wrong if it cannot be called.

    Raises:
        TypeError: If it cannot, or is a model of another library.
    """
    of_model = model_hint(fn)
    if callable(fn) and not (of_model and _num_required(fn) != 2):
        return
    raise TypeError(
        f"`{name}` must be callable, a function `{form}`; got {brief(fn)}."
        f"{of_model or hint}"
    )


def check_apply_fn(apply_fn: object, params: object) -> None:
    """Check that `apply_fn` is a function of `(params, x)`, not a model."""
    hint = " Are `apply_fn` and `params` swapped?" if callable(params) else ""
    check_function("apply_fn", apply_fn, "(params, x) -> f", hint)


def _num_required(fn: Callable) -> int:
    """Number of positional arguments without a default."""
    try:
        arguments = inspect.signature(fn).parameters.values()
    except (TypeError, ValueError):
        return 0
    return sum(
        a.kind in (a.POSITIONAL_ONLY, a.POSITIONAL_OR_KEYWORD) and a.default is a.empty
        for a in arguments
    )


def check_params(
    name: str,
    params: Params,
    *,
    allow_complex: bool = False,
    allow_explicit: bool = False,
) -> None:
    """Check that every leaf of `params` is a floating-point array.

    Args:
        name: The argument's.
        params: The parameters.
        allow_complex: Whether arrays may be complex.
        allow_explicit: Whether arrays may be split over explicit axes of a mesh.

    Raises:
        TypeError: If a leaf is no such array.
        ValueError: If there is none, or one is split over explicit axes.
    """
    kind, expected = jnp.floating, "a real floating-point array"
    if allow_complex:
        kind, expected = jnp.inexact, "a floating-point or complex array"
    leaves = jax.tree_util.tree_leaves_with_path(params)
    if not leaves:
        raise ValueError(f"`{name}` must hold at least one array; got {brief(params)}.")
    for path, leaf in leaves:
        dtype: Any = getattr(leaf, "dtype", None)
        where = f"{name}{jax.tree_util.keystr(path)}"
        where = where if len(where) < 120 else f"{where[:117]}..."
        if dtype is None or not jnp.issubdtype(dtype, kind):
            came = f"a {type(leaf).__name__}" if dtype is None else f"dtype {dtype}"
            raise TypeError(
                f"`{where}` must be {expected}; got {came}."
                f"{_leaf_hint(name, params, leaf, dtype)}"
            )
        if not allow_explicit:
            check_not_explicit(where, leaf)


def _leaf_hint(name: str, params: Params, leaf: object, dtype: Any) -> str:
    if dtype is not None and jnp.issubdtype(dtype, jnp.complexfloating):
        return (
            " Split complex parameters into real and imaginary parts, and put them "
            "together inside `apply_fn`: "
            "`jax.lax.complex(params['real'], params['imag'])`."
        )
    if name == "params" and (hint := model_hint(params)):
        return hint
    if isinstance(leaf, float | int):
        return " Make it an array, with `jnp.asarray`."
    return " Close over what is not trained instead of passing it."


def check_like(name: str, params: Params, other_name: str, other: Params) -> None:
    """Check that `params` has the structure of `other`, and leaves of its shapes."""
    if jax.tree.structure(params) != jax.tree.structure(other):
        raise ValueError(
            f"`{name}` must have the structure of {other_name}, {brief(other)}; "
            f"got {brief(params)}."
        )
    leaves = jax.tree_util.tree_leaves_with_path(params)
    for (path, leaf), expected in zip(leaves, jax.tree.leaves(other), strict=True):
        if jnp.shape(leaf) != jnp.shape(expected):
            raise ValueError(
                f"`{name}{jax.tree_util.keystr(path)}` must have shape "
                f"{jnp.shape(expected)}, that of {other_name}; got {jnp.shape(leaf)}."
            )


def check_network_output(f: object, x: Any) -> None:
    """Check that `f`, from `jax.eval_shape`, is one real array `(n, k)` for a batch."""
    if not isinstance(f, jax.ShapeDtypeStruct):
        raise TypeError(
            "`apply_fn` must return one array of shape (n, k); got a "
            f"{type(f).__name__}. Concatenate several outputs along the last axis."
        )
    n = num_rows(x)
    if f.ndim != 2 or f.shape[0] != n or f.shape[1] == 0:
        hint = one_example_hint(x)
        if f.shape == (n,):
            hint = " Add an axis: `f[:, None]`."
        elif not hint and f.ndim > 2 and f.shape[0] == n:
            hint = (
                " Flatten outputs of several positions or tokens, "
                "`f.reshape(f.shape[0], -1)`; or choose one, `f[:, -1]`, or their "
                "mean, `f.mean(axis=1)`."
            )
        raise ValueError(
            f"`apply_fn` must return shape (n, k) with n = {n} and k >= 1; got "
            f"{f.shape}.{hint}"
        )
    if not jnp.issubdtype(f.dtype, jnp.floating):
        raise TypeError(
            f"`apply_fn` must return real floating-point outputs; got dtype {f.dtype}."
            " Stack real and imaginary parts of complex outputs."
        )
