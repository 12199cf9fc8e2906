"""Arrays of examples and of targets."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from lazyjax.typing import AnyArray


def check_array(name: str, array: object) -> None:
    """Check that `array` is an array of numbers."""
    if not isinstance(array, jax.Array | np.ndarray):
        hint = f"Convert it first with `jnp.asarray({name})`."
        if isinstance(array, Mapping):
            hint = "Are arguments swapped? Parameters come before inputs."
        elif hasattr(array, "to_numpy"):  # as pandas has it
            hint = f"Convert it first with `{name}.to_numpy()`."
        elif isinstance(array, type(None) | str) or callable(array):
            hint = ""
        came = f"got {type(array).__name__}. {hint}".rstrip()
        raise TypeError(f"`{name}` must be an array; {came}")
    is_key = jnp.issubdtype(array.dtype, jax.dtypes.extended)
    if is_key or array.dtype.kind in "OSUMm":
        raise TypeError(f"`{name}` must hold numbers; got dtype {array.dtype}.")


def check_floating(name: str, array: AnyArray, *, allow_complex: bool = False) -> None:
    """Check that `array` is an array of real floating-point numbers, or of complex ones."""
    check_array(name, array)
    kind = jnp.inexact if allow_complex else jnp.floating
    if not jnp.issubdtype(array.dtype, kind):
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


def check_batch(
    name: str, x: AnyArray, *, wait: bool = True, allow_explicit: bool = False
) -> None:
    """Check that `x` is a non-empty batch `(n, *d)`, finite where values are known."""
    check_array(name, x)
    if not allow_explicit:
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
        raise ValueError(
            f"`{name}` must have shape {expected}, one row per example and one column "
            f"per output; got {y.shape}.{_targets_hint(name, y, *expected)}"
        )
    check_floating(name, y)
    check_finite(name, y)


def _targets_hint(name: str, y: AnyArray, num_examples: int, num_outputs: int) -> str:
    is_column = y.shape in ((num_examples,), (num_examples, 1))
    if is_column and num_outputs > 1:
        labels = name if y.ndim == 1 else f"{name}[:, 0]"
        return f" Make class labels one-hot: `jax.nn.one_hot({labels}, {num_outputs})`."
    if is_column:
        return f" Add an axis: `{name}[:, None]`."
    if y.shape == (num_outputs, num_examples):
        return f" Transpose it: `{name}.T`."
    return ""
