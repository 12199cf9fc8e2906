"""Networks taken apart into steps whose infinite-width limits are known."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from lazyjax._checks import check_network_output
from lazyjax.infinite.lifting.axes import Atom, AxesError, axis_of, sizes
from lazyjax.infinite.lifting.known import elementwise_axes, known_axes
from lazyjax.infinite.lifting.rules import ELEMENTWISE, Rules
from lazyjax.infinite.lifting.steps import KnownStep, Program
from lazyjax.infinite.lifting.values import (
    Constant,
    Hidden,
    Known,
    Operation,
    RefusalError,
    Registers,
    Value,
    Weight,
)
from lazyjax.infinite.lifting.weights import Leaves, Meetings
from lazyjax.jaxpr.equations import (
    aval_of,
    called,
    evaluate,
    opened,
    source_lines,
)
from lazyjax.trees import leaf_paths

_CUSTOM_CALLS = ("custom_jvp_call", "custom_vjp_call")
_REASONS = {
    "cond": "chooses a branch",
    "gather": "reads hidden values or parameters at places",
    "reduce_max": "takes the largest of hidden values (as softmax does)",
    "reduce_window_max": "takes the largest of hidden values (max pooling)",
    "scan": "is a loop over layers or time",
    "while": "is a loop",
}


def lift(
    apply_fn: Callable[..., Array],
    params: Any,
    variances: Sequence[float],
    example: jax.ShapeDtypeStruct,
) -> Program:
    """The network `apply_fn` at infinite width.

    Args:
        apply_fn: Network `(params, x) -> f`.
        params: Shapes and dtypes of the parameters.
        variances: Variance of the entries of each leaf.
        example: Shape and dtype of one input, `(*d)`.

    Returns:
        The network as steps.

    Raises:
        ValueError: If an operation has no limit, or rows interact.
    """
    check_network_output(jax.eval_shape(apply_fn, params, _batch(example, 2)), 2)
    # A batch of two: its axis of examples is followed through the program.
    closed = _traced(apply_fn, params, example, 2)
    program = _Lifter(params, variances, example).program(closed)
    if _operations(closed) != _operations(_traced(apply_fn, params, example, 3)):
        raise ValueError(
            "`apply_fn` must do the same for batches of any size, row by row; what it "
            "does to two rows differs from what it does to three."
        )
    return program


def _batch(example: jax.ShapeDtypeStruct, size: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((size, *example.shape), example.dtype)


def _traced(apply_fn: Any, params: Any, example: Any, size: int) -> Any:
    leaves, structure = jax.tree.flatten(params)

    def of_leaves(leaves: list[Array], x: Array) -> Array:
        return apply_fn(jax.tree.unflatten(structure, leaves), x)

    return jax.make_jaxpr(of_leaves)(leaves, _batch(example, size))


def _operations(jaxpr: Any) -> list[tuple[str, tuple[bytes, ...]]]:
    """Operations of a jaxpr in order, with the numbers that stand in it."""
    opened_jaxpr, consts = opened(jaxpr)
    # As many copies of a number as there are rows are one number.
    arrays = [array for array in map(_array, consts) if array is not None]
    found = [("constants", tuple(np.unique(array).tobytes() for array in arrays))]
    for eqn in opened_jaxpr.eqns:
        literals = [a for a in eqn.invars if isinstance(a, jex.Literal)]
        values = tuple(np.asarray(literal.val).tobytes() for literal in literals)
        found.append((eqn.primitive.name, values))
        for part in jax.tree.leaves(eqn.params):
            if isinstance(part, (jex.Jaxpr, jex.ClosedJaxpr)):
                found.extend(_operations(part))
    return found


class _Lifter:
    """All that is collected while the program is walked, once, forward."""

    def __init__(
        self, params: Any, variances: Sequence[float], example: jax.ShapeDtypeStruct
    ) -> None:
        leaves = jax.tree.leaves(params)
        self.shapes = [leaf.shape for leaf in leaves]
        self.example = example
        self.registers = Registers(example.dtype)
        self.rules = Rules(self.registers, example.dtype)
        self.meetings = Meetings(
            self.registers,
            Leaves([repr(path) for path in leaf_paths(params)], variances),
            [math.prod(shape) for shape in self.shapes],
        )
        self.known: list[KnownStep] = []
        self.num_known = 1

    def program(self, closed: Any) -> Program:
        """The whole network."""
        jaxpr, consts = opened(closed)
        inputs: list[Value] = [
            Weight(number, np.arange(math.prod(shape)).reshape(shape), 1.0, True)
            for number, shape in enumerate(self.shapes)
        ]
        features = (axis_of("pixels", size) for size in self.example.shape)
        inputs.append(Known(0, ((Atom("rows", 2),), *features)))
        (value,) = self.walk(jaxpr, consts, inputs, None)
        return Program(
            known=tuple(self.known),
            features=tuple(self.meetings.features),
            result=self.result(value),
            steps=tuple(self.registers.steps),
            most_pixels=self.registers.most_pixels,
            dtype=self.registers.dtype,
        )

    def result(self, value: Value) -> int:
        """Register of the outputs."""
        if not isinstance(value, Hidden):
            raise ValueError(
                "`apply_fn` must depend on `params` and on `x` by weights that meet it; "
                "its output does not."
            )
        rows, *_ = value.axes
        if rows != (Atom("rows", 2),) or sizes(value.axes, "pixels"):
            raise _refusal(
                "its output", None, "holds pixels, or examples in other places"
            )
        try:
            register = self.registers.of(value)
        except RefusalError as refusal:
            named = refusal.operation or ("its output", None)
            raise _refusal(*named, str(refusal)) from None
        if not self.registers.about[register].is_gaussian:
            reason = (
                "is no linear function of its last weights, so that its kernel stays "
                "random at infinite width"
            )
            raise _refusal("its output", None, reason)
        if self.registers.is_summed(register):
            reason = (
                "is also a hidden layer, whose units would have to be both few and many"
            )
            raise _refusal("its output", None, reason)
        return register

    def walk(
        self,
        jaxpr: jex.Jaxpr,
        consts: Sequence[Any],
        inputs: Sequence[Value],
        caller: Operation | None,
    ) -> list[Value]:
        """Values of the results of a jaxpr, which `caller` calls."""
        values: dict[Any, Value] = dict(zip(jaxpr.invars, inputs, strict=True))
        for var, const in zip(jaxpr.constvars, consts, strict=True):
            values[var] = _constant(const)

        def read(atom: Any) -> Value:
            if isinstance(atom, jex.Literal):
                return _constant(np.asarray(atom.val, aval_of(atom).dtype))
            return values[atom]

        for eqn in jaxpr.eqns:
            operands = [read(atom) for atom in eqn.invars]
            here = Operation(f"`{eqn.primitive.name}`", _place(eqn, caller))
            self.rules.operation = here
            try:
                results = self.equation(eqn, operands, jaxpr.debug_info, here)
            except (RefusalError, AxesError) as refusal:
                named: Operation = getattr(refusal, "operation", None) or here
                raise _refusal(named.name, named.place, str(refusal)) from None
            values.update(zip(eqn.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def equation(
        self, eqn: Any, operands: list[Value], debug_info: Any, here: Operation
    ) -> Sequence[Value]:
        """Values of the results of one equation."""
        name = eqn.primitive.name
        if all(isinstance(operand, Constant) for operand in operands):
            return _folded(eqn, operands, debug_info)
        inner = called(eqn)
        if name in _CUSTOM_CALLS:
            inner = eqn.params.get("call_jaxpr")
            if inner is not None and not all(
                isinstance(operand, Constant | Known) for operand in operands
            ):
                _check_custom_derivative(eqn, inner, operands, debug_info)
        if inner is not None:
            caller = here._replace(name=eqn.params.get("name", ""))
            return self.walk(*opened(inner), operands, caller)
        if eqn.effects:
            raise RefusalError("has side effects")
        if name == "optimization_barrier":
            return operands
        if all(isinstance(operand, Constant | Known) for operand in operands):
            return [self.function_of_input(eqn, operands, debug_info)]
        return [self.random(eqn, operands)]

    def function_of_input(
        self, eqn: Any, operands: list[Any], debug_info: Any
    ) -> Known:
        """A value made of the input and constants."""
        if eqn.primitive.name in ELEMENTWISE:
            axes = elementwise_axes(operands, aval_of(eqn.outvars[0]).shape)
        else:
            axes = known_axes(eqn, operands)
        sources = []
        for operand in operands:
            if isinstance(operand, Constant) and operand.value is None:
                raise RefusalError("reads numbers that are not known while tracing")
            is_known = isinstance(operand, Known)
            sources.append(operand.number if is_known else operand.value)
        number = self.num_known
        self.known.append(KnownStep(eqn, debug_info, tuple(sources), number))
        self.num_known += len(eqn.outvars)
        return Known(number, axes)

    def random(self, eqn: Any, operands: list[Value]) -> Value:
        """A value in which parameters have a part."""
        name = eqn.primitive.name
        weights = [operand for operand in operands if isinstance(operand, Weight)]
        hidden = [operand for operand in operands if isinstance(operand, Hidden)]
        others = len(operands) - len(weights)
        shape = aval_of(eqn.outvars[0]).shape
        if name in ELEMENTWISE or name == "add_any":
            for atom, operand in zip(eqn.invars, operands, strict=True):
                if isinstance(operand, Hidden) and aval_of(atom).shape != shape:
                    raise RefusalError("repeats hidden values")
        if name == "dot_general":
            constants = [o for o in operands if isinstance(o, Constant)]
            if len(weights) == 1 and not constants:
                return self.meetings.dot(eqn, *operands)
            if len(hidden) == 2:
                raise RefusalError("multiplies two hidden values, as attention does")
            raise RefusalError(
                "multiplies hidden values or parameters by something else than weights "
                "of their own"
            )
        if name == "conv_general_dilated":
            value, weight = operands
            if isinstance(weight, Weight) and isinstance(value, Known | Hidden):
                return self.meetings.convolve(eqn, value, weight)
            raise RefusalError("convolves something else than a value by weights")
        if name in ("add", "sub", "add_any") and len(weights) == len(hidden) == 1:
            value, weight = hidden[0], weights[0]
            if value is operands[0] or name != "sub":
                return self.meetings.bias(value, weight, -1.0 if name == "sub" else 1.0)
        if (
            weights
            and not hidden
            and others == sum(isinstance(operand, Constant) for operand in operands)
        ):
            return self.rules.of_weight(eqn, operands)
        if name in ELEMENTWISE:
            return self.rules.elementwise(eqn, operands)
        found = self.rules.structural(eqn, operands) if hidden else None
        if found is None:
            raise RefusalError(_REASONS.get(name, "has no rule"))
        return found


def _place(eqn: Any, caller: Operation | None) -> str | None:
    """Where in the user's program an equation is.

    A function of a library that is compiled once, such as `jax.nn.gelu`, remembers only
    the first of the lines which call it: there, the line of the call itself is right.

    Args:
        eqn: The equation.
        caller: The name of the function that it is in, and where that is called.

    Returns:
        File, line and function, if known.
    """
    lines = source_lines(eqn)
    if caller is not None and caller.place is not None:
        names = {function.split(".")[-1] for _, function in lines}
        if caller.name not in names:
            return caller.place
    return "{} in `{}`".format(*lines[0]) if lines else None


def _constant(value: Any) -> Constant:
    return Constant(_array(value))


def _array(value: Any) -> np.ndarray | None:
    """The numbers of an array; None if they are not known, or no numbers."""
    try:
        return np.asarray(value)
    except (TypeError, jax.errors.TracerArrayConversionError):
        return None


def _folded(eqn: Any, operands: Sequence[Any], debug_info: Any) -> list[Constant]:
    """Results of an equation of constants."""
    values = [operand.value for operand in operands]
    if any(value is None for value in values):
        return [Constant(None)] * len(eqn.outvars)
    with jax.ensure_compile_time_eval():
        results = evaluate(eqn, debug_info, *(jnp.asarray(value) for value in values))
    return [_constant(result) for result in results]


def _check_custom_derivative(
    eqn: Any, inner: Any, operands: Sequence[Value], debug_info: Any
) -> None:
    """Check that a derivative rule is that of the function, at random numbers.

    Raises:
        RefusalError: If it is not.
    """
    rng = np.random.default_rng(0)
    closed = jex.ClosedJaxpr(*opened(inner))

    def draw(atom: Any, scale: float) -> Array:
        aval = aval_of(atom)
        return jnp.asarray(scale * rng.normal(size=(8, *aval.shape)), aval.dtype)

    random = [not isinstance(operand, Constant) for operand in operands]
    fixed = [operand.value for operand in operands if isinstance(operand, Constant)]
    atoms = [a for a, is_random in zip(eqn.invars, random, strict=True) if is_random]
    is_float = (jnp.issubdtype(aval_of(a).dtype, jnp.floating) for a in atoms)
    if not all(is_float) or any(value is None for value in fixed):
        raise RefusalError("has a derivative rule that cannot be checked")

    def merged(values: Sequence[Array]) -> list[Array]:
        drawn, given = iter(values), iter(fixed)
        return [next(drawn) if r else jnp.asarray(next(given)) for r in random]

    def both(points: list[Array], cotangents: tuple[Array, ...]) -> tuple[Any, Any]:
        fns = (
            lambda *v: tuple(evaluate(eqn, debug_info, *merged(v))),
            lambda *v: tuple(jex.jaxpr_as_fun(closed)(*merged(v))),
        )
        rule, true = (jax.vjp(fn, *points)[1](cotangents) for fn in fns)
        return rule, true

    compare = jax.jit(jax.vmap(both))
    for scale in (1.0, 1e6):
        with jax.ensure_compile_time_eval():
            points = [draw(atom, 2.0) for atom in atoms]
            cotangents = tuple(draw(atom, scale) for atom in eqn.outvars)
            rule, true = compare(points, cotangents)
        for first, second in zip(rule, true, strict=True):
            tolerance = 10 * float(jnp.finfo(first.dtype).eps) ** 0.5
            if not np.allclose(
                first, second, tolerance, scale * tolerance, equal_nan=True
            ):
                raise RefusalError("has a derivative rule that is not its derivative")


def _refusal(name: str, place: str | None, reason: str) -> ValueError:
    where = f" (at {place})" if place else ""
    return ValueError(
        f"`apply_fn` has no infinite-width limit that is known here: {name}{where} "
        f"{reason}. `lazyjax.monte_carlo_ntk` averages the kernels of finite networks "
        "instead."
    )
