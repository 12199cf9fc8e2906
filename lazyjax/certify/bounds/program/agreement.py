"""That a function, called outside of any transformation, computes what was bounded.

Bounds are of the program that JAX traces. A function that looks at whether its arguments
are traced, or at their precision, may do something else when it is called.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from lazyjax.certify.arithmetic.rounding import UNIT_ROUNDOFF, gamma
from lazyjax.certify.bounds.program.jacobian import Jacobian
from lazyjax.typing import AnyArray, ApplyFn, Params

# Errors of XLA's sums and elementary functions, relative to the bounds of NumPy's.
_LIBRARY_FACTOR = 8


def check_outputs(
    apply_fn: ApplyFn,
    params: Params,
    x: AnyArray,
    value: Float[np.ndarray, "n k"],
    radius: Float[np.ndarray, "n k"],
) -> None:
    """Check that a function computes the outputs that were enclosed.

    Args:
        apply_fn: The function.
        params: Its parameters, of any precision.
        x: Inputs.
        value: Outputs in float64.
        radius: Bounds of their errors.

    Raises:
        ValueError: If they disagree by more than rounding explains.
    """
    dtypes = [jnp.dtype(leaf.dtype) for leaf in (*jax.tree.leaves(params), x)]
    floats = [dtype for dtype in dtypes if jnp.issubdtype(dtype, jnp.floating)]
    with (
        jax.enable_x64(True),
        jax.default_matmul_precision("highest"),
        jax.numpy_dtype_promotion("standard"),  # parameters and inputs may differ
    ):
        found = apply_fn(*jax.tree.map(jnp.asarray, (params, x)))
        coarsest = max(
            float(jnp.finfo(dtype).eps) / 2 for dtype in (*floats, found.dtype)
        )
        found = np.asarray(found, np.float64)
    units = coarsest / UNIT_ROUNDOFF
    scale = float(np.max(np.abs(value), initial=0.0))
    allowed = _LIBRARY_FACTOR * units * (radius + UNIT_ROUNDOFF * scale)
    off = np.abs(found - value)
    if not np.all((off <= allowed) | ~np.isfinite(allowed)):
        raise ValueError(
            "`apply_fn` must compute the same when it is called as when it is traced, as "
            "what is traced is what is certified; outputs are off by "
            f"{np.max(off):.3g}, where rounding explains {np.max(allowed):.3g}."
        )


def check_gradient(
    apply_fn: ApplyFn,
    params: Params,
    x: AnyArray,
    trained: tuple[int, ...],
    jacobian: Jacobian,
) -> None:
    """Check that the gradient of one weighted sum of outputs is that of a Jacobian.

    Args:
        apply_fn: The function.
        params: Its parameters, in float64.
        x: Inputs.
        trained: Which leaves of parameters the Jacobian is by; others do not move.
        jacobian: The Jacobian.

    Raises:
        ValueError: If they disagree by more than rounding explains.
    """
    leaves, structure = jax.tree.flatten(params)
    floats = [i for i, leaf in enumerate(leaves) if leaf.dtype == np.float64]
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):

        def of_floats(chosen: list[jax.Array]) -> jax.Array:
            replaced = list(leaves)
            for number, leaf in zip(floats, chosen, strict=True):
                replaced[number] = leaf
            return apply_fn(structure.unflatten(replaced), jnp.asarray(x))

        f, pull = jax.vjp(of_floats, [jnp.asarray(leaves[i]) for i in floats])
        weights = np.random.default_rng(0).uniform(0.5, 1.5, f.shape)
        found = dict(zip(floats, pull(jnp.asarray(weights, f.dtype))[0], strict=True))
    size = float(np.linalg.norm(weights))
    for number, gradient in found.items():
        off, allowed = np.asarray(gradient).reshape(-1), 0.0
        if number in trained:
            rows = jacobian.leaves[trained.index(number)]
            off = off - rows.weighted(weights.reshape(-1))
            norm = float(np.linalg.norm(rows.norms))
            rounded = gamma(weights.size + 8, UNIT_ROUNDOFF) * norm
            allowed = _LIBRARY_FACTOR * size * (jacobian.error + rounded)
        distance = float(np.linalg.norm(off))
        if not distance <= allowed and np.isfinite(allowed):
            raise ValueError(
                "`apply_fn` must have the same derivatives when it is called as when it "
                f"is traced; in leaf {number} of `params` they are off by "
                f"{distance:.3g}, where rounding explains {allowed:.3g}."
            )
