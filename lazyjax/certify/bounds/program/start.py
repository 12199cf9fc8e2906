"""A function at one point, with data: bounds read from its program."""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Shaped

from lazyjax._brief import summary
from lazyjax._checks import (
    check_batch,
    check_finite,
    check_floating,
    check_params,
    check_targets,
)
from lazyjax.certify.arithmetic.rounding import UNIT_ROUNDOFF
from lazyjax.certify.bounds.branches import Residual, residual_from
from lazyjax.certify.bounds.local import JacobianBlock, LocalBounds, premises_of
from lazyjax.certify.bounds.program.agreement import check_gradient, check_outputs
from lazyjax.certify.bounds.program.enclosing.enclosure import UnsupportedError
from lazyjax.certify.bounds.program.jacobian import Jacobian, jacobian_of
from lazyjax.certify.bounds.program.lipschitz import ProgramLipschitz, spans_of
from lazyjax.certify.bounds.program.reading import ExampleProgram, read_program
from lazyjax.certify.bounds.singular_values import (
    newton_norm_upper,
    sigma_max_upper,
    sigma_min_lower,
)
from lazyjax.certify.certificate import Rigor
from lazyjax.certify.statements import Assumption, conflict_of
from lazyjax.jaxpr.rows.independence import rows_are_independent
from lazyjax.typing import AnyArray, ApplyFn, Params


@dataclasses.dataclass(frozen=True)
class ProgramStart:
    """A function at one point, with its data.

    Attributes:
        apply_fn: The function.
        params: The point, in float64.
        x: Inputs.
        given: The point and inputs in the precision in which they came.
        targets: Targets.
        rigor: "proof" or "float"; rounding is accounted for in either.
    """

    apply_fn: ApplyFn
    params: Params
    x: Shaped[np.ndarray, "n *d"]
    targets: Float[np.ndarray, "n k"]
    rigor: Rigor
    given: tuple[Params, AnyArray]

    def __repr__(self) -> str:
        return summary(self, apply_fn=self.apply_fn, params=self.params, x=self.x)

    @property
    def smooth(self) -> Assumption:
        """That the function is smooth; where it is not, it is refused."""
        _ = self.program
        return Assumption(
            name="smooth",
            statement="the function's derivative is Lipschitz near the start",
            holds=True,
            detail="read from its program",
        )

    @property
    def first_layer(self) -> Assumption:
        """The assumption that flips can be counted, which needs a description."""
        return Assumption(
            name="first layer",
            statement="one hidden layer of ReLU units or the like, the first layer "
            "trained",
            holds=False,
            detail="read from its program",
        )

    @property
    def outputs(self) -> tuple[Float[np.ndarray, "n k"], float]:
        """What the function computes, and the norm of its error."""
        known = self.lipschitz.spans[self.program.result].known
        repeats = math.sqrt(self.targets.size / known.value.size)
        error = known.error * repeats * (1 + 2.0**-40)
        return np.broadcast_to(known.value, self.targets.shape), error

    @functools.cached_property
    def _leaves(self) -> list[np.ndarray]:
        return jax.tree.leaves(self.params)

    @functools.cached_property
    def program(self) -> ExampleProgram:
        """The program of one example, of rows that do not interact."""
        with jax.enable_x64(True):
            if not rows_are_independent(
                self.apply_fn, self.params, jnp.asarray(self.x)
            ):
                raise ValueError(
                    "`apply_fn` must be proven by its program to treat the rows of `x` "
                    "apart, to be certified; it is not."
                )
            example = jax.ShapeDtypeStruct(self.x.shape[1:], self.x.dtype)
            with _named():
                return read_program(self.apply_fn, self.params, example)

    @functools.cached_property
    def lipschitz(self) -> ProgramLipschitz:
        """Lipschitz constant of the Jacobian, by the radius of a ball."""
        with _named():
            spans = spans_of(self.program, self._leaves, self.x)
            constant = ProgramLipschitz(self.program, spans, len(self.x))
            constant(0.0)  # refuses what has no rule
        known = spans[self.program.result].known
        enclosed = [np.broadcast_to(part, self.targets.shape) for part in known[:2]]
        for point in ((self.params, self.x), self.given):
            check_outputs(self.apply_fn, *point, *enclosed)
        return constant

    @functools.cached_property
    def residual(self) -> Residual:
        """Outputs minus targets."""
        return residual_from(*self.outputs, self.targets, UNIT_ROUNDOFF)

    @functools.cached_property
    def jacobian(self) -> Jacobian:
        """The Jacobian on all examples."""
        with _named():
            found = jacobian_of(self.program, self._leaves, self.x)
        check_gradient(self.apply_fn, self.params, self.x, self.program.trained, found)
        return found

    @functools.cached_property
    def conflict(self) -> Assumption | None:
        """The first two equal inputs with different targets, if there are any."""
        return conflict_of(self.x.reshape(len(self.x), -1), self.targets)

    @functools.cached_property
    def local(self) -> LocalBounds:
        """Bounds that theorems read."""
        with np.errstate(all="ignore"):  # what overflows certifies nothing
            lipschitz, residual = self.lipschitz, self.residual
            gram = self.jacobian.kernel()
            sigma_min = sigma_min_lower(gram, UNIT_ROUNDOFF)
            newton_norm = newton_norm_upper(
                gram,
                residual.value.reshape(-1),
                residual.error,
                sigma_min,
                UNIT_ROUNDOFF,
            )
            return LocalBounds(
                residual=residual.norm,
                jacobian_norm=sigma_max_upper(gram, UNIT_ROUNDOFF),
                lipschitz=lipschitz,
                blocks=(
                    JacobianBlock(name="all", sigma_min=sigma_min, lipschitz=lipschitz),
                ),
                newton_norm=newton_norm,
                rigor=self.rigor,
                conflict=self.conflict,
                premises=premises_of(self.rigor),
            )


@contextlib.contextmanager
def _named() -> Iterator[None]:
    """Errors about programs as errors about the argument that they came with."""
    try:
        yield
    except UnsupportedError as error:
        raise UnsupportedError(
            "`apply_fn` must be a smooth function that bounds are known of, to be "
            f"certified; its program has {error}."
        ) from error


def program_start(
    apply_fn: ApplyFn, params: Params, x: AnyArray, y: AnyArray, rigor: Rigor
) -> ProgramStart:
    """A function at one point with its data, checked.

    Args:
        apply_fn: The function.
        params: The point; taken as the real numbers that they are.
        x: Inputs.
        y: Targets.
        rigor: "proof" or "float".

    Returns:
        The start. Its bounds are computed when they are asked for.

    Raises:
        ValueError: If shapes do not fit, or a number is not finite.
        TypeError: If parameters or targets are not floating point.
    """
    check_params("params", params)
    check_batch("x", x)
    check_floating("y", y)
    wide = jax.tree.map(widened, params)
    for leaf in jax.tree.leaves(wide):
        check_finite("params", leaf)
    inputs = widened(x)
    with jax.enable_x64(True):
        outputs = jax.eval_shape(apply_fn, wide, inputs)
    if getattr(outputs, "ndim", None) != 2 or outputs.shape[0] != len(inputs):
        raise ValueError(
            "`apply_fn` must return outputs of shape (n, k), here "
            f"({len(inputs)}, k); got {getattr(outputs, 'shape', type(outputs).__name__)}."
        )
    check_targets("y", y, len(inputs), outputs.shape[1])
    return ProgramStart(
        apply_fn, wide, inputs, np.asarray(y, np.float64), rigor, (params, x)
    )


def widened(leaf: AnyArray) -> np.ndarray:
    """Floating-point numbers in float64, others as they are."""
    array = np.asarray(leaf)
    return (
        array.astype(np.float64) if jnp.issubdtype(array.dtype, jnp.floating) else array
    )
