"""Analytic kernels of infinitely wide networks, read from their own programs."""

import functools
import math
import sys
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from lazyjax._brief import brief
from lazyjax._checks import check_apply_fn, check_params
from lazyjax.callables.static import HashableCallable
from lazyjax.infinite.duals.accuracy import checked, largest_error, std_range
from lazyjax.infinite.kernels import KernelName, checked_batches, chosen
from lazyjax.infinite.lifting.derive import lift
from lazyjax.infinite.lifting.steps import Activate, kernels_of, precompute
from lazyjax.infinite.tiles import gram, pairwise
from lazyjax.trees import leaf_paths
from lazyjax.typing import AnyArray, ApplyFn, Params

# A block's arrays should stay in cache: entries of each, over pairs of pixels too.
_BLOCK_ENTRIES = 2**17


def infinite_ntk_of(
    apply_fn: ApplyFn,
    params: Params,
    x1: Float[AnyArray, "n1 *d"],
    x2: Float[AnyArray, "n2 *d"] | None = None,
    *,
    variances: PyTree,
) -> Float[Array, "n1 n2"]:
    r"""Neural tangent kernel of `apply_fn` at infinite width, derived from its program.

    The network is taken apart into weights, biases and elementwise functions, and the
    limit of each is applied. It is the limit in which all *hidden* axes grow: those
    that are made by one array of parameters and summed over with another. The axes of
    the input, of pixels and of the output stay as they are. What grows keeps its
    variance: a layer with weights of variance $v$, multiplied by $c$ in the program and
    summed over $n$ units, has $c^2 v n$ held fixed. The kernel is that of one output;
    between different outputs it is 0.

    A layer's own contribution is $c^2 n$ times the second moment of its input. It has a
    limit if the program divides by $\sqrt n$ ("NTK parameterization"); if it does not
    ("standard"), this number, with the $n$ of `params`, is what the kernel holds, to
    leading order in the width.

    Parameters are taken to be independent Gaussians of mean 0. A leaf of variance 0,
    such as biases that start from 0, contributes to the kernel by its gradient alone.
    `lazyjax.infinite_ntk` is the same kernel of networks that an `Architecture`
    describes, faster for images.

    Understood are products with weights (`@`, `einsum`, convolutions), biases, any
    elementwise activation, sums and products of independent branches, loops over layers
    (`lax.scan`, each step with weights of its own), multiplication by constants, sums and
    means over pixels, pooling by means, padding, slices of pixels, transposition and
    reshapes, `stop_gradient`, and any function of the input before the first weights.
    All else is refused, because a kernel would be wrong or not known: shared weights,
    products of hidden values that depend on each other, products over units (attention),
    means or norms over hidden units (normalization, softmax), maxima over pixels,
    activations of sums or products of activations, nonlinear outputs, loops over time,
    and hidden layers of one unit.

    Args:
        apply_fn: Network `(params, x) -> f`; rows of `x` must not interact. It should
            be the same object from call to call, or each call compiles again, as it does
            once what the function holds or names has changed.
        params: Parameters, or their shapes and dtypes as `jax.eval_shape` gives them:
            the values are not used.
        x1: First batch.
        x2: Second batch; `None` means `x1`, with an exactly symmetric result.
        variances: Variance of the entries of each leaf of `params`: a pytree of numbers
            like it, or a prefix of one, such as one number for all leaves.

    Returns:
        The kernel of each output, in the dtype of `x1`.

    Raises:
        ValueError: If `apply_fn` does something that has no limit known here: the
            operation and the line of the program are named. If `variances` does not
            fit, or a batch is empty or not finite. If an activation varies too fast,
            as `infinite_ntk` says.
        TypeError: If a batch or a parameter is not floating point of 32 bits or more,
            or they differ in dtype.

    Cost: O(n1 n2 P²) time for each layer, where P is the number of pixels (1 for
    vectors), times 50 for activations without a closed form; memory is the result and
    blocks, as for `infinite_ntk`.

    Example:
        >>> import jax, jax.numpy as jnp, lazyjax
        >>> def apply_fn(params, x):
        ...     h = jax.nn.relu(x @ params["w"])
        ...     return h @ params["v"] / 64**0.5
        >>> params = {"w": jnp.zeros((2, 64)), "v": jnp.zeros((64, 1))}
        >>> x = jnp.array([[3.0, 4.0]])
        >>> lazyjax.infinite_ntk_of(apply_fn, params, x, variances=1.0).item()
        25.0

    References:
        Jacot, Gabriel and Hongler (2018), arXiv:1806.07572; Yang (2020),
        arXiv:2006.14548, for the limits of arbitrary architectures (equation numbers
        not checked).
    """
    return _kernel(apply_fn, params, x1, x2, variances, of="ntk")


def infinite_nngp_of(
    apply_fn: ApplyFn,
    params: Params,
    x1: Float[AnyArray, "n1 *d"],
    x2: Float[AnyArray, "n2 *d"] | None = None,
    *,
    variances: PyTree,
) -> Float[Array, "n1 n2"]:
    r"""Covariance $E[f_a(x) f_a(x')]$ of an output of `apply_fn` at infinite width.

    It is derived as `infinite_ntk_of` says, over parameters that are independent
    Gaussians of mean 0.

    Args:
        apply_fn: Network `(params, x) -> f`, as in `infinite_ntk_of`.
        params: Parameters, or their shapes and dtypes.
        x1: First batch.
        x2: Second batch; `None` means `x1`, with an exactly symmetric result.
        variances: Variance of the entries of each leaf of `params`.

    Returns:
        The covariance of each output, in the dtype of `x1`.

    Raises:
        ValueError: As `infinite_ntk_of` does.
        TypeError: As `infinite_ntk_of` does.

    Example:
        >>> import jax.numpy as jnp, lazyjax
        >>> apply_fn = lambda w, x: 2 * x @ w
        >>> w, x = jnp.zeros((3, 1)), jnp.ones((1, 3))
        >>> lazyjax.infinite_nngp_of(apply_fn, w, x, variances=0.5).item()
        6.0

    References:
        Lee et al. (2018), arXiv:1711.00165; Yang (2019), arXiv:1910.12478 (equation
        numbers not checked).
    """
    return _kernel(apply_fn, params, x1, x2, variances, of="nngp")


def _kernel(
    apply_fn: ApplyFn,
    params: Params,
    x1: AnyArray,
    x2: AnyArray | None,
    variances: PyTree,
    of: KernelName,
) -> Array:
    check_apply_fn(apply_fn, params)
    check_params("params", params)
    x1, x2 = checked_batches(x1, x2)
    if jnp.finfo(x1.dtype).bits < 32:
        raise TypeError(f"`x1` must be of 32 bits or more; got dtype {x1.dtype}.")
    leaves, structure = jax.tree.flatten(params)
    for path, leaf in zip(leaf_paths(params), leaves, strict=True):
        if leaf.dtype != x1.dtype:
            raise TypeError(
                f"`params` and `x1` must have the same dtype; got {leaf.dtype} at "
                f"{path!r} and {x1.dtype}."
            )
    kernel, error = _compiled(
        x1,
        x2,
        apply_fn=HashableCallable(apply_fn),
        structure=structure,
        leaves=tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves),
        variances=_leaf_variances(variances, params),
        of=of,
    )
    return checked(kernel, error, "apply_fn")


@functools.partial(
    jax.jit, static_argnames=("apply_fn", "structure", "leaves", "variances", "of")
)
def _compiled(
    x1: Array,
    x2: Array | None,
    *,
    apply_fn: ApplyFn,
    structure: Any,
    leaves: Sequence[jax.ShapeDtypeStruct],
    variances: Sequence[float],
    of: KernelName,
) -> tuple[Array, Array]:
    """The kernel, and by how much moments of its activations are not known."""
    params = jax.tree.unflatten(structure, leaves)
    example = jax.ShapeDtypeStruct(x1.shape[1:], x1.dtype)
    program = lift(apply_fn, params, variances, example)

    def kernel(row: PyTree, column: PyTree, is_one: Array | None) -> Array:
        return chosen(kernels_of(program, row, column, is_one), of, x1.dtype)

    entries = program.most_pixels**2
    batch_size = max(1, _BLOCK_ENTRIES // entries)

    def precomputed(x: Array) -> PyTree:
        precompute_fn = functools.partial(precompute, program)
        return jax.lax.map(precompute_fn, x, batch_size=min(batch_size, x.shape[0]))

    rows, columns = precomputed(x1), None if x2 is None else precomputed(x2)
    whole = gram(pairwise(kernel), rows, columns, max(1, math.isqrt(batch_size)))
    stds = [
        (
            step.activation,
            std_range([part.variances[number] for part in (rows, columns) if part]),
        )
        for number, step in enumerate(program.steps)
        if isinstance(step, Activate)
    ]
    return whole, largest_error(stds, with_slope=of == "ntk")


def _leaf_variances(variances: PyTree, params: Params) -> tuple[float, ...]:
    """One number for each leaf of `params`, of which `variances` is a prefix."""
    shapes = jax.tree.map(lambda leaf: np.zeros(()), params)
    try:
        whole = jax.tree.leaves(jax.tree.broadcast(variances, shapes))
    except ValueError as error:
        raise ValueError(
            "`variances` must be a pytree of numbers like `params`, or a prefix of one; "
            f"got {brief(variances)}."
        ) from error
    for path, value in zip(leaf_paths(params), whole, strict=True):
        is_number = isinstance(value, int | float | np.floating)
        if not is_number or not 0 <= value < math.inf or value > sys.float_info.max:
            raise ValueError(
                "`variances` must hold finite numbers, zero or positive; got "
                f"{brief(value)} at {brief(path)}."
            )
    return tuple(float(value) for value in whole)
