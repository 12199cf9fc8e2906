"""Proof, from its program alone, that a network treats the rows of a batch apart.

The network is traced with batches of two sizes, and with a single row. The programs are
walked together: for every value it is found out whether an axis of it enumerates rows
(see `_rows_rules`), and whether what belongs to one row is what the program of a single
row computes (see `_rows_single`). What is not understood is not proven. The derivative
of a function of one row is one, so that only custom rules for derivatives need to be
walked, too.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped

from lazyjax.jaxpr.equations import (
    aval_of,
    called,
    is_jaxpr,
    is_smooth,
    of_smooth_operands,
    opened,
    operands_of,
    scan_counts,
)
from lazyjax.jaxpr.row_rules import (
    FIXED,
    RULES,
    SIZED,
    UNKNOWN,
    Label,
    Rows,
    Twins,
    created,
    fits,
)
from lazyjax.jaxpr.single_rows import (
    core,
    is_same_action,
    is_view,
    named,
    shape_of_row,
)
from lazyjax.typing import ApplyFn, Params

# Calls with a rule of their own for the derivative.
_CUSTOM_CALLS = frozenset({"custom_jvp_call", "custom_vjp_call"})
# A derivative rule that is not known to be linear, and must be to act row by row.
_OPAQUE = frozenset({"custom_lin", "custom_transpose_call", "linear_call"})


def rows_are_independent(
    apply_fn: ApplyFn, params: Params, x: Shaped[Array, "n *d"]
) -> bool:
    """Whether it is proven that rows of outputs are one function of their rows of `x`.

    Proven is, for batches as large as `x` (or 2, if larger) and one row larger: outputs
    at row r, and their derivatives by `params`, are those of a batch that holds row r
    of `x` alone. A network that asks in Python for the size of its batch may do
    otherwise at other sizes.

    Args:
        apply_fn: Network.
        params: Its parameters; only their shapes and dtypes are used.
        x: Batch; only its shape and dtype are used.

    Returns:
        Whether rows are proven not to interact. False says nothing.

    Example:
        >>> import jax.numpy as jnp
        >>> w, x = jnp.ones((3, 2)), jnp.ones((4, 3))
        >>> rows_are_independent(lambda w, x: jnp.tanh(x @ w), w, x)
        True
        >>> rows_are_independent(lambda w, x: (x - x.mean(0)[None]) @ w, w, x)
        False
    """
    size = max(2, x.shape[0])
    sizes = (size, size + 1)
    leaves, structure = jax.tree.flatten(params)
    like = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]

    def of_leaves(leaves: list[Array], x: Array) -> Array:
        return apply_fn(jax.tree.unflatten(structure, leaves), x)

    def traced(num_rows: int) -> Any:
        batch = jax.ShapeDtypeStruct((num_rows, *x.shape[1:]), x.dtype)
        return jax.make_jaxpr(of_leaves)(like, batch)

    labels: list[Label] = [*(FIXED for _ in leaves), Rows(0)]
    try:
        programs = [traced(n) for n in (*sizes, 1)]
        results = _Walk(sizes).closed(programs, labels)
    except (_UnlikeError, TypeError, ValueError, NotImplementedError):
        # Or no derivative in forward mode, or no network for batches of any size.
        return False
    return all(label == Rows(0) for label in results)


def _derivative(eqn: jex.JaxprEqn, debug_info: Any) -> Any:
    """Results of an equation and their tangents, from its operands and theirs."""

    def derivative(values: list[Array], tangents: list[Array]) -> Any:
        run, chosen = of_smooth_operands(eqn, debug_info, values)
        results, changes = jax.jvp(run, (chosen,), (tangents,))
        moved = zip(eqn.outvars, changes, strict=True)
        return results, [change for v, change in moved if is_smooth(v)]

    operands = operands_of(eqn)
    return jax.make_jaxpr(derivative)(
        [aval_of(v) for v in operands], [aval_of(v) for v in operands if is_smooth(v)]
    )


class _UnlikeError(Exception):
    """Programs that are not known to be the same but for the batch size."""


class _Scope:
    """What is known of the variables of three jaxprs that are walked together."""

    def __init__(self, sizes: tuple[int, int]) -> None:
        self.sizes = sizes
        self.known: dict[Any, Label] = {}
        # By the variable of the other program: that of the first.
        self.twin: dict[Any, Any] = {}
        # By the variable of the first program: what its part for one row is in that of a
        # single row.
        self.single: dict[Any, Any] = {}
        # By a variable there: what it is, but for axes of length 1.
        self.root: dict[Any, Any] = {}

    def bind(self, pair: Sequence[Any], label: Label) -> None:
        """Enter the variables of the two batches that have this label."""
        first, second = pair
        same_dtype = first.aval.dtype == second.aval.dtype
        shapes = (first.aval.shape, second.aval.shape)
        _require(label is not UNKNOWN and same_dtype)
        _require(fits(label, shapes, self.sizes))
        self.known[first], self.twin[second] = label, first

    def bind_single(self, first: Any, single: Any) -> None:
        """Enter what a variable is in the program of a single row."""
        _require(core(self.shape(first)) == core(single.aval.shape))
        _require(first.aval.dtype == single.aval.dtype)
        self.single[first] = self.rooted(single)

    def rooted(self, single: Any) -> Any:
        """What an atom of the program of a single row is, but for axes of length 1."""
        if isinstance(single, jex.Literal):
            return single
        return self.root.get(single, single)

    def label(self, atom: Any) -> Label:
        """Label of an atom of the first program."""
        return FIXED if isinstance(atom, jex.Literal) else self.known[atom]

    def read(self, first: Any, second: Any) -> Label:
        """Label of operands of both batches, which are the same."""
        if isinstance(first, jex.Literal):
            _require(isinstance(second, jex.Literal))
            _require(_same_values(first.val, second.val))
            return FIXED
        _require(not isinstance(second, jex.Literal) and self.twin[second] is first)
        return self.known[first]

    def shape(self, atom: Any) -> tuple[int, ...]:
        """Shape of what belongs to one row."""
        return shape_of_row(self.label(atom), aval_of(atom).shape, self.sizes[0])

    def is_single(self, first: Any, single: Any) -> bool:
        """Whether an operand is, for one row, that of the program of a single row."""
        if not isinstance(first, jex.Literal):
            first = self.single[first]
        single = self.rooted(single)
        if isinstance(first, jex.Literal) and isinstance(single, jex.Literal):
            return _same_values(np.ravel(first.val), np.ravel(single.val))
        return first is single


class _Walk:
    """The programs of batches of two sizes and of a single row, walked together."""

    def __init__(self, sizes: tuple[int, int], *, is_derived: bool = False) -> None:
        self.sizes = sizes
        # In a derivative, calls with a rule for one are only evaluated.
        self.is_derived = is_derived
        # Functions that are used again are so by the same equations.
        self.derivatives: dict[int, Any] = {}

    def derivative(self, eqn: jex.JaxprEqn, debug_info: Any) -> Any:
        """Jaxpr of a custom call's results and their tangents."""
        if id(eqn) not in self.derivatives:
            self.derivatives[id(eqn)] = _derivative(eqn, debug_info)
        return self.derivatives[id(eqn)]

    def closed(self, programs: Sequence[Any], labels: Sequence[Label]) -> list[Label]:
        """Labels of the results of three jaxprs, from those of their arguments."""
        jaxprs, consts = zip(*map(opened, programs), strict=True)
        a, b, c = jaxprs
        _require(len({len(jaxpr.invars) for jaxpr in jaxprs} | {len(labels)}) == 1)
        _require(len({*map(len, consts), *(len(j.constvars) for j in jaxprs)}) == 1)
        scope = _Scope(self.sizes)
        for *variables, label in zip(*(j.invars for j in jaxprs), labels, strict=True):
            scope.bind(variables[:2], label)
            scope.bind_single(variables[0], variables[2])
        constants = zip(*(j.constvars for j in jaxprs), *consts, strict=True)
        for *variables, value, other, alone in constants:
            scope.bind(variables[:2], _constant(value, other, alone))
            scope.bind_single(variables[0], variables[2])
        _require(not any(jaxpr.effects for jaxpr in jaxprs))
        equations = [_live_equations(jaxpr) for jaxpr in jaxprs]
        _require(len(equations[0]) == len(equations[1]))
        rest = equations[2][::-1]
        for eqns in zip(*equations[:2], strict=True):
            _require(eqns[0].primitive is eqns[1].primitive)
            _require(len(eqns[0].invars) == len(eqns[1].invars))
            operands = zip(*(eqn.invars for eqn in eqns), strict=True)
            found = Twins(eqns, self.sizes, [scope.read(*pair) for pair in operands])
            debug_infos = [jaxpr.debug_info for jaxpr in jaxprs]
            self.equation(found, rest, scope, debug_infos)
        _skip_views(rest, scope)
        _require(not rest)
        results = list(map(scope.read, a.outvars, b.outvars))
        _require(all(map(scope.is_single, a.outvars, c.outvars)))
        return results

    def equation(
        self, eqn: Twins, rest: list[jex.JaxprEqn], scope: _Scope, debug_infos: list
    ) -> None:
        """Enter the results of one equation, and take its like for one row from `rest`."""
        first = eqn.eqns[0]
        nested = self.nested(eqn)
        if nested is None:
            label = self.result(eqn)
            for pair in zip(*(e.outvars for e in eqn.eqns), strict=True):
                scope.bind(pair, label)
            if len(first.invars) == 1 and is_view(
                first, scope.shape(first.invars[0]), scope.shape(first.outvars[0])
            ):
                (operand,), (result,) = first.invars, first.outvars
                is_known = isinstance(operand, jex.Literal)
                scope.single[result] = operand if is_known else scope.single[operand]
                return
        _skip_views(rest, scope)
        _require(bool(rest))
        single = rest.pop()
        _require(single.primitive is first.primitive)
        _require(len(single.invars) == len(first.invars))
        _require(all(map(scope.is_single, first.invars, single.invars)))
        if nested is None:
            self.check_single(eqn, single, scope)
        else:
            labels = nested(eqn, single, debug_infos)
            outvars = zip(*(e.outvars for e in eqn.eqns), strict=True)
            for pair, label in zip(outvars, labels, strict=True):
                scope.bind(pair, label)
        for pair in zip(first.outvars, single.outvars, strict=True):
            scope.bind_single(*pair)

    def nested(self, eqn: Twins) -> Callable[..., list[Label]] | None:
        """How labels are found of an equation that has programs of its own, if it has."""
        if called(eqn.eqns[0]) is not None:
            return self.call
        if eqn.name in _CUSTOM_CALLS:
            return self.custom
        others = {
            "cond": self.cond,
            "scan": self.scan,
            "while": self.while_loop,
            "optimization_barrier": lambda eqn, *_: list(eqn.labels),
        }
        return others.get(eqn.name)

    def check_single(self, eqn: Twins, single: jex.JaxprEqn, scope: _Scope) -> None:
        """Check that an equation does to each row what it does to a single one."""
        first = eqn.eqns[0]
        compared = named(first)
        params = [
            {key: value for key, value in e.params.items() if key not in compared}
            for e in (first, single)
        ]
        _require(self.same(*params))
        operands, results = first.invars, first.outvars
        is_same = is_same_action(
            (first, single),
            (list(map(scope.shape, operands)), list(map(scope.shape, results))),
            (list(map(scope.label, operands)), list(map(scope.label, results))),
            self.sizes[0],
        )
        _require(is_same)

    def result(self, eqn: Twins) -> Label:
        """Label of all results of an equation that is neither call nor control flow."""
        _require(eqn.name not in _OPAQUE)
        sized = SIZED.get(eqn.name)
        params_a, params_b = (dict(e.params) for e in eqn.eqns)
        free = (params_a.pop(sized, None), params_b.pop(sized, None)) if sized else ()
        _require(self.same(params_a, params_b))
        if all(label is FIXED for label in eqn.labels):
            return FIXED if not free or self.same(*free) else created(eqn)
        rule = RULES.get(eqn.name)
        found = rule(eqn) if rule else None
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
            return _same_values(a, b)
        return type(a) is type(b) and bool(a == b)

    # Equations with programs of their own. Each is given the equation of a single row.

    def call(self, eqn: Twins, single: jex.JaxprEqn, _: list) -> list[Label]:
        """Labels of the results of a mere call."""
        jaxprs = [called(e) for e in (*eqn.eqns, single)]
        try:
            return self.closed(jaxprs, eqn.labels)
        except _UnlikeError:
            names = {e.params.get("name") for e in (*eqn.eqns, single)}
            _require(names == {"take_along_axis"})
            return [_taken_along_axis(eqn, single)]

    def custom(
        self, eqn: Twins, single: jex.JaxprEqn, debug_infos: list
    ) -> list[Label]:
        """Labels of the results of a call that has a rule for its derivative."""
        eqns = (*eqn.eqns, single)
        labels = self.closed([e.params["call_jaxpr"] for e in eqns], eqn.labels)
        if self.is_derived:
            return labels
        derivatives = list(map(self.derivative, eqns, debug_infos))
        operands = zip(eqn.eqns[0].invars, eqn.labels, strict=True)
        known = {
            atom: label for atom, label in operands if not isinstance(atom, jex.Literal)
        }
        moved = [label for atom, label in known.items() if is_smooth(atom)]
        derived = _Walk(self.sizes, is_derived=True)
        found = derived.closed(derivatives, [*known.values(), *moved])
        smooth = map(is_smooth, eqn.eqns[0].outvars)
        tangents = [label for label, s in zip(labels, smooth, strict=True) if s]
        _require(found == [*labels, *tangents])
        return labels

    def cond(self, eqn: Twins, single: jex.JaxprEqn, _: list) -> list[Label]:
        """Labels of what a branch gives that is chosen for all rows at once."""
        index, *operands = eqn.labels
        _require(index is FIXED)
        branches = zip(*_of_all(eqn, single, "branches"), strict=True)
        labels, *others = [self.closed(cases, operands) for cases in branches]
        _require(all(other == labels for other in others))
        return labels

    def scan(self, eqn: Twins, single: jex.JaxprEqn, _: list) -> list[Label]:
        """Labels of the results of a loop, over rows or over anything else."""
        jaxprs = _of_all(eqn, single, "jaxpr")
        keys = eqn.params.keys() - {"jaxpr", "length", "linear", "_split_transpose"}
        for key in keys:
            values = _of_all(eqn, single, key)
            _require(all(self.same(values[0], other) for other in values[1:]))
        num_consts, num_carry = scan_counts(eqn.eqns[0])
        for e in (eqn.eqns[1], single):
            _require(scan_counts(e) == (num_consts, num_carry))
        consts = eqn.labels[:num_consts]
        carry = list(eqn.labels[num_consts : num_consts + num_carry])
        scanned = eqn.labels[num_consts + num_carry :]
        lengths = _of_all(eqn, single, "length")
        if lengths == (*self.sizes, 1):
            # A loop over rows, each by itself: in the body there is one, and no batch.
            _require(not num_carry and set(scanned) == {Rows(0)})
            results = self.closed(jaxprs, [*consts, *(FIXED for _ in scanned)])
            _require(set(results) == {FIXED})
            return [Rows(0)] * len(results)
        _require(len(set(lengths)) == 1)
        pieces = [_moved(label, -1) for label in scanned]
        results = self.closed(jaxprs, [*consts, *carry, *pieces])
        _require(results[:num_carry] == carry)
        return [*carry, *(_moved(label, 1) for label in results[num_carry:])]

    def while_loop(self, eqn: Twins, single: jex.JaxprEqn, _: list) -> list[Label]:
        """Labels of the results of a loop that goes on for all rows alike."""
        counts = []
        for key in ("cond_nconsts", "body_nconsts"):
            values = _of_all(eqn, single, key)
            _require(len(set(values)) == 1)
            counts.append(values[0])
        num_cond, num_body = counts
        cond_consts = eqn.labels[:num_cond]
        body_consts = eqn.labels[num_cond : num_cond + num_body]
        carry = list(eqn.labels[num_cond + num_body :])
        bodies, conditions = (
            _of_all(eqn, single, key) for key in ("body_jaxpr", "cond_jaxpr")
        )
        _require(self.closed(bodies, [*body_consts, *carry]) == carry)
        _require(self.closed(conditions, [*cond_consts, *carry]) == [FIXED])
        return carry


def _of_all(eqn: Twins, single: jex.JaxprEqn, key: str) -> tuple[Any, Any, Any]:
    """A parameter of an equation at both batch sizes and for a single row."""
    return *eqn.both(key), single.params[key]


def _taken_along_axis(eqn: Twins, single: jex.JaxprEqn) -> Label:
    """Label of what `jnp.take_along_axis` takes, if this is what is called.

    Its program is another one where an axis is of length 1.

    Args:
        eqn: The call at both batch sizes.
        single: The call for a single row.

    Returns:
        The label.
    """
    rows = eqn.common
    eqns = (*eqn.eqns, single)
    if rows is None or len(eqn.labels) != 2 or FIXED in eqn.labels:
        return UNKNOWN
    avals = [[aval_of(v) for v in e.invars] for e in eqns]
    for axis in range(len(eqn.result()[0])):
        take = functools.partial(jnp.take_along_axis, axis=axis)
        known = [jax.make_jaxpr(take)(*of_size).eqns[0] for of_size in avals]
        programs = [[str(called(e)) for e in some] for some in (known, eqns)]
        if axis != rows.axis and programs[0] == programs[1]:
            return rows
    return UNKNOWN


def _skip_views(rest: list[jex.JaxprEqn], scope: _Scope) -> None:
    """Leave out what changes nothing but axes of length 1 for a single row."""
    while rest and len(rest[-1].invars) == len(rest[-1].outvars) == 1:
        eqn = rest[-1]
        (operand,), (result,) = eqn.invars, eqn.outvars
        if not is_view(eqn, aval_of(operand).shape, aval_of(result).shape):
            return
        scope.root[result] = scope.rooted(operand)
        rest.pop()


def _live_equations(jaxpr: jex.Jaxpr) -> list[jex.JaxprEqn]:
    """Equations that results depend on, in order."""
    wanted = {v for v in jaxpr.outvars if not isinstance(v, jex.Literal)}
    live = []
    for eqn in reversed(jaxpr.eqns):
        if any(v in wanted for v in eqn.outvars):
            wanted.update(operands_of(eqn))
            live.append(eqn)
    return live[::-1]


def _moved(label: Label, by: int) -> Label:
    """A label once the first axis is taken away, or a new one is put before it."""
    if not isinstance(label, Rows):
        return label
    return Rows(label.axis + by, label.inner) if label.axis + by >= 0 else UNKNOWN


def _constant(first: Any, second: Any, single: Any) -> Label:
    """Label of a constant of the program, from its values at all sizes."""
    if _same_values(first, second) and _same_values(first, single):
        return FIXED
    shapes = [np.shape(value) for value in (first, second, single)]
    if len({len(shape) for shape in shapes}) > 1:
        return UNKNOWN
    varying = [
        axis
        for axis, sizes in enumerate(zip(*shapes, strict=True))
        if len(set(sizes)) > 1
    ]
    if len(varying) != 1 or shapes[2][varying[0]] != 1:
        return UNKNOWN
    # The same for all rows, and for every number of them.
    is_same = all(
        _same_values(value, np.broadcast_to(np.asarray(single), np.shape(value)))
        for value in (first, second)
    )
    return Rows(varying[0]) if is_same else UNKNOWN


def _same_values(a: Any, b: Any) -> bool:
    """Whether two constants are equal to the bit; False if that cannot be told."""
    if a is b:
        return True
    try:
        a, b = np.asarray(a), np.asarray(b)
    except (TypeError, ValueError, jax.errors.ConcretizationTypeError):
        return False
    is_alike = a.shape == b.shape and a.dtype == b.dtype and a.dtype != object
    return is_alike and a.tobytes() == b.tobytes()


def _require(condition: bool) -> None:
    if not condition:
        raise _UnlikeError
