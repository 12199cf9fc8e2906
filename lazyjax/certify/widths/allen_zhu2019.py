r"""Width that Allen-Zhu et al. (2019) ask for, and their deep ReLU network.

What their argument rests on is measured along a run by
`lazyjax.certify.measured.allen_zhu2019`.
"""

import math
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from lazyjax._checks import check_at_least, check_batch, check_floating
from lazyjax._renamed import deprecated_names
from lazyjax.certify.widths.requirement import RequiredWidth, Requirement
from lazyjax.certify.widths.separation import separation
from lazyjax.typing import AnyArray, ApplyFn, Params, RandomKey


def network(
    key: RandomKey,
    x: Float[AnyArray, "n d"],
    *,
    width: int,
    depth: int,
    num_outputs: int = 1,
) -> tuple[ApplyFn, Params]:
    r"""Network of Allen-Zhu et al. (2019): only the layers between $A$ and $B$ are trained.

    $f = B\phi(W_L \cdots \phi(W_1\phi(Ax)))$ with ReLU; entries of $A$ and $W_l$ are
    $N(0, 2/m)$, those of $B$ are $N(0, 1/k)$, and $A$, $B$ stay as they are.

    Args:
        key: Source of randomness.
        x: Inputs; only the shape and dtype are used.
        width: The width $m$.
        depth: The number $L$ of layers trained.
        num_outputs: The number $k$ of outputs.

    Returns:
        The network and its start.

    Raises:
        TypeError: If `x` is not floating point, or a count not an integer.
        ValueError: If `x` is empty, not finite or not a matrix, or a count too small.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> apply_fn, params = network(jax.random.key(0), jnp.ones((5, 3)), width=8, depth=2)
        >>> len(params), apply_fn(params, jnp.ones((5, 3))).shape
        (2, (5, 1))

    References:
        Allen-Zhu, Li and Song (2019), arXiv:1811.03962, section 2 (not checked against
        the paper).
    """
    check_floating("x", x)
    check_batch("x", x)
    if x.ndim != 2:
        raise ValueError(f"`x` must have shape (n, d); got {x.shape}.")
    for name, value in {
        "width": width,
        "depth": depth,
        "num_outputs": num_outputs,
    }.items():
        check_at_least(name, value, 1)
    first, last, *hidden = jax.random.split(key, depth + 2)
    scale = math.sqrt(2 / width)
    a = scale * jax.random.normal(first, (x.shape[1], width), x.dtype)
    b = jax.random.normal(last, (width, num_outputs), x.dtype) / math.sqrt(num_outputs)
    params = [scale * jax.random.normal(k, (width, width), x.dtype) for k in hidden]

    def apply_fn(params: Any, x: Array) -> Array:
        h = jax.nn.relu(x @ a)
        for weights in params:
            h = jax.nn.relu(h @ weights)
        return h @ b

    return apply_fn, params


def requirements(
    x: Float[AnyArray, "n d"], *, depth: int = 2, num_outputs: int = 1
) -> tuple[RequiredWidth, ...]:
    r"""What the theorem asks for on the inputs `x`.

    Args:
        x: Training inputs.
        depth: The number $L$ of layers.
        num_outputs: Number of outputs.

    Returns:
        One requirement, an order of magnitude.

    Raises:
        TypeError: If `x` is not floating point, or a count not an integer.
        ValueError: If `x` is empty or not finite, or a count too small.

    Example:
        >>> import numpy as np
        >>> needed, = requirements(np.eye(2))
        >>> needed.applies, needed.is_explicit
        (True, False)

    References:
        Allen-Zhu, Li and Song (2019), arXiv:1811.03962, Theorem 1. The degrees in n and
        L, and that of delta, are as quoted by later papers; the rest is not checked.
    """
    check_at_least("depth", depth, 1)
    check_at_least("num_outputs", num_outputs, 1)
    found = separation(x)
    n = x.shape[0]
    distance = np.float64(found.distance)
    with np.errstate(divide="ignore"):
        width = np.float64(n) ** 24 * depth**12 / distance**8 * num_outputs
    return (
        RequiredWidth(
            theorem=f"Allen-Zhu et al. (2019), deep ReLU, L = {depth}",
            formula="C n^24 L^12 k / delta^8, without logarithms",
            width=float(width),
            depth=depth + 1,
            is_explicit=False,
            assumptions=(found.unit_norm, found.separated),
            source="degrees as quoted by others; not checked against the paper",
        ),
    )


REQUIREMENT = Requirement(
    name="allen_zhu2019",
    source="Allen-Zhu, Li and Song (2019), arXiv:1811.03962",
    widths=lambda x, y, *, depth, failure: requirements(
        x, depth=depth, num_outputs=y.shape[1]
    ),
)

__getattr__ = deprecated_names(
    __name__,
    {
        "Measurement": "lazyjax.certify.measured.allen_zhu2019.MeasuredSmoothness",
        "measure": "lazyjax.certify.measured.allen_zhu2019.measure",
    },
)
