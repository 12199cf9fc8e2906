"""Analytic kernels of infinitely wide networks, read from their `Architecture`."""

import dataclasses
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from lazyjax._brief import brief
from lazyjax._checks import (
    check_at_least,
    check_batch,
    check_floating,
    check_same_features,
)
from lazyjax.architecture import KINDS, Architecture
from lazyjax.architecture.kinds import complete
from lazyjax.infinite import recurrent, recursion
from lazyjax.infinite.budget import block_size
from lazyjax.infinite.duals.accuracy import (
    checked,
    largest_error,
    std_range,
)
from lazyjax.infinite.duals.dual import is_closed_form
from lazyjax.infinite.tiles import gram, pairwise
from lazyjax.typing import AnyArray


def infinite_ntk(
    architecture: Architecture,
    x1: Float[AnyArray, "n1 *d"],
    x2: Float[AnyArray, "n2 *d"] | None = None,
    *,
    width: int | None = None,
    memory: int | str | None = None,
) -> Float[Array, "n1 n2"]:
    r"""Neural tangent kernel of infinitely wide networks at initialization.

    It is the limit of $\langle\nabla f_a(x), \nabla f_a(x')\rangle$, unnormalized, over
    the trained parameters of one output $a$; between different outputs it is 0, so that
    the kernel of all $k$ outputs is this one times the identity. Neither `readout` nor
    `symmetrized` changes it. "mup" has the same kernel as "ntk" at initialization.

    The kernel of "standard" networks has no limit: layer $l$ contributes its fan-in
    $/\,$`w_std**2` times, and its biases `1/b_std**2` times, what they do in "ntk".
    For it, `width` is needed and the result holds each contribution to leading order.

    Images are read as `architecture` says. Flattened without pooling, only pairs of the
    same pixel are computed; a mean over pixels needs all pairs, up to the last pool.

    Args:
        architecture: Description of the network, such as `network.architecture`.
        x1: First batch; features are flattened, unless layers are convolutions: then
            (n, height, width, channels), or (n, length, channels); recurrent networks
            read (n, time, features).
        x2: Second batch; `None` means `x1`, with an exactly symmetric result.
        width: Units of each hidden layer, for "standard" parameterization only.
        memory: Bytes that may be held at once beside the inputs, such as "4GiB"; what
            gradients need is not counted. `None` means blocks that stay in cache,
            whatever the result takes.

    Returns:
        The kernel of each output.

    Raises:
        ValueError: If no limit is known of the network, `width` is missing or needless,
            the batches differ in features, one is empty or not finite, `memory` is too
            little for one pair, or the activation has no closed form and moments that
            are not known to 1 % at the variances met (beyond 0.1 % there is a warning).
            Under `jax.jit` and `jax.grad` the kernel is NaN instead.
        TypeError: If `architecture` is not an `Architecture`, or a batch not floating
            point.

    Cost: O(n1 n2 (d + P depth)) time, where P is the number of pixels, squared if all
    pairs are needed, and 1 for vectors; times about 50 for activations without a closed
    form (see `lazyjax.infinite.duals`, also for accuracy). Memory is the result, up to
    three times while it is assembled, and some ten arrays of 2**17 numbers, or of P if
    that is more: blocks of examples are computed one after the other, smaller ones if
    `memory` says so. In float32, kernels of kinked activations between equal rows of
    `x1` and `x2` are accurate to about 1e-4; with `x2=None` the diagonal is exact to
    rounding.

    Example:
        >>> import jax.numpy as jnp
        >>> from lazyjax.architecture import Architecture
        >>> from lazyjax.infinite import infinite_ntk
        >>> du2019 = Architecture(trained="first", input_scaling="none")
        >>> infinite_ntk(du2019, jnp.eye(2))[0, 0].item()
        0.5

    References:
        Jacot, Gabriel and Hongler (2018), arXiv:1806.07572; Du et al. (2019),
        arXiv:1810.02054; Du et al. (2019b), arXiv:1811.03804, for residual networks;
        Arora et al. (2019), arXiv:1904.11955, for convolutional ones; Alemohammad et al.
        (2021), arXiv:2006.10246, for recurrent ones (not opened: derived here, and
        compared with wide networks); Sohl-Dickstein et al. (2020), arXiv:2001.07301, for
        "standard" (equation numbers not checked).
    """
    x1, x2 = _checked_batches(architecture, x1, x2)
    if architecture.parameterization == "standard":
        if width is None:
            raise ValueError(
                "`width` must be given: the kernel of a 'standard' network grows with "
                "its width. For a limit, use parameterization 'ntk'."
            )
        check_at_least("width", width, 1, 2**63)
    elif width is not None:
        raise ValueError(
            "`width` must not be given: the kernel of a "
            f"{architecture.parameterization!r} network does not depend on the width; "
            f"got {brief(width)}."
        )
    size = _block_size(architecture, x1, x2, memory)
    kernel, stds = _ntk(architecture, x1, x2, width, size)
    return _checked(kernel, architecture, stds, with_slope=True)


def infinite_nngp(
    architecture: Architecture,
    x1: Float[AnyArray, "n1 *d"],
    x2: Float[AnyArray, "n2 *d"] | None = None,
    *,
    memory: int | str | None = None,
) -> Float[Array, "n1 n2"]:
    r"""Covariance $E[f_a(x) f_a(x')]$ of one output of infinitely wide networks.

    The expectation is over initializations; outputs are independent of each other.
    `trained` does not matter. Symmetrized networks start from zero, so theirs is 0.
    Hidden layers of "mup" networks contribute $O(1/\text{width})$ to the output:
    theirs is only that of the output's bias, unless depth is 0.

    Args:
        architecture: Description of the network, such as `network.architecture`.
        x1: First batch, as in `infinite_ntk`.
        x2: Second batch; `None` means `x1`, with an exactly symmetric result.
        memory: Bytes that may be held at once, as in `infinite_ntk`.

    Returns:
        The covariance of each output.

    Raises:
        ValueError: If no limit is known of the network, the batches differ in features,
            one is empty or not finite, or `memory` is too little for one pair.
        TypeError: If `architecture` is not an `Architecture`, or a batch not floating
            point.

    Cost: that of `infinite_ntk`, or half.

    Example:
        >>> import jax.numpy as jnp
        >>> from lazyjax.architecture import Architecture
        >>> from lazyjax.infinite import infinite_nngp
        >>> linear = Architecture(depth=0, w_std=2.0, b_std=1.0)
        >>> infinite_nngp(linear, jnp.ones((1, 3))).item()
        5.0

    References:
        Lee et al. (2018), arXiv:1711.00165 (equation numbers not checked).
    """
    x1, x2 = _checked_batches(architecture, x1, x2)
    size = _block_size(architecture, x1, x2, memory)
    kernel, stds = _nngp(architecture, x1, x2, size)
    return _checked(kernel, architecture, stds, with_slope=False)


def _checked(
    kernel: Float[Array, "n1 n2"],
    architecture: Architecture,
    stds: Float[Array, "2"],
    with_slope: bool,
) -> Float[Array, "n1 n2"]:
    if is_closed_form(architecture.activation):
        return kernel
    error = largest_error([(architecture.activation, stds)], with_slope)
    return checked(kernel, error, "architecture")


def _block_size(
    architecture: Architecture,
    x1: jax.Array,
    x2: jax.Array | None,
    memory: int | str | None,
) -> int:
    n1, n2 = x1.shape[0], (x1 if x2 is None else x2).shape[0]
    itemsize = x1.dtype.itemsize
    return block_size(architecture, x1.shape[1:], n1, n2, itemsize, memory)


def _checked_batches(
    architecture: object, x1: AnyArray, x2: AnyArray | None
) -> tuple[jax.Array, jax.Array | None]:
    if not isinstance(architecture, Architecture):
        raise TypeError(
            "`architecture` must be an Architecture, such as `network.architecture`; "
            f"got {type(architecture).__name__}."
        )
    kind = KINDS[architecture.kind]
    reason = architecture.why_no_limit
    if reason is None and kind.limit is None:
        reason = f"none is registered with kind {kind.name!r}"
    if reason is not None:
        raise ValueError(
            "`architecture` has no infinite-width kernel here: "
            f"{reason}. `lazyjax.monte_carlo_ntk` averages the kernels "
            "of finite networks."
        )
    for name, x in {"x1": x1, "x2": x1 if x2 is None else x2}.items():
        check_floating(name, x)
        check_batch(name, x)
    if x2 is not None:
        check_same_features("x1", x1, "x2", x2)
        x2 = jnp.asarray(x2)
    rank = len(architecture.filter_shape)
    if architecture.is_convolutional and x1.ndim != rank + 2:
        raise ValueError(
            f"`x1` must have {rank} spatial axes and one of channels, (n, "
            f"{'height, width' if rank == 2 else 'length'}, channels), for filters of "
            f"shape {architecture.filter_shape}; got shape {x1.shape}."
        )
    if kind.layers == "recurrent" and x1.ndim != 3:
        raise ValueError(
            f"`x1` must be a batch of sequences (n, time, features); got {x1.shape}."
        )
    return jnp.asarray(x1), x2


# Compiled here because the loop over blocks is: an eager loop compiles at every call.
@partial(jax.jit, static_argnames=("architecture", "width", "size"))
def _ntk(
    architecture: Architecture,
    x1: Float[Array, "n1 *d"],
    x2: Float[Array, "n2 *d"] | None,
    width: int | None,
    size: int,
) -> tuple[Float[Array, "n1 n2"], Float[Array, "2"]]:
    return _gram(architecture, x1, x2, width, size, of="ntk")


@partial(jax.jit, static_argnames=("architecture", "size"))
def _nngp(
    architecture: Architecture,
    x1: Float[Array, "n1 *d"],
    x2: Float[Array, "n2 *d"] | None,
    size: int,
) -> tuple[Float[Array, "n1 n2"], Float[Array, "2"]]:
    if architecture.symmetrized:
        fill = 0.0
    elif architecture.parameterization == "mup" and architecture.depth > 0:
        fill = float(architecture.output_scale * architecture.b_std) ** 2
    else:
        untrained = dataclasses.replace(architecture, trained=())
        return _gram(untrained, x1, x2, None, size, of="nngp")
    shape = (x1.shape[0], (x1 if x2 is None else x2).shape[0])
    return jnp.full(shape, fill, x1.dtype), jnp.zeros(2, x1.dtype)


def _gram(
    architecture: Architecture,
    x1: Float[Array, "n1 *d"],
    x2: Float[Array, "n2 *d"] | None,
    width: int | None,
    size: int,
    of: Literal["ntk", "nngp"],
) -> tuple[Float[Array, "n1 n2"], Float[Array, "2"]]:
    """The kernel, and the range of standard deviations of what is activated."""
    limit = KINDS[architecture.kind].limit
    assert limit is not None

    def precomputed(x: Array) -> tuple[Array, PyTree]:
        statistics_fn = partial(limit.statistics, architecture, width=width)
        if not architecture.is_convolutional:
            return x, jax.vmap(statistics_fn)(x)
        # Of series, what is held is coefficients of each input.
        batch_size = size**2 if is_closed_form(architecture.activation) else size
        return x, jax.lax.map(statistics_fn, x, batch_size=batch_size)

    def kernel(row: PyTree, column: PyTree, is_one: Array | None) -> Array:
        (x, statistics), (y, others) = row, column
        found = limit.kernels(architecture, x, y, statistics, others, is_one, width)
        value = found.nngp if of == "nngp" else found.ntk
        return jnp.zeros((), x.dtype) if value is None else value

    rows, columns = precomputed(x1), None if x2 is None else precomputed(x2)
    variances = [
        variance
        for side in (rows, columns)
        if side is not None
        for variance in limit.activated_variances(architecture, side[1])
    ]
    stds = std_range(variances) if variances else jnp.zeros(2, x1.dtype)
    return gram(pairwise(kernel), rows, columns, size), stds


for _name in ("mlp", "resnet", "cnn", "conv_resnet"):
    complete(_name, limit=recursion.LIMIT)
complete("rnn", limit=recurrent.LIMIT)
