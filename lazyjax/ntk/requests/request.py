r"""The kernel that is asked for, and its forms over pairs of outputs.

Each form is a set of directions $c$ in output space, along which the Jacobian is taken,
and a choice of pairs of directions: all ("full"), equal ones ("diagonal"), or the sum
over equal ones ("trace", and the single direction of "pseudo" or of one class).
"""

import dataclasses
import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from lazyjax._checks import check_choice
from lazyjax.typing import ApplyFn, Outputs, Params

Pairs = Literal["full", "diagonal", "trace"]


class Directions(NamedTuple):
    """Directions in output space, and the pairs of them that are wanted."""

    cotangents: Float[Array, "c k"]
    pairs: Pairs


def check_outputs(outputs: Outputs, num_outputs: int) -> None:
    """Check that `outputs` names a form of the kernel or a class."""
    if isinstance(outputs, int) and not isinstance(outputs, bool):
        if not 0 <= outputs < num_outputs:
            raise ValueError(
                f"`outputs` as a class index must be in 0..{num_outputs - 1}, since "
                f"the network has {num_outputs} outputs; got {outputs}."
            )
        return
    check_choice("outputs", outputs, ("full", "diagonal", "trace", "pseudo"))


def directions(outputs: Outputs, num_outputs: int, dtype: jnp.dtype) -> Directions:
    """Unit vectors, or the mean of all for "pseudo", of which `outputs` are made."""
    if outputs == "pseudo":
        return Directions(jnp.full((1, num_outputs), num_outputs**-0.5, dtype), "trace")
    if isinstance(outputs, int):
        return Directions(
            jnp.zeros((1, num_outputs), dtype).at[0, outputs].set(1), "trace"
        )
    # Computed by the program: as a constant they would be stored in it.
    return Directions(jnp.eye(num_outputs, dtype=dtype), outputs)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class KernelRequest:
    """A kernel: of which network, between which batches, in which form."""

    apply_fn: ApplyFn  # network `(params, x) -> f`
    params: Params  # point at which the network is linearized
    x1: Any  # first batch, or its shape and dtype where nothing is computed
    x2: Any = None  # second batch; `None` means `x1`, and an exactly symmetric kernel
    outputs: Outputs = "full"  # form of the kernel, as in `empirical_ntk`
    precision: Any = "highest"  # of all contractions

    @property
    def columns(self) -> Any:
        """The second batch, whichever it is."""
        return self.x1 if self.x2 is None else self.x2

    @functools.cached_property
    def f(self) -> jax.ShapeDtypeStruct:
        """Outputs over the first batch, by shape."""
        return jax.eval_shape(self.apply_fn, self.params, self.x1)

    @property
    def is_each_output(self) -> bool:
        """Whether directions are those of the outputs, one by one."""
        return self.outputs in ("full", "diagonal", "trace")

    @property
    def pairs(self) -> Pairs:
        """Which pairs of directions are wanted."""
        outputs = self.outputs
        return outputs if outputs in ("full", "diagonal") else "trace"

    @property
    def directions(self) -> Directions:
        """Directions in output space whose kernel entries are wanted."""
        return directions(self.outputs, self.f.shape[1], self.f.dtype)

    def symmetrized(self, kernel: Array) -> Array:
        """A kernel, exactly symmetric if it is of one batch."""
        if self.x2 is not None:
            return kernel
        # Written to memory first: rounding must not differ between two fusions.
        kernel = lax.optimization_barrier(kernel)
        axes = (1, 0, 3, 2) if self.outputs == "full" else (1, 0, 2)[: kernel.ndim]
        return (kernel + kernel.transpose(axes)) / 2
