"""Networks taken apart into steps whose infinite-width limits are known."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from lazyjax._checks import check_network_output
from lazyjax.infinite.lifting.axes import BATCH_SIZES, AxesError, sizes
from lazyjax.infinite.lifting.custom_derivatives import (
    CUSTOM_CALLS,
    check_custom_derivative,
)
from lazyjax.infinite.lifting.rules import Context
from lazyjax.infinite.lifting.rules.context import Leaves
from lazyjax.infinite.lifting.rules.elementwise import elementwise
from lazyjax.infinite.lifting.rules.unit_means import (
    UNDIVIDED,
    checked_mean,
    described,
)
from lazyjax.infinite.lifting.rules.weights import rearranged
from lazyjax.infinite.lifting.steps import KnownStep, LiftedNetwork
from lazyjax.infinite.lifting.values import (
    NOT_GAUSSIAN,
    Constant,
    Hidden,
    Known,
    KnownWeight,
    Operation,
    RefusalError,
    Squared,
    Value,
    Weight,
)
from lazyjax.jaxpr.equations import (
    aval_of,
    called,
    evaluate,
    live_equations,
    opened,
    scan_counts,
    source_lines,
)
from lazyjax.jaxpr.labels import FIXED, UNKNOWN, EquationPair, Label, Rows
from lazyjax.jaxpr.registry import primitive_of
from lazyjax.jaxpr.rows.scope import (
    PairScope,
    StructureMismatchError,
    constant_label,
    require,
)
from lazyjax.jaxpr.rows.walk import label_of_results
from lazyjax.trees import leaf_paths

_ROWS = "lets examples of a batch interact, or tells them apart by their place"
_NO_RULE_OF_ROWS = "has no rule by which rows of the batch could be followed"
_PRODUCTS = ("conv_general_dilated", "dot_general")
_REASONS = {
    "cond": "chooses a branch",
    "gather": "reads hidden values or parameters at places",
    "reduce_max": "takes the largest of hidden values (as softmax does)",
    "reduce_window_max": "takes the largest of hidden values (max pooling)",
    "while": "is a loop",
}


def lift(
    apply_fn: Callable[..., Array],
    params: Any,
    variances: Sequence[float],
    means: Sequence[float],
    example: jax.ShapeDtypeStruct,
) -> LiftedNetwork:
    """The network `apply_fn` at infinite width, for inputs shaped as `example`."""
    batch = _batch(example, 2)
    check_network_output(jax.eval_shape(apply_fn, params, batch), batch)
    programs = [_traced(apply_fn, params, example, size) for size in BATCH_SIZES]
    return _Lifter(params, variances, means, example).program(programs)


def _batch(example: jax.ShapeDtypeStruct, size: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((size, *example.shape), example.dtype)


def _traced(apply_fn: Any, params: Any, example: Any, size: int) -> Any:
    leaves, structure = jax.tree.flatten(params)

    def of_leaves(leaves: list[Array], x: Array) -> Array:
        return apply_fn(jax.tree.unflatten(structure, leaves), x)

    return jax.make_jaxpr(of_leaves)(leaves, _batch(example, size))


class _Lifter:
    """What is found while programs of two batches are walked together, once, forward."""

    def __init__(
        self,
        params: Any,
        variances: Sequence[float],
        means: Sequence[float],
        example: jax.ShapeDtypeStruct,
    ) -> None:
        self.shapes = [leaf.shape for leaf in jax.tree.leaves(params)]
        self.example = example
        names = [repr(path) for path in leaf_paths(params)]
        num_entries = [math.prod(shape) for shape in self.shapes]
        leaves = Leaves(names, variances, means, num_entries)
        self.context = Context(example.dtype, leaves)

    def program(self, programs: Sequence[Any]) -> LiftedNetwork:
        """The whole network."""
        inputs: list[Value] = [
            Weight(number, np.arange(math.prod(shape)).reshape(shape), 1.0, True)
            for number, shape in enumerate(self.shapes)
        ]
        shape = (BATCH_SIZES[0], *self.example.shape)
        inputs.append(Known(0, shape, Rows(0)))
        labels = [*(FIXED for _ in self.shapes), Rows(0)]
        ((value, label),) = self.walk(programs, inputs, labels, None)
        return LiftedNetwork(
            known=tuple(self.context.known),
            result=self.result(value, label),
            steps=tuple(self.context.registers.steps),
            most_pixels=self.context.registers.most_pixels,
            dtype=self.context.registers.dtype,
        )

    def result(self, value: Value, label: Label) -> int:
        """Register of the outputs."""
        if isinstance(value, Known) and value.units:
            reason = (
                "is a mean over hidden units, which is not random at infinite width"
            )
            raise _refusal("its output", None, reason)
        if not isinstance(value, Hidden):
            raise ValueError(
                "`apply_fn` must depend on `params` and on `x` by weights that multiply "
                "it; its output does not."
            )
        if label != Rows(0) or sizes(value.axes, "pixels"):
            raise _refusal(
                "its output", None, "holds pixels, or examples in other places"
            )
        registers = self.context.registers
        try:
            register = registers.of(value)
        except RefusalError as refusal:
            named = refusal.operation or ("its output", None)
            raise _refusal(*named, str(refusal)) from None
        if not registers.infos[register].is_gaussian:
            reason = (
                "is no linear function of its last weights, so that its kernel stays "
                "random at infinite width"
            )
            raise _refusal("its output", None, reason)
        if registers.is_summed(register):
            reason = (
                "is also a hidden layer, whose units would have to be both few and many"
            )
            raise _refusal("its output", None, reason)
        return register

    def walk(
        self,
        programs: Sequence[Any],
        inputs: Sequence[Value],
        labels: Sequence[Label],
        caller: Operation | None,
    ) -> list[tuple[Value, Label]]:
        """Results of a jaxpr, traced for both batches, which `caller` calls."""
        jaxprs, consts = zip(*map(opened, programs), strict=True)
        scope = PairScope(BATCH_SIZES)
        values: dict[Any, Value] = dict(zip(jaxprs[0].invars, inputs, strict=True))
        equations = [live_equations(jaxpr) for jaxpr in jaxprs]
        try:
            require(len(equations[0]) == len(equations[1]))
            require(len(consts[0]) == len(consts[1]))
            arguments = zip(*(jaxpr.invars for jaxpr in jaxprs), strict=True)
            for variables, label in zip(arguments, labels, strict=True):
                scope.bind(variables, label)
            for *variables, first, second in zip(
                *(jaxpr.constvars for jaxpr in jaxprs), *consts, strict=True
            ):
                constant = Constant((_array(first), _array(second)))
                values[variables[0]] = constant
                scope.bind(variables, constant_label(*constant.values))
            for eqns in zip(*equations, strict=True):
                results = self.equation(eqns, scope, values, jaxprs, caller)
                outvars = zip(*(eqn.outvars for eqn in eqns), strict=True)
                for variables, (value, label) in zip(outvars, results, strict=True):
                    values[variables[0]] = value
                    scope.bind(variables, label)
            found = list(map(scope.read, *(jaxpr.outvars for jaxpr in jaxprs)))
        except StructureMismatchError:
            raise ValueError(
                "`apply_fn` must do the same for batches of any size, row by row; what "
                "it does to two rows differs from what it does to three."
            ) from None
        outputs = [_read(atom, values) for atom in jaxprs[0].outvars]
        return list(zip(outputs, found, strict=True))

    def equation(
        self,
        eqns: tuple[jex.JaxprEqn, jex.JaxprEqn],
        scope: PairScope,
        values: dict[Any, Value],
        jaxprs: Sequence[jex.Jaxpr],
        caller: Operation | None,
    ) -> list[tuple[Value, Label]]:
        """Results of one equation; refusals name it and its place."""
        eqn = eqns[0]
        require(eqn.primitive is eqns[1].primitive)
        require(len(eqn.invars) == len(eqns[1].invars))
        labels = list(map(scope.read, *(e.invars for e in eqns)))
        operands = [_read(atom, values) for atom in eqn.invars]
        here = Operation(f"`{eqn.primitive.name}`", _place(eqn, caller))
        self.context.operation = here
        try:
            pair = EquationPair(eqns, BATCH_SIZES, _beside(labels, operands))
            if all(isinstance(operand, Constant) for operand in operands):
                return _folded(pair, operands, [jaxpr.debug_info for jaxpr in jaxprs])
            inner = [_inner(e) for e in eqns]
            if None not in inner:
                check_custom_derivative(eqn, operands, jaxprs[0].debug_info)
                called_by = here._replace(name=eqn.params.get("name", ""))
                return self.walk(inner, operands, labels, called_by)
            if eqn.primitive.name == "scan" and not eqn.effects:
                return self.loop(eqns, operands, labels, here)
            if eqn.effects:
                raise RefusalError("has side effects")
            if eqn.primitive.name == "optimization_barrier":
                return list(zip(operands, labels, strict=True))
            if all(isinstance(operand, Constant | Known) for operand in operands):
                return self.function_of_input(pair, operands, jaxprs[0].debug_info)
            label = label_of_results(pair)
            if label is UNKNOWN and primitive_of(eqn).rows is not None:
                raise RefusalError(_ROWS)
            value = self.random(eqn, operands)
            if label is UNKNOWN:
                raise RefusalError(_NO_RULE_OF_ROWS)
            if isinstance(value, Known):
                assert isinstance(label, Rows)
                value = dataclasses.replace(value, rows=label)
            return [(value, label)]
        except (RefusalError, AxesError) as refusal:
            named: Operation = getattr(refusal, "operation", None) or here
            raise _refusal(named.name, named.place, str(refusal)) from None

    def loop(
        self,
        eqns: tuple[jex.JaxprEqn, jex.JaxprEqn],
        operands: Sequence[Value],
        labels: Sequence[Label],
        caller: Operation,
    ) -> list[tuple[Value, Label]]:
        """Last carries of a loop over parameters and constants, layer by layer."""
        num_consts, num_carry = scan_counts(eqns[0])
        require(all(scan_counts(eqn) == (num_consts, num_carry) for eqn in eqns))
        require(len({eqn.params["length"] for eqn in eqns}) == 1)
        start, length = num_consts + num_carry, eqns[0].params["length"]
        if len(eqns[0].outvars) > num_carry:
            raise RefusalError("is a loop that keeps something of every step")
        scanned = operands[start:]
        is_over_layers = all(isinstance(o, Weight | Constant) for o in scanned)
        if not is_over_layers or any(label is not FIXED for label in labels[start:]):
            raise RefusalError("is a loop over pixels, time or examples")
        jaxprs = [eqn.params["jaxpr"] for eqn in eqns]
        consts = operands[:num_consts]
        carry = list(
            zip(operands[num_consts:start], labels[num_consts:start], strict=True)
        )
        steps = range(length)
        for step in reversed(steps) if eqns[0].params["reverse"] else steps:
            layer = [_at(value, step) for value in scanned]
            inputs = [*consts, *(value for value, _ in carry), *layer]
            kinds = [*labels[:num_consts], *(label for _, label in carry)]
            kinds += labels[start:]
            carry = self.walk(jaxprs, inputs, kinds, caller)
        return carry

    def function_of_input(
        self, pair: EquationPair, operands: list[Any], debug_info: Any
    ) -> list[tuple[Value, Label]]:
        """Values made of the input and constants."""
        eqn = pair.eqns[0]
        sources = []
        for operand in operands:
            if isinstance(operand, Constant) and operand.array is None:
                raise RefusalError("reads numbers that are not known while tracing")
            is_known = isinstance(operand, Known)
            sources.append(operand.number if is_known else operand.array)
        if primitive_of(eqn).rows is None:
            raise RefusalError(_NO_RULE_OF_ROWS)
        label = label_of_results(pair)
        if not isinstance(label, Rows):
            raise RefusalError(_ROWS)
        mean = checked_mean(eqn, operands)
        if mean is not None:
            return [(mean, label)]
        number = self.context.add_known(
            lambda first: KnownStep(eqn, debug_info, tuple(sources), first),
            len(eqn.outvars),
        )
        return [
            (
                described(eqn, operands, Known(number + i, aval_of(var).shape, label)),
                label,
            )
            for i, var in enumerate(eqn.outvars)
        ]

    def random(self, eqn: jex.JaxprEqn, operands: list[Value]) -> Value:
        """A value in which parameters have a part."""
        record, name = primitive_of(eqn), eqn.primitive.name
        kinds = {type(operand) for operand in operands}
        match operands:
            case [Known() as known, Weight() as weight] if name == "mul":
                return KnownWeight(known, weight, self.context.operation)
            case [Weight() as weight, Known() as known] if name == "mul":
                return KnownWeight(known, weight, self.context.operation)
        for operand in operands:
            if isinstance(operand, KnownWeight) and kinds != {KnownWeight, Hidden}:
                raise RefusalError(
                    "combines parameters with a function of the input entry by entry",
                    operand.operation,
                )
        if Squared in kinds and name != "reduce_sum":
            raise RefusalError(NOT_GAUSSIAN)
        if any(isinstance(o, Known) and o.undivided for o in operands):
            raise RefusalError(UNDIVIDED)
        if kinds <= {Weight, Constant} and name not in _PRODUCTS:
            return rearranged(eqn, operands)
        if record.is_elementwise:
            shape = aval_of(eqn.outvars[0]).shape
            for atom, operand in zip(eqn.invars, operands, strict=True):
                if isinstance(operand, Hidden) and aval_of(atom).shape != shape:
                    raise RefusalError("repeats hidden values")
        if record.limit is not None:
            return record.limit(self.context, eqn, operands)
        if record.is_elementwise:
            return elementwise(self.context, eqn, operands)
        raise RefusalError(_REASONS.get(name, "has no rule"))


def _read(atom: Any, values: dict[Any, Value]) -> Value:
    if isinstance(atom, jex.Literal):
        value = np.asarray(atom.val, aval_of(atom).dtype)
        return Constant((value, value))
    return values[atom]


def _at(value: Value, step: int) -> Value:
    """What a loop reads at one of its steps."""
    if isinstance(value, Weight):
        return dataclasses.replace(value, entries=value.entries[step])
    assert isinstance(value, Constant)
    first, second = (None if a is None else np.asarray(a[step]) for a in value.values)
    return Constant((first, second))


def _inner(eqn: jex.JaxprEqn) -> Any | None:
    """The jaxpr that an equation calls, if it does nothing else to values."""
    is_custom = eqn.primitive.name in CUSTOM_CALLS
    return eqn.params.get("call_jaxpr") if is_custom else called(eqn)


def _beside(labels: Sequence[Label], operands: Sequence[Value]) -> list[Label]:
    """Labels of operands; those of constants are made to fit the others'."""
    pairs = list(zip(labels, operands, strict=True))
    others = {label for label, operand in pairs if not isinstance(operand, Constant)}
    by_axis = {label.axis: label for label in others if isinstance(label, Rows)}
    # A constant with rows is the same all along them: any factors of the axis will do.
    return [
        by_axis.get(label.axis, label)
        if isinstance(operand, Constant) and isinstance(label, Rows)
        else label
        for label, operand in pairs
    ]


def _place(eqn: Any, caller: Operation | None) -> str | None:
    """Where in the user's program an equation is, if that is known."""
    # A function of a library that is compiled once, such as `jax.nn.gelu`, remembers
    # only the first of the lines which call it: there, the line of the call itself is
    # right.
    lines = source_lines(eqn)
    if caller is not None and caller.place is not None:
        names = {function.split(".")[-1] for _, function in lines}
        if caller.name not in names:
            return caller.place
    return "{} in `{}`".format(*lines[0]) if lines else None


def _array(value: Any) -> np.ndarray | None:
    """The numbers of an array; None if they are not known, or no numbers."""
    try:
        return np.asarray(value)
    except (TypeError, jax.errors.TracerArrayConversionError):
        return None


def _folded(
    pair: EquationPair, operands: Sequence[Any], debug_infos: Sequence[Any]
) -> list[tuple[Value, Label]]:
    """Results of an equation of constants."""
    results = []
    for number, (eqn, debug_info) in enumerate(
        zip(pair.eqns, debug_infos, strict=True)
    ):
        arrays = [operand.values[number] for operand in operands]
        if any(array is None for array in arrays):
            results.append([None] * len(eqn.outvars))
            continue
        with jax.ensure_compile_time_eval():
            found = evaluate(eqn, debug_info, *map(jnp.asarray, arrays))
        results.append([_array(result) for result in found])
        if label_of_results(pair) is FIXED:
            results *= 2
            break
    return [
        (Constant(values), constant_label(*values))
        for values in zip(*results, strict=True)
    ]


def _refusal(name: str, place: str | None, reason: str) -> ValueError:
    where = f" (at {place})" if place else ""
    return ValueError(
        f"`apply_fn` has no infinite-width limit that is known here: {name}{where} "
        f"{reason}. `lazyjax.monte_carlo_ntk` averages the kernels of finite networks "
        "instead."
    )
