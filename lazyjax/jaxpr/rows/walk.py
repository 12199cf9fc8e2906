"""The programs of batches of two sizes and of a single row, walked together."""

from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.extend.core as jex
import numpy as np

from lazyjax.jaxpr.equations import aval_of, is_jaxpr, live_equations, opened
from lazyjax.jaxpr.labels import FIXED, UNKNOWN, EquationPair, Label, fits
from lazyjax.jaxpr.registry import primitive_of
from lazyjax.jaxpr.rows.control_flow import has_derivative_rule, nested_rule
from lazyjax.jaxpr.rows.derivatives import derivatives_of
from lazyjax.jaxpr.rows.scope import (
    Scope,
    StructureMismatchError,
    constant_label,
    require,
    same_values,
)
from lazyjax.jaxpr.rows.single import compared_params, is_same_action, keeps_core

# A derivative rule that is not known to be linear, and must be to act row by row.
_OPAQUE = frozenset({"custom_lin", "custom_transpose_call", "linear_call"})


class Walk:
    """The programs of batches of two sizes and of a single row, walked together."""

    def __init__(self, sizes: tuple[int, int], *, is_derived: bool = False) -> None:
        self.sizes = sizes
        # In a derivative, calls with a rule for one are only evaluated.
        self.is_derived = is_derived
        # Of calls with a rule for one, by equation: a jaxpr may be walked again.
        self.derivatives: dict[int, Any] = {}

    def closed(self, programs: Sequence[Any], labels: Sequence[Label]) -> list[Label]:
        """Labels of the results of three jaxprs, from those of their arguments."""
        jaxprs, consts = zip(*map(opened, programs), strict=True)
        a, b, c = jaxprs
        require(len({len(jaxpr.invars) for jaxpr in jaxprs} | {len(labels)}) == 1)
        require(len({*map(len, consts), *(len(j.constvars) for j in jaxprs)}) == 1)
        scope = Scope(self.sizes)
        for *variables, label in zip(*(j.invars for j in jaxprs), labels, strict=True):
            scope.bind(variables[:2], label)
            scope.bind_single(variables[0], variables[2])
        constants = zip(*(j.constvars for j in jaxprs), *consts, strict=True)
        for *variables, value, other, alone in constants:
            scope.bind(variables[:2], constant_label(value, other, alone))
            scope.bind_single(variables[0], variables[2])
        require(not any(jaxpr.effects for jaxpr in jaxprs))
        equations = [live_equations(jaxpr) for jaxpr in jaxprs]
        require(len(equations[0]) == len(equations[1]))
        if not self.is_derived:
            self.find_derivatives(
                (jaxpr.debug_info, eqn)
                for jaxpr, eqns in zip(jaxprs, equations, strict=True)
                for eqn in filter(has_derivative_rule, eqns)
            )
        rest = equations[2][::-1]
        for eqns in zip(*equations[:2], strict=True):
            require(eqns[0].primitive is eqns[1].primitive)
            require(len(eqns[0].invars) == len(eqns[1].invars))
            operands = zip(*(eqn.invars for eqn in eqns), strict=True)
            pair = EquationPair(eqns, self.sizes, [scope.read(*v) for v in operands])
            self.equation(pair, rest, scope)
        _skip_views(rest, scope)
        require(not rest)
        results = list(map(scope.read, a.outvars, b.outvars))
        require(all(map(scope.is_single, a.outvars, c.outvars)))
        return results

    def find_derivatives(self, eqns: Iterable[tuple[Any, jex.JaxprEqn]]) -> None:
        """Trace derivatives of equations, given with the debug infos of their jaxprs."""
        new = [(info, eqn) for info, eqn in eqns if id(eqn) not in self.derivatives]
        for (_, eqn), derivative in zip(new, derivatives_of(new), strict=True):
            self.derivatives[id(eqn)] = derivative

    def equation(
        self, pair: EquationPair, rest: list[jex.JaxprEqn], scope: Scope
    ) -> None:
        """Enter the results of one equation, and take its like for one row from `rest`."""
        first = pair.eqns[0]
        nested = nested_rule(first)
        if nested is None:
            label = self.result(pair)
            for variables in zip(*(e.outvars for e in pair.eqns), strict=True):
                scope.bind(variables, label)
            if len(first.invars) == 1 and keeps_core(
                first, scope.shape(first.invars[0]), scope.shape(first.outvars[0])
            ):
                (operand,), (result,) = first.invars, first.outvars
                is_known = isinstance(operand, jex.Literal)
                scope.single[result] = operand if is_known else scope.single[operand]
                return
        _skip_views(rest, scope)
        require(bool(rest))
        single = rest.pop()
        require(single.primitive is first.primitive)
        require(len(single.invars) == len(first.invars))
        require(all(map(scope.is_single, first.invars, single.invars)))
        if nested is None:
            self.check_single(pair, single, scope)
        else:
            labels = nested(self, pair, single)
            outvars = zip(*(e.outvars for e in pair.eqns), strict=True)
            for variables, label in zip(outvars, labels, strict=True):
                scope.bind(variables, label)
        for variables in zip(first.outvars, single.outvars, strict=True):
            scope.bind_single(*variables)

    def check_single(
        self, pair: EquationPair, single: jex.JaxprEqn, scope: Scope
    ) -> None:
        """Check that an equation does to each row what it does to a single one."""
        first = pair.eqns[0]
        compared = compared_params(first)
        params = [
            {key: value for key, value in e.params.items() if key not in compared}
            for e in (first, single)
        ]
        require(self.same(*params))
        operands, results = first.invars, first.outvars
        is_same = is_same_action(
            (first, single),
            (list(map(scope.shape, operands)), list(map(scope.shape, results))),
            (list(map(scope.label, operands)), list(map(scope.label, results))),
            self.sizes[0],
        )
        require(is_same)

    def result(self, pair: EquationPair) -> Label:
        """Label of all results of an equation that is neither call nor control flow."""
        record = primitive_of(pair.eqns[0])
        require(pair.name not in _OPAQUE)
        key = record.batch_param
        first, second = (
            {name: value for name, value in eqn.params.items() if name != key}
            for eqn in pair.eqns
        )
        require(self.same(first, second))
        rule = record.rows
        if all(label is FIXED for label in pair.labels):
            if key is None or self.same(*pair.both(key)):
                return FIXED
            rule = record.created_rows
        found = rule(pair) if rule else None
        return found or UNKNOWN

    def same(self, a: Any, b: Any) -> bool:
        """Whether parameters of equations say the same at both batch sizes."""
        if a is b:
            return True
        if isinstance(a, dict) and isinstance(b, dict):
            return a.keys() == b.keys() and all(self.same(a[key], b[key]) for key in a)
        if isinstance(a, (tuple, list)) and type(a) is type(b):
            return len(a) == len(b) and all(map(self.same, a, b))
        if is_jaxpr(a) and is_jaxpr(b):
            labels = [FIXED] * len(opened(a)[0].invars)
            return all(label is FIXED for label in self.closed((a, b, b), labels))
        if isinstance(a, (np.ndarray, np.generic, jax.Array)):
            return same_values(a, b)
        return type(a) is type(b) and bool(a == b)


def label_of_results(pair: EquationPair) -> Label:
    """Label of all results of an equation without programs; UNKNOWN if it is not known."""
    if UNKNOWN in pair.labels:
        return UNKNOWN
    try:
        label = Walk(pair.sizes).result(pair)
    except StructureMismatchError:
        return UNKNOWN
    results = (pair.result(number) for number in range(len(pair.eqns[0].outvars)))
    return (
        label if all(fits(label, shapes, pair.sizes) for shapes in results) else UNKNOWN
    )


def _skip_views(rest: list[jex.JaxprEqn], scope: Scope) -> None:
    """Leave out what changes nothing but axes of length 1 for a single row."""
    while rest and len(rest[-1].invars) == len(rest[-1].outvars) == 1:
        eqn = rest[-1]
        (operand,), (result,) = eqn.invars, eqn.outvars
        if not keeps_core(eqn, aval_of(operand).shape, aval_of(result).shape):
            return
        scope.viewed[result] = scope.source(operand)
        rest.pop()
