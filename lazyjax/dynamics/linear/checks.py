"""What the linear model asks of kernels, targets and outputs."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lazyjax._brief import brief
from lazyjax._checks import (
    check_batch,
    check_finite,
    check_floating,
    check_targets,
    known_numbers,
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


def check_comes_to_rest(time: object, friction: object) -> None:
    """Check that a flow has an end, where it is asked for."""
    is_free = friction is not None and np.any(known_numbers("friction", friction) == 0)
    if is_free and np.any(np.isinf(known_numbers("time", time))):
        raise ValueError(
            "`time` must be finite with a `friction` of 0, without which outputs never "
            f"come to rest; got {brief(time)}."
        )


def _check_dtype(name: str, array: AnyArray, dtype: jnp.dtype) -> None:
    if array.dtype != dtype:
        raise TypeError(
            f"`{name}` must have the dtype of the training kernel and outputs, {dtype};"
            f" got {array.dtype}."
        )
