"""Checks of what users pass: errors name the argument, what was expected and what came.

The wrong kind of thing is a `TypeError`, the wrong shape or value a `ValueError`.
"""

import difflib
import re
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np

from lazyjax.typing import AnyArray, Params


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Check that `value` is one of `choices`."""
    choices = tuple(choices)
    if isinstance(value, str) and value in choices:
        return
    near = difflib.get_close_matches(str(value).lower(), choices, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(
        f"`{name}` must be one of {', '.join(map(repr, choices))}; got {value!r}.{hint}"
    )


def check_at_least(name: str, value: object, minimum: int) -> None:
    """Check that `value` is a Python integer no smaller than `minimum`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"`{name}` must be an integer; got {value!r}.")
    if value < minimum:
        raise ValueError(f"`{name}` must be at least {minimum}; got {value}.")


def checked_bytes(name: str, value: object) -> int:
    """Number of bytes that `value` states, an integer or a text such as "4GiB"."""
    if isinstance(value, str):
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]i?)?B\s*", value)
        if found is None:
            raise ValueError(
                f"`{name}` must be a number with a unit, such as '4GiB', '500MB' or "
                f"'64KiB'; got {value!r}."
            )
        prefix = found[2] or ""
        base = 1024 if prefix.endswith("i") else 1000
        value = int(float(found[1]) * base ** " KMGT".index(prefix[:1] or " "))
    check_at_least(name, value, 1)
    assert isinstance(value, int)
    return value


def check_nonnegative(
    name: str, value: object, *, infinity_allowed: bool = True
) -> None:
    """Check that every number in `value` is zero or positive, where values are known."""
    try:
        values = np.asarray(value)
    except jax.errors.TracerArrayConversionError:
        return
    if values.dtype.kind in "OSU":
        raise TypeError(f"`{name}` must be a number; got {value!r}.")
    if not np.all((values >= 0) & (infinity_allowed | np.isfinite(values))):
        expected = (
            "zero or positive" if infinity_allowed else "finite, zero or positive"
        )
        raise ValueError(f"`{name}` must be {expected}; got {value}.")


def check_positive(name: str, value: object) -> None:
    """Check that a number is positive and finite, where its value is known."""
    try:
        number = np.asarray(value)
    except jax.errors.TracerArrayConversionError:
        return
    if not np.all((number > 0) & np.isfinite(number)):
        raise ValueError(f"`{name}` must be positive and finite; got {value}.")


def check_array(name: str, array: object) -> None:
    """Check that `array` is an array."""
    if not isinstance(array, jax.Array | np.ndarray):
        raise TypeError(
            f"`{name}` must be an array; got {type(array).__name__}. Convert it first "
            f"with `jnp.asarray({name})`."
        )


def check_floating(name: str, array: AnyArray) -> None:
    """Check that `array` is an array of real floating-point numbers."""
    check_array(name, array)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(
            f"`{name}` must be a real floating-point array; got dtype {array.dtype}. "
            f"Convert it first, for example with `{name}.astype(jnp.float32)`."
        )


def check_finite(name: str, array: AnyArray, *, wait: bool = True) -> None:
    """Check that `array` has no NaN or infinity, where its values are known.

    Values are not known under `jax.jit` and the like: there, NaN in gives NaN out.

    Args:
        name: The argument's.
        array: The array.
        wait: Whether to wait for the device. If not, arrays that are still being
            computed are not looked at, and others are read on the host, where the check
            does not queue up behind other work.

    Raises:
        ValueError: If a value is not finite.
    """
    try:
        if wait and not isinstance(array, np.ndarray):
            num_bad = int(jnp.sum(~jnp.isfinite(array)))
        else:
            # JAX may read NumPy's arrays in lower precision, where they overflow.
            num_bad = sum(map(_num_not_finite, _parts_on_host(array)))
    except jax.errors.ConcretizationTypeError:
        return
    if num_bad:
        raise ValueError(
            f"`{name}` must be finite; {num_bad} of its {array.size} values "
            f"{'is' if num_bad == 1 else 'are'} NaN or infinite."
        )


def _parts_on_host(array: AnyArray) -> list[np.ndarray]:
    """Pieces of an array that can be read without waiting; none if it is not there."""
    if isinstance(array, np.ndarray):
        return [array]
    is_ready = getattr(array, "is_ready", None)  # tracers have no such method
    if is_ready is None or not (array.is_fully_addressable and is_ready()):
        return []
    shards = [shard for shard in array.addressable_shards if shard.replica_id == 0]
    return [np.asarray(shard.data) for shard in shards]


def _num_not_finite(array: np.ndarray) -> int:
    with np.errstate(over="ignore", invalid="ignore"):
        is_finite = np.isfinite(np.sum(array))  # one quick pass; it may overflow
    return 0 if is_finite else int(np.sum(~np.isfinite(array)))


def check_not_explicit(name: str, array: object) -> None:
    """Check that `array` is not split over mesh axes whose shardings are types."""
    if not isinstance(array, jax.Array):
        return
    sharding = jax.typeof(array).sharding
    kinds = dict(zip(sharding.mesh.axis_names, sharding.mesh.axis_types, strict=True))
    split = [
        axis
        for entry in sharding.spec
        for axis in (entry if isinstance(entry, tuple) else (entry,))
        if kinds.get(axis) == jax.sharding.AxisType.Explicit
    ]
    if split:
        raise ValueError(
            f"`{name}` must not be split over explicit mesh axes; it is over "
            f"{', '.join(map(repr, split))}. Make the mesh's axes automatic, with "
            "`jax.make_mesh(..., axis_types=(jax.sharding.AxisType.Auto,) * "
            "num_axes)`, and put the array there with `jax.device_put`; or, inside "
            "`jax.jit`, call from a function under `jax.sharding.auto_axes`."
        )


def check_batch(name: str, x: AnyArray, *, wait: bool = True) -> None:
    """Check that `x` is a non-empty batch `(n, *d)`, finite where values are known."""
    check_array(name, x)
    check_not_explicit(name, x)
    if x.ndim < 1:
        raise ValueError(f"`{name}` must be a batch of shape (n, *d); got a scalar.")
    if x.size == 0:
        raise ValueError(
            f"`{name}` must hold at least one example; got shape {x.shape}."
        )
    if jnp.issubdtype(x.dtype, jnp.inexact):
        check_finite(name, x, wait=wait)


def check_same_features(name1: str, x1: AnyArray, name2: str, x2: AnyArray) -> None:
    """Check that two batches agree in all but their first axis, and in dtype."""
    if x1.shape[1:] != x2.shape[1:]:
        raise ValueError(
            f"`{name1}` and `{name2}` must have the same feature shape; "
            f"got {x1.shape[1:]} and {x2.shape[1:]}."
        )
    if x1.dtype != x2.dtype:
        raise TypeError(
            f"`{name1}` and `{name2}` must have the same dtype; "
            f"got {x1.dtype} and {x2.dtype}."
        )


def check_targets(name: str, y: AnyArray, num_examples: int, num_outputs: int) -> None:
    """Check that `y` holds one finite floating-point row of targets per example."""
    check_array(name, y)
    expected = (num_examples, num_outputs)
    if y.shape != expected:
        hint = " Add an axis: `y[:, None]`." if y.shape == expected[:1] else ""
        raise ValueError(
            f"`{name}` must have shape {expected}, one row per example and one column "
            f"per output; got {y.shape}.{hint}"
        )
    check_floating(name, y)
    check_finite(name, y)


def check_params(name: str, params: Params) -> None:
    """Check that every leaf of `params` is a real floating-point array."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    if not leaves:
        raise ValueError(f"`{name}` must hold at least one array; got {params!r}.")
    for path, leaf in leaves:
        dtype = getattr(leaf, "dtype", None)
        if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
            came = type(leaf).__name__ if dtype is None else f"dtype {dtype}"
            raise TypeError(
                f"`{name}{jax.tree_util.keystr(path)}` must be a floating-point array; "
                f"got {came}. Close over what is not trained instead of passing it."
            )
        check_not_explicit(f"{name}{jax.tree_util.keystr(path)}", leaf)


def check_like(name: str, params: Params, other_name: str, other: Params) -> None:
    """Check that `params` has the structure of `other`, and leaves of its shapes."""
    structures = [jax.tree.structure(tree) for tree in (params, other)]
    if structures[0] != structures[1]:
        raise ValueError(
            f"`{name}` must have the structure of {other_name}, {structures[1]}; "
            f"got {structures[0]}."
        )
    leaves = jax.tree_util.tree_leaves_with_path(params)
    for (path, leaf), expected in zip(leaves, jax.tree.leaves(other), strict=True):
        if jnp.shape(leaf) != jnp.shape(expected):
            raise ValueError(
                f"`{name}{jax.tree_util.keystr(path)}` must have shape "
                f"{jnp.shape(expected)}, that of {other_name}; got {jnp.shape(leaf)}."
            )


def check_network_output(f: object, num_examples: int) -> None:
    """Check that `f`, from `jax.eval_shape`, is one real array of shape `(n, k)`."""
    if not isinstance(f, jax.ShapeDtypeStruct):
        raise TypeError(
            "`apply_fn` must return one array of shape (n, k); got a "
            f"{type(f).__name__}. Concatenate several outputs along the last axis."
        )
    if f.ndim != 2 or f.shape[0] != num_examples or f.shape[1] == 0:
        hint = " Add an axis: `f[:, None]`." if f.shape == (num_examples,) else ""
        raise ValueError(
            f"`apply_fn` must return shape (n, k) with n = {num_examples} and k >= 1; "
            f"got {f.shape}.{hint}"
        )
    if not jnp.issubdtype(f.dtype, jnp.floating):
        raise TypeError(
            f"`apply_fn` must return real floating-point outputs; got dtype {f.dtype}."
            " Stack real and imaginary parts of complex outputs."
        )
