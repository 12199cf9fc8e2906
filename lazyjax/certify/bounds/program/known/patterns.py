"""What several equations compute together, of which better bounds are known."""

import dataclasses
import math
from typing import Any, TypeAlias

import jax.extend.core as jex

from lazyjax.jaxpr.equations import aval_of

# Bounds are larger than computed by this much.
_UP = 1 + 2.0**-40

MadeBy: TypeAlias = dict[Any, jex.JaxprEqn]
"""By variable: the equation that makes it."""


@dataclasses.dataclass(frozen=True)
class Bounded:
    r"""A function of a value, with derivatives that are bounded everywhere.

    Softmax and the like, of what is shifted by a number for each sum, do not depend on it.

    Attributes:
        operand: The value.
        slope: Upper bound of the norm of the first derivative.
        curvature: Of the second.
    """

    operand: Any
    slope: float
    curvature: float

    @property
    def variables(self) -> tuple[Any, ...]:
        """Variables whose values its bounds are read from."""
        return ()


@dataclasses.dataclass(frozen=True)
class Normalization:
    r"""$c\, (|c|^2 / d + \epsilon)^{-1/2}$ along axes.

    Attributes:
        operand: $c$.
        scale: The variable of the second factor.
        divisor: $d$.
    """

    operand: Any
    scale: Any
    divisor: float

    @property
    def variables(self) -> tuple[Any, ...]:
        """Variables whose values its bounds are read from."""
        return (self.scale,)


Pattern: TypeAlias = Bounded | Normalization


def pattern_of(eqn: jex.JaxprEqn, made_by: MadeBy) -> Pattern | None:
    """What an equation completes, if it is known.

    Args:
        eqn: The equation.
        made_by: Equations of its program.

    Returns:
        The pattern, or `None`.
    """
    name = eqn.primitive.name
    if name == "mul":
        a, b = eqn.invars
        return _normalization(a, b, made_by) or _normalization(b, a, made_by)
    if name == "sub":
        return _centering(eqn, made_by) or _log_softmax(eqn, made_by)
    if name in ("add", "log"):
        return _log_sum_exp(eqn, made_by)
    return _softmax(eqn, made_by)


def _normalization(c: Any, scale: Any, made_by: MadeBy) -> Normalization | None:
    if isinstance(c, jex.Literal):
        return None
    shape = aval_of(c).shape
    root = _source(scale, made_by)
    if root is not None and _is_repeated(root):
        root = _source(root.invars[0], made_by)
    if root is None or root.primitive.name != "rsqrt":
        return None
    shifted = _source(root.invars[0], made_by)
    if shifted is None or shifted.primitive.name != "add":
        return None
    mean, epsilon = shifted.invars
    if not isinstance(epsilon, jex.Literal) or not float(epsilon.val) >= 0:
        return None
    found = _mean(mean, made_by, shape)
    if found is None:
        return None
    summand, _, divisor = found
    square = _source(summand, made_by)
    if square is None or not _is_square(square, c):
        return None
    return Normalization(c, root.outvars[0], divisor)


def _centering(eqn: jex.JaxprEqn, made_by: MadeBy) -> Bounded | None:
    operand, mean = eqn.invars
    if isinstance(operand, jex.Literal):
        return None
    shape = aval_of(operand).shape
    found = _mean(mean, made_by, shape)
    if found is None or found[0] is not operand:
        return None
    _, axes, divisor = found
    is_projection = divisor == math.prod(shape[axis] for axis in axes)
    return Bounded(operand, 1.0, 0.0) if is_projection else None


def _mean(
    atom: Any, made_by: MadeBy, shape: tuple[int, ...]
) -> tuple[Any, tuple[int, ...], float] | None:
    """What a value is the mean of, along which axes, and the divisor."""
    # Sums are put back in place once along the way, and divided once.
    divisor, spread, eqn = None, None, _source(atom, made_by)
    while eqn is not None and eqn.primitive.name != "reduce_sum":
        if eqn.primitive.name == "div" and divisor is None:
            if not isinstance(eqn.invars[1], jex.Literal):
                return None
            divisor = float(eqn.invars[1].val)
        elif spread is None and eqn.primitive.name in _SPREADS:
            spread = eqn
        else:
            return None
        eqn = _source(eqn.invars[0], made_by)
    if eqn is None or spread is None or divisor is None or not divisor > 0:
        return None
    axes, summand = tuple(eqn.params["axes"]), eqn.invars[0]
    if aval_of(summand).shape != shape or not _is_spread(spread, axes, shape):
        return None
    return summand, axes, divisor


_SPREADS = ("broadcast_in_dim", "reshape", "expand_dims")


def _is_repeated(eqn: jex.JaxprEqn) -> bool:
    """Whether a broadcast does no more than to repeat axes of one entry."""
    if eqn.primitive.name != "broadcast_in_dim":
        return False
    axes = tuple(eqn.params["broadcast_dimensions"])
    return axes == tuple(range(len(aval_of(eqn.outvars[0]).shape)))


def _is_square(eqn: jex.JaxprEqn, c: Any) -> bool:
    name = eqn.primitive.name
    if name == "mul":
        return eqn.invars[0] is c and eqn.invars[1] is c
    is_power = name == "integer_pow" and eqn.params["y"] == 2
    return (name == "square" or is_power) and eqn.invars[0] is c


def _softmax(eqn: jex.JaxprEqn, made_by: MadeBy) -> Bounded | None:
    """The softmax that a quotient is, if it is exp(a - c) over its sum along axes."""
    if eqn.primitive.name != "div":
        return None
    top, sums = _source(eqn.invars[0], made_by), _sums(eqn.invars[1], made_by)
    if top is None or sums is None or not sums.is_spread:
        return None
    if top is not sums.exponential:
        return None
    return Bounded(sums.operand(made_by), 1 / 2, 5 / 4)


def _log_softmax(eqn: jex.JaxprEqn, made_by: MadeBy) -> Bounded | None:
    """The difference of a value and the logarithm of the sum of its exponentials."""
    sums = _log_sums(eqn.invars[1], made_by)
    if sums is None or not sums.is_spread:
        return None
    if sums.exponential.invars[0] is not eqn.invars[0]:
        return None
    root = math.sqrt(math.prod(sums.shape[axis] for axis in sums.axes)) * _UP
    return Bounded(sums.operand(made_by), root, root / 2)


def _log_sum_exp(eqn: jex.JaxprEqn, made_by: MadeBy) -> Bounded | None:
    """The logarithm of a sum of exponentials, of exp(a - c) if c is added to it."""
    size = aval_of(eqn.outvars[0]).size
    if eqn.primitive.name == "log":
        sums = _log_sums(eqn.outvars[0], made_by)
        if sums is None or sums.size != size:
            return None
        return Bounded(sums.exponential.invars[0], 1.0, 1 / 2)
    for logarithm, added in (eqn.invars, eqn.invars[::-1]):
        sums = _log_sums(logarithm, made_by)
        shift = None if sums is None else sums.shift(made_by)
        if sums is None or shift is None or sums.size != size:
            continue
        spread = _source(shift, made_by)
        is_same = added is shift and sums.is_spread
        is_before = (
            not sums.is_spread
            and spread is not None
            and spread.primitive.name in _SPREADS
            and spread.invars[0] is added
            and _is_spread(spread, sums.axes, sums.shape)
        )
        if is_same or is_before:
            return Bounded(sums.operand(made_by), 1.0, 1 / 2)
    return None


@dataclasses.dataclass(frozen=True)
class _Sums:
    """Sums of exponentials along axes.

    Attributes:
        exponential: The equation of the exponentials.
        axes: The axes.
        is_spread: Whether sums were put back in place, as one entry or as many.
    """

    exponential: jex.JaxprEqn
    axes: tuple[int, ...]
    is_spread: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the exponentials."""
        return aval_of(self.exponential.outvars[0]).shape

    @property
    def size(self) -> int:
        """Number of sums."""
        return math.prod(n for a, n in enumerate(self.shape) if a not in self.axes)

    def shift(self, made_by: MadeBy) -> Any | None:
        """What is subtracted in the exponents, the same along the axes of a sum."""
        shifted = _source(self.exponential.invars[0], made_by)
        if shifted is None or shifted.primitive.name != "sub":
            return None
        before, shift = shifted.invars
        if isinstance(before, jex.Literal) or aval_of(before).shape != self.shape:
            return None
        return shift if _is_constant_along(shift, self.axes, made_by) else None

    def operand(self, made_by: MadeBy) -> Any:
        """What the exponentials are of, without the shift."""
        exponent = self.exponential.invars[0]
        is_shifted = self.shift(made_by) is not None
        return made_by[exponent].invars[0] if is_shifted else exponent


def _log_sums(atom: Any, made_by: MadeBy) -> _Sums | None:
    """The sums that a value is the logarithm of."""
    eqn = _source(atom, made_by)
    if eqn is not None and eqn.primitive.name in _SPREADS:
        outer, eqn = eqn, _source(eqn.invars[0], made_by)
        sums = None if eqn is None else _log_sums(eqn.outvars[0], made_by)
        if sums is None or sums.is_spread:
            return None
        is_spread = _is_spread(outer, sums.axes, sums.shape)
        return dataclasses.replace(sums, is_spread=True) if is_spread else None
    if eqn is None or eqn.primitive.name != "log":
        return None
    before = _source(eqn.invars[0], made_by, through=("abs",))
    return None if before is None else _sums(before.outvars[0], made_by)


def _sums(atom: Any, made_by: MadeBy) -> _Sums | None:
    """The sums of exponentials that a value is, put back in place or not."""
    total, spread = _source(atom, made_by), None
    while total is not None and total.primitive.name in _SPREADS:
        if spread is not None and total.primitive.name != "reshape":
            return None
        spread = total if spread is None else spread
        total = _source(total.invars[0], made_by)
    if total is None or total.primitive.name != "reduce_sum":
        return None
    exponential = _source(total.invars[0], made_by)
    if exponential is None or exponential.primitive.name != "exp":
        return None
    if isinstance(exponential.invars[0], jex.Literal):
        return None
    sums = _Sums(exponential, tuple(total.params["axes"]), spread is not None)
    if spread is not None and not _is_spread(spread, sums.axes, sums.shape):
        return None
    return sums


def _source(
    atom: Any, made_by: MadeBy, through: tuple[str, ...] = ()
) -> jex.JaxprEqn | None:
    """The equation that makes a value, behind those that are looked through."""
    eqn = None if isinstance(atom, jex.Literal) else made_by.get(atom)
    while eqn is not None and eqn.primitive.name in through:
        atom = eqn.invars[0]
        eqn = None if isinstance(atom, jex.Literal) else made_by.get(atom)
    return eqn


def _is_constant_along(atom: Any, axes: tuple[int, ...], made_by: MadeBy) -> bool:
    """Whether a value is the same along axes, as it is broadcast along them."""
    shape = aval_of(atom).shape
    if not shape or all(shape[axis] == 1 for axis in axes):
        return True
    eqn = _source(atom, made_by, through=("stop_gradient",))
    if eqn is None or eqn.primitive.name != "broadcast_in_dim":
        return False
    kept = dict(
        zip(
            eqn.params["broadcast_dimensions"],
            aval_of(eqn.invars[0]).shape,
            strict=True,
        )
    )
    return all(kept.get(axis, 1) == 1 for axis in axes)


def _is_spread(
    spread: jex.JaxprEqn, axes: tuple[int, ...], shape: tuple[int, ...]
) -> bool:
    """Whether sums along axes are put back where their terms were."""
    before, after = (aval_of(v).shape for v in (spread.invars[0], spread.outvars[0]))
    if len(after) != len(shape):
        return False
    wide = [a for a, size in enumerate(shape) if a not in axes and size != 1]
    if spread.primitive.name == "broadcast_in_dim":
        numbers = spread.params["broadcast_dimensions"]
        kept = [a for a, size in zip(numbers, before, strict=True) if size != 1]
    elif spread.primitive.name in ("reshape", "expand_dims"):
        kept = [a for a, size in enumerate(after) if size != 1]
    else:
        return False
    # Axes of more than one entry stay in order, through any reshaping by ones.
    return kept == wide and all(after[a] == shape[a] for a in wide)
