r"""A network as steps from inputs to kernels, as lifting finds it, and how they are run.

A register holds the kernels of one value for one pair of inputs: second moments
$E[h h']$ of a unit, and its neural tangent kernel, both over pairs of pixels, shape
(pixels, pixels); a value without pixels has one. Numbers of registers are those of the
steps that fill them.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from lazyjax.infinite import layers
from lazyjax.infinite.duals.dual import dual_mean
from lazyjax.infinite.layers import Kernels, LayerScales
from lazyjax.infinite.lifting.pixels import PixelMap
from lazyjax.jaxpr.equations import evaluate
from lazyjax.typing import Activation

# Reads a function of the input, of which the program has two equal rows.
Read: TypeAlias = Callable[[Array], Array]


@dataclasses.dataclass(frozen=True)
class Moments:
    """Products of the features of two inputs at all pairs of pixels."""

    known: int  # number of the function of the input that weights multiply
    read: Read  # as (pixels, features)


@dataclasses.dataclass(frozen=True)
class Weigh:
    """Weights without biases, which multiply a source."""

    source: int
    scales: LayerScales


@dataclasses.dataclass(frozen=True)
class Bias:
    """Gaussian parameters added to pixels of some extents, along which some share one."""

    shape: tuple[int, ...]
    is_shared: tuple[bool, ...]
    scales: LayerScales


@dataclasses.dataclass(frozen=True)
class MapPairs:
    """A linear map of pairs of pixels, such as a sum over taps of a filter."""

    source: int  # what is mapped
    shape: tuple[int, ...]  # extents of its pixels
    # Map of an array with axes `shape` twice, to one with two axes.
    fn: Callable[[Array], Array]


@dataclasses.dataclass(frozen=True)
class MapPixels:
    """A linear map of pixels, applied to each of a pair."""

    source: int
    map: PixelMap


@dataclasses.dataclass(frozen=True)
class Combine:
    """Linear combination of independent registers, with coefficients."""

    terms: tuple[tuple[int, float], ...]


@dataclasses.dataclass(frozen=True)
class Multiply:
    """A product of two independent registers, unit by unit."""

    first: int
    second: int


@dataclasses.dataclass(frozen=True)
class Activate:
    """An elementwise function, times a factor, of a Gaussian value."""

    source: int
    activation: Activation
    factor: float


@dataclasses.dataclass(frozen=True)
class Detach:
    """A value that is not differentiated."""

    source: int


@dataclasses.dataclass(frozen=True)
class ScaleByInput:
    """A value times a function of the input, the same for all units."""

    source: int
    known: int  # number of the function's value
    read: Read  # as one number for each pixel


@dataclasses.dataclass(frozen=True)
class Offset:
    """A function of the input, the same for all units."""

    known: int
    read: Read


@dataclasses.dataclass(frozen=True)
class Gain:
    """A value times parameters that all have one value, each for units of its own."""

    source: int
    value: float
    shape: tuple[int, ...]  # extents of pixels
    is_shared: tuple[bool, ...]  # along which of them parameters are shared
    ntk: float  # squared derivative of the factor by its parameter; 0 if untrained


Step: TypeAlias = (
    Moments
    | Weigh
    | Bias
    | MapPairs
    | MapPixels
    | Combine
    | Multiply
    | Activate
    | Detach
    | ScaleByInput
    | Offset
    | Gain
)


@dataclasses.dataclass(frozen=True)
class KnownStep:
    """An equation between values that are functions of the input alone."""

    eqn: Any
    debug_info: Any  # that of its jaxpr
    operands: tuple[Any, ...]  # numbers of values, or constants
    first: int  # number of its first result


@dataclasses.dataclass(frozen=True)
class UnitMean:
    """A mean over units of a register, or of its square, which is no longer random."""

    register: int
    is_square: bool
    # From one number for each pixel to the value that the program has for two rows.
    write: Callable[[Array], Array]
    first: int  # number of the value


@dataclasses.dataclass(frozen=True)
class LiftedNetwork:
    """A network, lifted."""

    # How values that are functions of the input are made; the input is 0. Those that
    # are means over units are so at infinite width.
    known: tuple[KnownStep | UnitMean, ...]
    steps: tuple[Step, ...]  # how registers are filled
    result: int  # register of the outputs
    most_pixels: int  # most pixels of any register
    dtype: Any  # of an input


def has_mean(steps: Sequence[Step], register: int) -> bool:
    """Whether the mean of a unit, over units, may be other than 0."""
    match steps[register]:
        case Activate() | Offset():
            return True
        case MapPixels() | Detach() | ScaleByInput() | Gain() as step:
            return has_mean(steps, step.source)
        case Combine(terms=terms):
            return any(has_mean(steps, source) for source, _ in terms)
        case Multiply(first=first, second=second):
            return has_mean(steps, first) and has_mean(steps, second)
    return False


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Precomputed:
    """What kernels with other inputs need to know of one input."""

    read: dict[int, Array]  # what steps read of functions of the input
    variances: dict[int, Array]  # of Gaussian values that are activated, by step
    means: dict[int, Array]  # of a unit over units, where sums need them, by register


def precompute(program: LiftedNetwork, x: Float[Array, "*d"]) -> Precomputed:
    """What steps read of an input, variances and means: all that other kernels need."""
    values = [jnp.stack([x, x])]
    statistics = Precomputed({}, {}, {})
    registers: list[Kernels] = []
    is_same = jnp.ones((), bool)

    def mean(register: int) -> Array | None:
        if not has_mean(program.steps, register):
            return None
        match program.steps[register]:
            case Activate() as step:
                variance = statistics.variances[register]
                return step.factor * dual_mean(step.activation, variance)
            case Offset():
                return statistics.read[register]
            case MapPixels(source=source, map=pixel_map):
                found = mean(source)
                return None if found is None else pixel_map(found)
            case ScaleByInput(source=source):
                found = mean(source)
                return None if found is None else statistics.read[register] * found
            case Gain(source=source, value=value):
                found = mean(source)
                return None if found is None else value * found
            case Detach(source=source):
                return mean(source)
            case Combine(terms=terms):
                parts = [(c, mean(source)) for source, c in terms]
                return sum((c * m for c, m in parts if m is not None), jnp.zeros(()))
            case Multiply(first=first, second=second):
                one, two = mean(first), mean(second)
                return None if one is None or two is None else one * two
        return None

    def known(number: int) -> Array:
        """A function of the input; the registers that it needs are there already."""
        for step in program.known:
            if step.first < len(values):
                continue
            if len(values) > number:
                break
            if isinstance(step, UnitMean):
                nngp = registers[step.register].nngp
                found = jnp.diagonal(nngp) if step.is_square else mean(step.register)
                found = jnp.zeros(nngp.shape[0], nngp.dtype) if found is None else found
                values.append(step.write(found))
            else:
                operands = [
                    values[o] if isinstance(o, int) else o for o in step.operands
                ]
                values.extend(evaluate(step.eqn, step.debug_info, *operands))
        return values[number]

    for number, step in enumerate(program.steps):
        match step:
            case Moments() | ScaleByInput() | Offset():
                statistics.read[number] = step.read(known(step.known))
            case Activate():
                variance = jnp.diagonal(registers[step.source].nngp)
                statistics.variances[number] = variance
            case Combine(terms=terms):
                for source in with_means(program, terms):
                    found = mean(source)
                    assert found is not None
                    statistics.means[source] = found
        inputs = statistics, statistics
        registers.append(_run(program, number, registers, inputs, is_same))
    return statistics


def kernels_of(
    program: LiftedNetwork,
    statistics1: Precomputed,
    statistics2: Precomputed,
    is_same: Bool[Array, ""] | None,
) -> Kernels:
    """Kernels of the outputs for one pair of inputs, from what `precompute` found."""
    registers: list[Kernels] = []
    inputs = statistics1, statistics2
    for number in range(len(program.steps)):
        registers.append(_run(program, number, registers, inputs, is_same))
    return registers[program.result].map(lambda array: array[0, 0])


def with_means(
    program: LiftedNetwork, terms: tuple[tuple[int, float], ...]
) -> list[int]:
    """Terms whose means are multiplied in a sum: all with a mean, if several have one."""
    found = [source for source, _ in terms if has_mean(program.steps, source)]
    return found if len(found) > 1 else []


def _run(
    program: LiftedNetwork,
    number: int,
    registers: list[Kernels],
    inputs: tuple[Precomputed, Precomputed],
    is_same: Array | None,
) -> Kernels:
    step = program.steps[number]
    match step:
        case Moments():
            pair = (of_input.read[number] for of_input in inputs)
            nngp = jnp.einsum("pc,qc->pq", *pair, precision=jax.lax.Precision.HIGHEST)
            return Kernels(nngp, None)
        case Weigh():
            return layers.weigh(registers[step.source], step.scales)
        case Bias():
            pattern = _pattern(step, program.dtype)
            ntk = step.scales.ntk_b * pattern if step.scales.is_trained else None
            return Kernels(step.scales.b_sq * pattern, ntk)
        case MapPairs():
            fn = lambda array: step.fn(array.reshape(step.shape * 2))
            return registers[step.source].map(fn)
        case MapPixels():
            return registers[step.source].map(lambda a: step.map(step.map(a).T).T)
        case Combine():
            return _combined(program, step, registers, inputs)
        case Multiply():
            return layers.multiply(registers[step.first], registers[step.second])
        case Activate():
            return layers.activate(
                registers[step.source],
                step.activation,
                step.factor,
                inputs[0].variances[number],
                inputs[1].variances[number],
                is_same,
            )
        case Detach():
            return Kernels(registers[step.source].nngp, None)
        case ScaleByInput():
            product = _products(inputs, number)
            return registers[step.source].map(lambda array: product * array)
        case Offset():
            return Kernels(_products(inputs, number), None)
        case Gain():
            return _gained(registers[step.source], step, program.dtype)


def _combined(
    program: LiftedNetwork,
    step: Combine,
    registers: list[Kernels],
    inputs: tuple[Precomputed, Precomputed],
) -> Kernels:
    nngp, ntk = None, None
    for source, coefficient in step.terms:
        square = coefficient**2
        kernels = registers[source].map(lambda a, square=square: square * a)
        nngp = kernels.nngp if nngp is None else nngp + kernels.nngp
        if kernels.ntk is not None:
            ntk = kernels.ntk if ntk is None else ntk + kernels.ntk
    assert nngp is not None
    coefficients = dict(step.terms)
    for a, b in itertools.permutations(with_means(program, step.terms), 2):
        product = inputs[0].means[a][:, None] * inputs[1].means[b][None, :]
        nngp = nngp + coefficients[a] * coefficients[b] * product
    return Kernels(nngp, ntk)


def _products(inputs: tuple[Precomputed, Precomputed], number: int) -> Array:
    """Products of the factors of two inputs, of all pairs of pixels."""
    first, second = (of_input.read[number] for of_input in inputs)
    return first[:, None] * second[None, :]


def _gained(kernels: Kernels, step: Gain, dtype: Any) -> Kernels:
    square = step.value**2
    scaled = kernels.map(lambda array: square * array)
    if step.ntk == 0:
        return scaled
    own = step.ntk * _pattern(step, dtype) * kernels.nngp
    return Kernels(scaled.nngp, own if scaled.ntk is None else scaled.ntk + own)


def _pattern(step: Bias | Gain, dtype: Any) -> Array:
    """Where two pixels share a parameter."""
    pattern = jnp.ones((1, 1), dtype)
    for size, is_shared in zip(step.shape, step.is_shared, strict=True):
        factor = (
            jnp.ones((size, size), dtype) if is_shared else jnp.eye(size, dtype=dtype)
        )
        pattern = jnp.kron(pattern, factor)
    return pattern
