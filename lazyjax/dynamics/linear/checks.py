"""What the linear model asks of kernels, targets and outputs."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from lazyjax._checks import (
    check_batch,
    check_finite,
    check_floating,
    check_nonnegative,
    check_targets,
)
from lazyjax.typing import AnyArray


def check_kernel_problem(
    ntk: Float[AnyArray, "n n *kk"],
    y: Float[AnyArray, "n k"],
    f0: Float[AnyArray, "n k"],
) -> None:
    """Check that a kernel, targets and outputs fit together."""
    for name, array in {"ntk": ntk, "y": y, "f0": f0}.items():
        check_floating(name, array)
        _check_dtype(name, array, ntk.dtype)
    check_batch("ntk", ntk)
    if y.ndim != 2:
        raise ValueError(
            f"`y` must have shape (n, k), one column per output; got {y.shape}."
        )
    n, k = y.shape
    if ntk.shape not in ((n, n), (n, n, k, k)):
        raise ValueError(
            f"`ntk` must have shape {(n, n, k, k)}, or {(n, n)} if all outputs share "
            f"it, to fit `y` of shape {y.shape}; got {ntk.shape}."
        )
    check_batch("y", y)
    check_targets("f0", f0, n, k)


def check_test_points(
    ntk_test_train: AnyArray | None,
    f0_test: AnyArray | None,
    f0: Float[AnyArray, "*batch n k"],
    *,
    gram_size: int,
) -> tuple[Array, Array] | None:
    """Kernel and outputs at test points, checked."""
    if ntk_test_train is None and f0_test is None:
        return None
    if ntk_test_train is None or f0_test is None:
        missing = "ntk_test_train" if ntk_test_train is None else "f0_test"
        raise ValueError(
            "`ntk_test_train` and `f0_test` must be given together; "
            f"`{missing}` is missing."
        )
    n, k = f0.shape[-2:]
    n_test = ntk_test_train.shape[0]
    forms = {(n_test, n, k, k): n * k, (n_test, n): n}
    shapes = [shape for shape, size in forms.items() if size == gram_size]
    if ntk_test_train.shape not in shapes:
        raise ValueError(
            f"`ntk_test_train` must have shape {' or '.join(map(str, shapes))}, in "
            f"the form of the training kernel; got {ntk_test_train.shape}."
        )
    check_targets("f0_test", f0_test, n_test, k)
    for name, array in {"ntk_test_train": ntk_test_train, "f0_test": f0_test}.items():
        _check_dtype(name, array, f0.dtype)
    check_finite("ntk_test_train", ntk_test_train)
    return jnp.asarray(ntk_test_train), jnp.asarray(f0_test)


def checked_steps(step: int | Int[AnyArray, "*steps"]) -> Int[Array, "*steps"]:
    """Numbers of updates, checked: none is wrapped round."""
    if isinstance(step, jax.Array):
        _check_integers(step.dtype)
        check_nonnegative("step", step)
        return step
    steps = np.asarray(step)
    # Integers beyond NumPy's own are kept as objects.
    if steps.dtype != object or not all(isinstance(s, int) for s in steps.flat):
        _check_integers(steps.dtype)
    smallest, largest = int(steps.min(initial=0)), int(steps.max(initial=0))
    limit = int(jnp.iinfo(jax.dtypes.canonicalize_dtype(int)).max)
    if smallest < 0:
        raise ValueError(f"`step` must be zero or positive; got {smallest}.")
    if largest > limit:
        raise ValueError(
            f"`step` must be at most {limit}, the largest of JAX's integers; got "
            f"{largest}. Enable 64-bit types, for example with `jax.enable_x64(True)`, "
            "or take gradient flow at infinite time."
        )
    return jnp.asarray(steps)


def _check_integers(dtype: Any) -> None:
    if not jnp.issubdtype(dtype, jnp.integer):
        raise TypeError(f"`step` must hold integers; got dtype {dtype}.")


def _check_dtype(name: str, array: AnyArray, dtype: jnp.dtype) -> None:
    if array.dtype != dtype:
        raise TypeError(
            f"`{name}` must have the dtype of the training kernel and outputs, {dtype};"
            f" got {array.dtype}."
        )
