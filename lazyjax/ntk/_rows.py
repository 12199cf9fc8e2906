"""Proof, from its program alone, that a network treats the rows of a batch apart.

The network is traced with batches of two sizes. Both programs are walked together, and
for every value it is found out whether an axis of it enumerates rows (see
`_rows_rules`). What is not understood is not proven. The derivative of a function of
one row is one, so that only custom rules for derivatives need to be walked, too.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.extend.core as jex
import numpy as np
from jaxtyping import Array, Shaped

from lazyjax._jaxpr import (
    ELEMENTWISE,
    aval_of,
    called,
    is_smooth,
    of_smooth_operands,
    opened,
    operands_of,
    scan_counts,
)
from lazyjax.ntk._rows_rules import (
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
from lazyjax.typing import ApplyFn, Params

# Equations that may be missing for a batch of one, whose axis need not be broadcast.
_SHAPING = frozenset({"broadcast_in_dim", "reshape", "squeeze", "transpose"})
# Calls with a rule of their own for the derivative.
_CUSTOM_CALLS = frozenset({"custom_jvp_call", "custom_vjp_call"})
# A derivative rule that is not known to be linear, and must be to act row by row.
_OPAQUE = frozenset({"custom_lin", "custom_transpose_call", "linear_call"})


def rows_are_independent(
    apply_fn: ApplyFn, params: Params, x: Shaped[Array, "n *d"]
) -> bool:
    """Whether it is proven that rows of outputs are one function of their rows of `x`.

    Proven is, for batches as large as `x` (or 2, if larger) and one row larger: outputs
    at row r, and their derivatives by `params`, are made of row r of `x` alone, by one
    program for all rows and both sizes. Of a batch of one it is only asked that the
    same operations are done with the same numbers. A network that asks in Python for
    the size of its batch may do otherwise at other sizes.

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
    walk = _Walk(sizes)
    try:
        single, first, second = (traced(n) for n in (1, *sizes))
        if Counter(walk.operations(single)) != Counter(walk.operations(first)):
            return False
        results = walk.closed(first, second, labels)
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


def _is_elementwise(jaxpr: Any) -> bool:
    """Whether all that is made of arguments of one shape, or scalars, is so by entry."""
    jaxpr, _ = opened(jaxpr)
    if any(aval_of(v).shape for v in jaxpr.constvars):
        return False  # its entries may number the rows
    shapes = {aval_of(v).shape for v in (*jaxpr.invars, *jaxpr.outvars)}
    for eqn in jaxpr.eqns:
        shapes.update(aval_of(v).shape for v in eqn.outvars)
        name, inner = eqn.primitive.name, called(eqn)
        if name in _CUSTOM_CALLS:
            inner = eqn.params.get("call_jaxpr")
        is_filled = name == "broadcast_in_dim" and not aval_of(eqn.invars[0]).shape
        if inner is not None:
            if not _is_elementwise(inner):
                return False
        elif name not in ELEMENTWISE and not is_filled:
            return False
    return len(shapes - {()}) <= 1


def _is_jaxpr(part: Any) -> bool:
    return isinstance(part, (jex.Jaxpr, jex.ClosedJaxpr))


class _UnlikeError(Exception):
    """Two programs that are not the same but for the batch size."""


class _Walk:
    """The programs at two batch sizes, walked together."""

    def __init__(self, sizes: tuple[int, int], *, is_derived: bool = False) -> None:
        self.sizes = sizes
        # In a derivative, calls with a rule for one are only evaluated.
        self.is_derived = is_derived
        # Functions that are used again are so by the same equations.
        self.derivatives: dict[int, Any] = {}

    @property
    def derived(self) -> "_Walk":
        """A walk through derivatives."""
        return _Walk(self.sizes, is_derived=True)

    def derivative(self, eqn: jex.JaxprEqn, debug_info: Any) -> Any:
        """Jaxpr of a custom call's results and their tangents."""
        if id(eqn) not in self.derivatives:
            self.derivatives[id(eqn)] = _derivative(eqn, debug_info)
        return self.derivatives[id(eqn)]

    def operations(self, closed: Any) -> Iterator[tuple[str, tuple[bytes, ...]]]:
        """Names of all operations, with their literals, but for mere reshapes."""
        jaxpr, _ = opened(closed)
        for eqn in jaxpr.eqns:
            inner = [part for part in jax.tree.leaves(eqn.params) if _is_jaxpr(part)]
            for part in inner:
                yield from self.operations(part)
            if eqn.primitive.name in _CUSTOM_CALLS and not self.is_derived:
                derivative = self.derivative(eqn, jaxpr.debug_info)
                yield from self.derived.operations(derivative)
            if called(eqn) is None and eqn.primitive.name not in _SHAPING:
                literals = [
                    atom for atom in eqn.invars if isinstance(atom, jex.Literal)
                ]
                values = tuple(
                    np.asarray(literal.val).tobytes() for literal in literals
                )
                yield eqn.primitive.name, values

    def closed(self, first: Any, second: Any, labels: Sequence[Label]) -> list[Label]:
        """Labels of the results of two jaxprs, from those of their arguments."""
        (a, consts_a), (b, consts_b) = opened(first), opened(second)
        _require(len(a.eqns) == len(b.eqns) and len(consts_a) == len(consts_b))
        _require(len(a.constvars) == len(b.constvars) == len(consts_a))
        _require(len(a.invars) == len(b.invars) == len(labels))
        known: dict[Any, Label] = {}
        twin: dict[Any, Any] = {}

        def bind(pair: Sequence[Any], label: Label) -> None:
            var_a, var_b = pair
            if isinstance(label, Rows) or label is FIXED:
                same_dtype = var_a.aval.dtype == var_b.aval.dtype
                shapes = (var_a.aval.shape, var_b.aval.shape)
                if not same_dtype or not fits(label, shapes, self.sizes):
                    label = UNKNOWN
            known[var_a], twin[var_b] = label, var_a

        def read(atom_a: Any, atom_b: Any) -> Label:
            literals = [isinstance(atom, jex.Literal) for atom in (atom_a, atom_b)]
            if any(literals):
                is_same = all(literals) and _same_values(atom_a.val, atom_b.val)
                return FIXED if is_same else UNKNOWN
            _require(twin[atom_b] is atom_a)
            return known[atom_a]

        for *pair, label in zip(a.invars, b.invars, labels, strict=True):
            bind(pair, label)
        for var_a, var_b, *values in zip(
            a.constvars, b.constvars, consts_a, consts_b, strict=True
        ):
            bind((var_a, var_b), FIXED if _same_values(*values) else UNKNOWN)
        for eqns in zip(a.eqns, b.eqns, strict=True):
            _require(eqns[0].primitive is eqns[1].primitive)
            # What is written to a reference is not followed.
            _require(not eqns[0].effects and not eqns[1].effects)
            _require(len(eqns[0].invars) == len(eqns[1].invars))
            operands = zip(*(eqn.invars for eqn in eqns), strict=True)
            found = Twins(eqns, self.sizes, [read(a, b) for a, b in operands])
            outvars = zip(*(eqn.outvars for eqn in eqns), strict=True)
            labels = self.equation(found, (a.debug_info, b.debug_info))
            for pair, label in zip(outvars, labels, strict=True):
                bind(pair, label)
        return [read(*pair) for pair in zip(a.outvars, b.outvars, strict=True)]

    def equation(self, eqn: Twins, debug_infos: tuple[Any, Any]) -> list[Label]:
        """Labels of the results of one equation."""
        first, second = (called(e) for e in eqn.eqns)
        if first is not None and second is not None:
            return self.closed(first, second, eqn.labels)
        if eqn.name in _CUSTOM_CALLS:
            return self.custom(eqn, debug_infos)
        control = {"cond": self.cond, "scan": self.scan, "while": self.while_loop}
        if eqn.name in control:
            return control[eqn.name](eqn)
        if eqn.name == "optimization_barrier":
            return list(eqn.labels)
        return [self.result(eqn)] * len(eqn.eqns[0].outvars)

    def result(self, eqn: Twins) -> Label:
        """Label of all results of an equation that is neither call nor control flow."""
        if UNKNOWN in eqn.labels or eqn.name in _OPAQUE:
            return UNKNOWN
        sized = SIZED.get(eqn.name)
        params_a, params_b = (dict(e.params) for e in eqn.eqns)
        free = (params_a.pop(sized, None), params_b.pop(sized, None)) if sized else ()
        if not self.same(params_a, params_b):
            return UNKNOWN
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
        if _is_jaxpr(a) and _is_jaxpr(b):
            labels = [FIXED] * len(opened(a)[0].invars)
            return all(label is FIXED for label in self.closed(a, b, labels))
        if isinstance(a, (np.ndarray, np.generic, jax.Array)):
            return _same_values(a, b)
        return type(a) is type(b) and bool(a == b)

    def custom(self, eqn: Twins, debug_infos: tuple[Any, Any]) -> list[Label]:
        """Labels of the results of a call that has a rule for its derivative."""
        labels = self.closed(*eqn.both("call_jaxpr"), eqn.labels)
        if self.is_derived:
            return labels
        first = self.derivative(eqn.eqns[0], debug_infos[0])
        if eqn.common is not None and _is_elementwise(first):
            # Its numbers are compared with those of one row, as all are.
            return [label if label == eqn.common else UNKNOWN for label in labels]
        second = self.derivative(eqn.eqns[1], debug_infos[1])
        operands = zip(eqn.eqns[0].invars, eqn.labels, strict=True)
        known = {
            atom: label for atom, label in operands if not isinstance(atom, jex.Literal)
        }
        moved = [label for atom, label in known.items() if is_smooth(atom)]
        found = self.derived.closed(first, second, [*known.values(), *moved])
        tangents = iter(found[len(labels) :])
        results = []
        for var, *cases in zip(eqn.eqns[0].outvars, labels, found, strict=False):
            if is_smooth(var):
                cases.append(next(tangents))
            results.append(cases[0] if len(set(cases)) == 1 else UNKNOWN)
        return results

    # Control flow.

    def cond(self, eqn: Twins) -> list[Label]:
        index, *operands = eqn.labels
        branches = zip(*eqn.both("branches"), strict=True)
        cases = [self.closed(*pair, operands) for pair in branches]
        if index is not FIXED:
            return [UNKNOWN] * len(cases[0])
        return [
            labels[0] if len(set(labels)) == 1 else UNKNOWN
            for labels in zip(*cases, strict=True)
        ]

    def scan(self, eqn: Twins) -> list[Label]:
        jaxprs = eqn.both("jaxpr")
        keys = eqn.params.keys() - {"jaxpr", "length", "linear", "_split_transpose"}
        _require(all(self.same(*eqn.both(key)) for key in keys))
        num_consts, num_carry = scan_counts(eqn.eqns[0])
        _require(scan_counts(eqn.eqns[1]) == (num_consts, num_carry))
        num_results = len(eqn.eqns[0].outvars)
        scanned = eqn.labels[num_consts + num_carry :]
        lengths = eqn.both("length")
        if lengths[0] != lengths[1]:
            if num_carry or set(scanned) != {Rows(0)}:
                return [UNKNOWN] * num_results
            # A loop over rows, each by itself: in the body there is one, and no batch.
            labels = [*eqn.labels[:num_consts], *(FIXED for _ in scanned)]
            results = self.closed(*jaxprs, labels)
            return [Rows(0) if label is FIXED else UNKNOWN for label in results]
        pieces = [_moved(label, -1) for label in scanned]
        carry = list(eqn.labels[num_consts : num_consts + num_carry])

        def body(carry: list[Label]) -> list[Label]:
            labels = [*eqn.labels[:num_consts], *carry, *pieces]
            return self.closed(*jaxprs, labels)

        carry = _settled(body, carry)
        return [*carry, *(_moved(label, 1) for label in body(carry)[num_carry:])]

    def while_loop(self, eqn: Twins) -> list[Label]:
        counts = [eqn.both(key) for key in ("cond_nconsts", "body_nconsts")]
        _require(all(a == b for a, b in counts))
        (num_cond, _), (num_body, _) = counts
        cond_consts = eqn.labels[:num_cond]
        body_consts = eqn.labels[num_cond : num_cond + num_body]
        carry = list(eqn.labels[num_cond + num_body :])
        carry = _settled(
            lambda carry: self.closed(*eqn.both("body_jaxpr"), [*body_consts, *carry]),
            carry,
        )
        (goes_on,) = self.closed(*eqn.both("cond_jaxpr"), [*cond_consts, *carry])
        return carry if goes_on is FIXED else [UNKNOWN] * len(carry)


def _settled(
    body: Callable[[list[Label]], list[Label]], carry: list[Label]
) -> list[Label]:
    """Labels that hold before and after each iteration of a loop."""
    while True:
        after = body(carry)[: len(carry)]
        pairs = zip(carry, after, strict=True)
        kept = [before if before == now else UNKNOWN for before, now in pairs]
        if kept == carry:
            return carry
        carry = kept


def _moved(label: Label, by: int) -> Label:
    """A label once the first axis is taken away, or a new one is put before it."""
    if not isinstance(label, Rows):
        return label
    return Rows(label.axis + by, label.inner) if label.axis + by >= 0 else UNKNOWN


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
