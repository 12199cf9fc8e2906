"""Lipschitz constant of the Jacobian of a program, in balls about its parameters."""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.extend.core as jex
import numpy as np

from lazyjax.activations import ActivationSpec
from lazyjax.certify.arithmetic.matrices import eig_max_upper
from lazyjax.certify.arithmetic.rounding import UNIT_ROUNDOFF
from lazyjax.certify.bounds.program.derivatives import (
    Growth,
    Operand,
    activated,
    bounded,
    growth_of,
    normalized,
    of_known_function,
)
from lazyjax.certify.bounds.program.enclosing.enclosure import Enclosure, exact
from lazyjax.certify.bounds.program.enclosing.interpreter import enclosures
from lazyjax.certify.bounds.program.growth import UP
from lazyjax.certify.bounds.program.known.calls import activation_of, known_function
from lazyjax.certify.bounds.program.known.patterns import Bounded, Normalization
from lazyjax.certify.bounds.program.reading import ExampleProgram, inputs_of, variables
from lazyjax.certify.bounds.program.spans import Span
from lazyjax.jaxpr.equations import evaluate, opened


@dataclasses.dataclass(frozen=True, eq=False)
class ProgramLipschitz:
    """Lipschitz constant of a program's Jacobian; grows with the radius by its rules.

    Attributes:
        program: The program of one example.
        spans: What is known of its variables at the centre.
        num_examples: Number of examples.
    """

    program: ExampleProgram
    spans: Mapping[Any, Span]
    num_examples: int
    _found: dict[float, float] = dataclasses.field(default_factory=dict)

    def __call__(self, radius: float) -> float:
        """Upper bound in a ball of `radius`; infinity where nothing is known."""
        if radius not in self._found:
            self._found[radius] = self._at(radius)
        return self._found[radius]

    def _at(self, radius: float) -> float:
        growth = self.growth(radius)
        if growth is None:
            return 0.0
        # Examples are side by side, and so are their bounds.
        repeats = self.num_examples if len(growth.second) == 1 else 1
        with np.errstate(all="ignore"):
            matrix = np.sqrt(np.sum(growth.second**2, axis=0) * repeats) * UP
            matrix = np.maximum(matrix, matrix.T)
            if not matrix.any():
                return 0.0
            found = eig_max_upper(matrix, UNIT_ROUNDOFF) * UP
        return found if found < math.inf else math.inf

    def growth(self, radius: float) -> Growth | None:
        """Bounds of the derivatives of the outputs, for each example."""
        return self.growths(radius).get(self.program.result)

    def growths(self, radius: float) -> dict[Any, Growth]:
        """Bounds of the derivatives of all variables that move, for each example.

        Args:
            radius: Of the ball.

        Returns:
            The bounds.
        """
        program = self.program
        jaxpr, _ = opened(program.closed)
        number = len(program.trained)
        found: dict[Any, Growth] = {}
        for position, leaf in enumerate(program.trained):
            first = np.zeros((1, number))
            first[0, position] = 1.0
            second = np.zeros((1, number, number))
            found[jaxpr.invars[leaf]] = Growth(first, second)

        def operand(atom: Any) -> Operand:
            if isinstance(atom, jex.Literal):
                known = exact(np.asarray(atom.val)[None])
                return Operand(Span(known, is_shared=True), None, radius)
            return Operand(self.spans[atom], found.get(atom), radius)

        with np.errstate(all="ignore"):
            for eqn in program.steps:
                operands = [operand(v) for v in inputs_of(eqn, program.patterns)]
                growth = self._of_equation(eqn, operands)
                if growth is not None:
                    found.update(dict.fromkeys(eqn.outvars, growth))
        return found

    def _of_equation(self, eqn: jex.JaxprEqn, operands: list[Operand]) -> Growth | None:
        pattern = self.program.patterns.get(eqn.outvars[0])
        if isinstance(pattern, Bounded):
            return bounded(operands[0], pattern.slope, pattern.curvature)
        if isinstance(pattern, Normalization):
            return normalized(operands[0], self.spans[pattern.scale], pattern.divisor)
        found = self._calls.get(eqn.outvars[0])
        if found is None:
            return growth_of(eqn, operands)
        if isinstance(found, str):
            return of_known_function(found, operands)
        moving = [part for part in operands if part.growth is not None]
        return activated(found, moving[0]) if moving else None

    @functools.cached_property
    def _calls(self) -> dict[Any, ActivationSpec | str]:
        """What calls compute: an activation, or a function of JAX, by name."""
        jaxpr, _ = opened(self.program.closed)
        with jax.enable_x64(True):
            named = {
                eqn.outvars[0]: activation_of(eqn, jaxpr.debug_info)
                or known_function(eqn, jaxpr.debug_info)
                for eqn in self.program.steps
            }
        return {variable: found for variable, found in named.items() if found}


def spans_of(
    program: ExampleProgram, leaves: Sequence[np.ndarray], x: np.ndarray
) -> dict[Any, Span]:
    """What is known at the centre of the variables that bounds are read from.

    Args:
        program: The program of one example.
        leaves: Leaves of the parameters.
        x: All examples.

    Returns:
        By variable: its values for all examples.
    """
    jaxpr, consts = opened(program.closed)
    chosen = list(dict.fromkeys([*variables(program), program.result]))
    is_own = [v in program.of_example for v in chosen]

    def values(leaves: Sequence[Any], row: Any) -> list[Any]:
        known = dict(zip(jaxpr.invars, (*leaves, row), strict=True))
        known.update(zip(jaxpr.constvars, consts, strict=True))
        for eqn in jaxpr.eqns:
            operands = (
                v.val if isinstance(v, jex.Literal) else known[v] for v in eqn.invars
            )
            results = evaluate(eqn, jaxpr.debug_info, *operands)
            known.update(zip(eqn.outvars, results, strict=True))
        return [known[v] for v in chosen]

    with jax.enable_x64(True):
        run = jax.vmap(
            values, in_axes=(None, 0), out_axes=[0 if own else None for own in is_own]
        )
        batched = jax.make_jaxpr(run)(list(leaves), x)
    arguments = [exact(leaf) for leaf in (*leaves, x)]
    found = enclosures(batched, arguments)
    return {
        variable: Span(known if own else _with_axis(known), is_shared=not own)
        for variable, known, own in zip(chosen, found, is_own, strict=True)
    }


def _with_axis(known: Enclosure) -> Enclosure:
    radius = known.radius
    return Enclosure(known.value[None], radius[None] if radius.ndim else radius)
