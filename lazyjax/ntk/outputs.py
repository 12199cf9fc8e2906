r"""Forms of the kernel over pairs of outputs.

Each form is a set of directions $c$ in output space, along which the Jacobian is taken,
and a choice of pairs of directions: all ("full"), equal ones ("diagonal"), or the sum
over equal ones ("trace", and the single direction of "pseudo" or of one class).
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from lazyjax._brief import brief
from lazyjax._checks import check_choice
from lazyjax.typing import Outputs

Pairs = Literal["full", "diagonal", "trace"]


class Directions(NamedTuple):
    """Directions in output space, and the pairs of them that are wanted."""

    cotangents: Float[Array, "c k"]
    pairs: Pairs


def checked_form(outputs: object) -> Outputs:
    """The form of a kernel that is asked for: a known name, or the index of a class."""
    if isinstance(outputs, int | np.integer) and not isinstance(outputs, bool):
        return int(outputs)
    check_choice("outputs", outputs, ("full", "diagonal", "trace", "pseudo", "flat"))
    return outputs  # pyright: ignore[reportReturnType]


def check_outputs(outputs: Outputs, num_outputs: int) -> None:
    """Check that `outputs` names a form of the kernel or a class.

    Raises:
        ValueError: If it is an unknown name or a class out of range.
    """
    outputs = checked_form(outputs)
    if isinstance(outputs, int) and not 0 <= outputs < num_outputs:
        raise ValueError(
            f"`outputs` as a class index must be in 0..{num_outputs - 1}, since "
            f"the network has {num_outputs} outputs; got {brief(outputs)}."
        )


def check_equal_outputs(outputs: Outputs, counts: Sequence[int]) -> None:
    """Check that functions have one number of outputs, if pairs of equal ones are wanted.

    Raises:
        ValueError: If they do not.
    """
    if outputs in ("diagonal", "trace") and len({*counts}) > 1:
        raise ValueError(
            f"`outputs={outputs!r}` is of equal outputs of functions that have as many; "
            f'these have {" and ".join(map(str, counts))}. Take `outputs="full"`.'
        )


def directions(outputs: Outputs, num_outputs: int, dtype: jnp.dtype) -> Directions:
    r"""Directions whose kernel entries make up `outputs`.

    Returns:
        The $k$ unit vectors; for "pseudo" the vector $(1, \dots, 1)/\sqrt k$; for a class
        its unit vector.
    """
    if outputs == "pseudo":
        return Directions(jnp.full((1, num_outputs), num_outputs**-0.5, dtype), "trace")
    if isinstance(outputs, int):
        return Directions(
            jnp.zeros((1, num_outputs), dtype).at[0, outputs].set(1), "trace"
        )
    # Computed by the program: as a constant they would be stored in it.
    pairs: Pairs = outputs if outputs in ("full", "diagonal") else "trace"
    return Directions(jnp.eye(num_outputs, dtype=dtype), pairs)


def symmetrized(
    ntk: Float[Array, "n n *k"], outputs: Outputs
) -> Float[Array, "n n *k"]:
    """Mean of a kernel of one batch and its transpose: exactly symmetric."""
    # Written to memory first: rounding must not differ between two fusions.
    ntk = lax.optimization_barrier(ntk)
    axes = (1, 0, 3, 2) if outputs == "full" else (1, 0, 2)[: ntk.ndim]
    return (ntk + ntk.transpose(axes)) / 2
