"""Enclosures against 50 digits: each rule, each weaker rule, and whole programs."""

import math

import jax
import numpy as np
import pytest

from lazyjax.certify.bounds.program import jacobian
from lazyjax.certify.bounds.program.enclosing import interpreter
from lazyjax.certify.bounds.program.enclosing.enclosure import (
    Enclosure,
    UnsupportedError,
    exact,
)
from lazyjax.certify.bounds.program.enclosing.rules import RULES
from lazyjax.certify.bounds.program.scalar_functions import SCALAR_FUNCTIONS
from lazyjax.jaxpr.equations import equations
from tests.helpers.enclosing_cases import CASES, traced, violations
from tests.helpers.multiprecision import evaluated, exactly
from tests.helpers.program_functions import start_of
from tests.helpers.program_problems import KINDS, start

pytestmark = pytest.mark.once

RADIUS = 0.05

# Primitives that no rounding happens in.
UNROUNDED = {
    *("neg", "abs", "sign", "max", "min", "clamp", "reduce_max", "reduce_min"),
    *("gt", "ge", "lt", "le", "eq", "ne", "and", "or", "xor", "not", "rem"),
    *("argmax", "unstack", "computed exponents"),
    *("is_finite", "select_n", "convert_element_type", "copy", "stop_gradient"),
    *("name", "optimization_barrier", "reshape", "transpose", "broadcast_in_dim"),
    *("squeeze", "slice", "rev", "dynamic_slice", "gather", "split", "concatenate"),
    *("pad", "dynamic_update_slice", "scatter"),
}
# Rules of other primitives, by one that has the same.
SAME = {
    "add_any": "add",
    "copy_p": "copy",
    "expand_dims": "squeeze",
    "stack": "concatenate",
}
# How much smaller radii and norms may be until a point tells, unless it is 0.9.
LOOSE = {"div": 0.8, "sign": 0.45, "cos": 0.7, "erfc": 0.2}


@pytest.mark.parametrize("name", CASES)
def test_enclosures_hold_what_50_digits_say(name):
    assert name in {"computed exponents"} | {
        eqn.primitive.name for eqn in equations(traced(name))
    }
    for radius in (0.0, RADIUS):
        assert not violations(name, radius)


def weakened(name, change):
    """All rules but one as they are."""
    original = interpreter._results

    def results(eqn, operands):
        found = original(eqn, operands)
        if eqn.primitive.name != name:
            return found
        return [change(part) for part in found]

    return results


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*CASES} - {"is_finite", "computed exponents"}))
def test_smaller_enclosures_are_noticed(name, monkeypatch):
    factor = LOOSE.get(name, 0.9)

    def smaller(part):
        if not part.is_float:
            return exact(part.value)
        return part._replace(radius=part.radius * factor, norm=part.norm * factor)

    monkeypatch.setattr(interpreter, "_results", weakened(name, smaller))
    assert violations(name, RADIUS)


@pytest.mark.parametrize("name", sorted({*CASES} - UNROUNDED))
def test_rounding_that_is_left_out_is_noticed(name, monkeypatch):
    monkeypatch.setattr(
        interpreter, "_results", weakened(name, lambda part: exact(part.value))
    )
    assert violations(name, 0.0)


def test_what_may_be_infinite_is_refused():
    known = Enclosure(np.ones(5), np.full(5, np.inf))
    with pytest.raises(UnsupportedError, match="is_finite"):
        interpreter.enclosures(traced("is_finite"), [known])


def test_every_rule_has_a_case():
    """A rule that is added later has to be added here as well."""
    assert {*CASES, *SAME} - {"computed exponents"} == {
        *RULES,
        *SCALAR_FUNCTIONS,
        "integer_pow",
    }
    assert all(RULES[name] is RULES[other] for name, other in SAME.items())


# Whole programs.


def check_program(kind, seed):
    """Check that outputs and Jacobian of a network are where they are said to be."""
    params, x = start(kind, seed)
    found = start_of(KINDS[kind], params, x)
    leaves = [*jax.tree.leaves(found.params), x]
    program, _ = jacobian._traced(found.program, leaves[:-1], x)
    known = interpreter.enclosures(program, [exact(leaf) for leaf in leaves])
    square = 0.0
    for part, value in zip(
        known, evaluated(program, list(map(exactly, leaves))), strict=True
    ):
        off = np.abs(exactly(part.value) - value)
        assert np.all(off <= exactly(np.broadcast_to(part.radius, off.shape)))
        square += float(np.sum(off * off))
    assert math.sqrt(square) <= found.jacobian.error < 1e-9
    value, error = found.outputs
    fixed = list(map(exactly, leaves[:-1]))
    rows = [evaluated(found.program.closed, [*fixed, exactly(row)])[0] for row in x]
    off = exactly(value) - np.stack(rows)
    assert math.sqrt(float(np.sum(off * off))) <= error < 1e-10


def test_a_program_is_enclosed_in_50_digits():
    check_program("recurrent", 0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_programs_are_enclosed_in_50_digits(kind):
    for seed in range(8):
        check_program(kind, seed)
