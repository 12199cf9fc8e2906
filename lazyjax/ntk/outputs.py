r"""Forms of the kernel over pairs of outputs.

Each form is a set of directions $c$ in output space, along which the Jacobian is taken,
and a choice of pairs of directions: all ("full"), equal ones ("diagonal"), or the sum
over equal ones ("trace", and the single direction of "pseudo" or of one class).
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Shaped

from lazyjax._brief import brief
from lazyjax._checks import check_choice, known_numbers
from lazyjax.typing import AnyArray, Outputs

Pairs = Literal["full", "diagonal", "trace"]
KernelArray = TypeVar("KernelArray", Array, np.ndarray)

_FORMS = ("full", "diagonal", "trace", "pseudo", "flat")


@dataclasses.dataclass(frozen=True, eq=False)
class Directions:
    """Directions in output space: of all examples the same, or of each its own."""

    # Numbers of outputs, `(c,)` or `(n, c)`, that of none giving the direction 0; or
    # vectors, `(c, k)` or `(n, c, k)`.
    array: Shaped[Array, "*n c"] | Float[Array, "*n c k"]

    @property
    def _axis(self) -> int:
        """The axis of directions."""
        is_numbers = jnp.issubdtype(self.array.dtype, jnp.integer)
        return self.array.ndim - (1 if is_numbers else 2)

    @property
    def number(self) -> int:
        """Directions of an example."""
        return self.array.shape[self._axis]

    def vectors(
        self, num_outputs: int, dtype: jnp.dtype
    ) -> Float[Array, "c k"] | Float[Array, "n c k"]:
        """The directions as cotangents of the outputs."""
        if not jnp.issubdtype(self.array.dtype, jnp.integer):
            return self.array.astype(dtype)
        # Computed by the program: as a constant they would be stored in it.
        return jax.nn.one_hot(self.array, num_outputs, dtype=dtype)

    def of(self, f: Float[Array, "n k"]) -> Float[Array, "n c"]:
        """Outputs along the directions."""
        if jnp.issubdtype(self.array.dtype, jnp.integer):
            numbers = jnp.broadcast_to(self.array, (f.shape[0], self.number))
            return jnp.take_along_axis(f, numbers, 1, mode="fill", fill_value=0)
        subscripts = "ik,ck->ic" if self.array.ndim == 2 else "ik,ick->ic"
        along = self.array.astype(f.dtype)
        return jnp.einsum(subscripts, f, along, precision="highest")

    def of_examples(self, start: Array | int, size: int) -> "Directions":
        """Those of some examples."""
        if self._axis == 0:
            return self
        return Directions(lax.dynamic_slice_in_dim(self.array, start, size))

    def some(self, start: Array | int, size: int) -> "Directions":
        """Some of each example's."""
        return Directions(lax.dynamic_slice_in_dim(self.array, start, size, self._axis))

    def padded(self, number: int) -> "Directions":
        """With directions 0, up to a number of them."""
        axis, margins = self._axis, [(0, 0)] * self.array.ndim
        margins[axis] = (0, number - self.number)
        none = 0
        if jnp.issubdtype(self.array.dtype, jnp.integer):
            none = jnp.iinfo(self.array.dtype).max
        return Directions(jnp.pad(self.array, margins, constant_values=none))


def checked_form(outputs: object) -> Outputs:
    """The form of a kernel that is asked for: a known name, or numbers of outputs."""
    if isinstance(outputs, int | np.integer) and not isinstance(outputs, bool):
        return int(outputs)
    if isinstance(outputs, str) or not isinstance(outputs, Sequence | AnyArray):
        check_choice("outputs", outputs, _FORMS)
        return outputs  # pyright: ignore[reportReturnType]
    is_pair = isinstance(outputs, tuple) and any(np.ndim(part) for part in outputs)
    arrays = [jnp.asarray(part) for part in (outputs if is_pair else [outputs])]
    ranks = [array.ndim for array in arrays]
    is_known = ranks in ([1], [2], [2, 2]) and all(array.size for array in arrays)
    if not is_known or not all(
        jnp.issubdtype(array.dtype, jnp.integer) for array in arrays
    ):
        raise ValueError(
            "`outputs` as numbers of outputs must be a list of integers, an array `(n, m)` "
            "of m for each example, or a pair of these, one for each batch; got "
            f"{brief(outputs)}."
        )
    if ranks == [1]:
        numbers = known_numbers("outputs", arrays[0])
        return tuple(numbers.tolist()) if numbers.size else arrays[0]
    return (arrays[0], arrays[1]) if is_pair else arrays[0]


def chosen_outputs(outputs: Outputs) -> tuple[Array, ...] | None:
    """Numbers of outputs, of the examples of both batches or of each, if they are given."""
    if isinstance(outputs, str | int):
        return None
    if isinstance(outputs, tuple) and jnp.ndim(outputs[0]) == 2:
        return outputs  # pyright: ignore[reportReturnType]
    return (jnp.asarray(outputs),)


def check_chosen(
    chosen: Sequence[Array], num_outputs: int, nums_examples: Sequence[int]
) -> None:
    """Check numbers of outputs, one array for both batches or one for each.

    Raises:
        ValueError: If they are of another number of examples, or out of range.
    """
    is_each = chosen[0].ndim == 2
    if is_each and (
        [array.shape[0] for array in chosen] != [*nums_examples]
        or len({array.shape[1] for array in chosen}) > 1
    ):
        raise ValueError(
            "`outputs` for each example must be one array `(n, m)` for each batch, of "
            f"{' and '.join(map(str, nums_examples))} examples; got "
            f"{' and '.join(str(array.shape) for array in chosen)}."
        )
    for array in chosen:
        numbers = known_numbers("outputs", array)
        if numbers.size and not 0 <= numbers.min() <= numbers.max() < num_outputs:
            wrong = numbers.min() if numbers.min() < 0 else numbers.max()
            raise ValueError(
                f"`outputs` must hold numbers in 0..{num_outputs - 1}, since the network "
                f"has {num_outputs} outputs; got {wrong}."
            )


def are_outputs(chosen: Sequence[Array], num_outputs: int) -> Bool[Array, ""]:
    """Whether all numbers are those of outputs."""
    least = jnp.stack([jnp.min(array) for array in chosen])
    most = jnp.stack([jnp.max(array) for array in chosen])
    return jnp.all(least >= 0) & jnp.all(most < num_outputs)


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
        The numbers of all outputs; for "pseudo" the vector $(1, \dots, 1)/\sqrt k$; for
        a class its number.
    """
    if outputs == "pseudo":
        return Directions(jnp.full((1, num_outputs), num_outputs**-0.5, dtype))
    if isinstance(outputs, int):
        return Directions(jnp.full((1,), outputs))
    return Directions(jnp.arange(num_outputs))


def pairs_of(outputs: Outputs) -> Pairs:
    """Which pairs of directions make up `outputs`."""
    if isinstance(outputs, str) and outputs in ("full", "diagonal"):
        return outputs
    return "trace"


def of_each(cotangents: Float[Array, "*n c k"]) -> int | None:
    """The axis of examples of cotangents, if each has its own."""
    return 0 if cotangents.ndim == 3 else None


def for_each(cotangents: Float[Array, "*n c k"], num: int) -> Float[Array, "n c k"]:
    """Cotangents of each of some examples."""
    return jnp.broadcast_to(cotangents, (num, *cotangents.shape[-2:]))


def transposed(ntk: KernelArray) -> KernelArray:
    """The kernel `(n1, n2, *k)` of JAX or NumPy, with its two batches exchanged."""
    return ntk.transpose((1, 0, 3, 2) if ntk.ndim == 4 else (1, 0, 2)[: ntk.ndim])


def symmetrized(ntk: Float[Array, "n n *k"]) -> Float[Array, "n n *k"]:
    """Mean of a kernel of one batch and its transpose: exactly symmetric."""
    # Written to memory first: rounding must not differ between two fusions.
    ntk = lax.optimization_barrier(ntk)
    return (ntk + transposed(ntk)) / 2
