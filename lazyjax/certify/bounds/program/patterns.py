"""What several equations compute together, of which better bounds are known."""

import dataclasses
import math
from typing import Any, TypeAlias

import jax.extend.core as jex

from lazyjax.jaxpr.equations import aval_of

MadeBy: TypeAlias = dict[Any, jex.JaxprEqn]
"""By variable: the equation that makes it."""


@dataclasses.dataclass(frozen=True)
class Softmax:
    """Exponentials divided by their sum along axes.

    Attributes:
        operand: What the exponentials are of, up to a number for each sum, which does
            not matter.
    """

    operand: Any

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


@dataclasses.dataclass(frozen=True)
class Centering:
    """A value minus its mean along axes.

    Attributes:
        operand: The value.
    """

    operand: Any

    @property
    def variables(self) -> tuple[Any, ...]:
        """Variables whose values its bounds are read from."""
        return ()


Pattern: TypeAlias = Softmax | Normalization | Centering


def pattern_of(eqn: jex.JaxprEqn, made_by: MadeBy) -> Pattern | None:
    """What an equation completes, if it is known.

    Args:
        eqn: The equation.
        made_by: Equations of its program.

    Returns:
        The pattern, or `None`.
    """
    if eqn.primitive.name == "mul":
        a, b = eqn.invars
        return _normalization(a, b, made_by) or _normalization(b, a, made_by)
    if eqn.primitive.name == "sub":
        return _centering(eqn, made_by)
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


def _centering(eqn: jex.JaxprEqn, made_by: MadeBy) -> Centering | None:
    operand, mean = eqn.invars
    if isinstance(operand, jex.Literal):
        return None
    shape = aval_of(operand).shape
    found = _mean(mean, made_by, shape)
    if found is None or found[0] is not operand:
        return None
    _, axes, divisor = found
    is_projection = divisor == math.prod(shape[axis] for axis in axes)
    return Centering(operand) if is_projection else None


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


def _softmax(eqn: jex.JaxprEqn, made_by: MadeBy) -> Softmax | None:
    """The softmax that a quotient is, if it is exp(a - c) over its sum along axes."""
    # It does not depend on c if that is constant along the axes.
    if eqn.primitive.name != "div":
        return None
    top, bottom = (_source(v, made_by) for v in eqn.invars)
    if top is None or bottom is None or top.primitive.name != "exp":
        return None
    total = _source(bottom.invars[0], made_by, through=("reshape",))
    if total is None or total.primitive.name != "reduce_sum":
        return None
    axes = tuple(total.params["axes"])
    shape = aval_of(top.outvars[0]).shape
    if total.invars[0] is not eqn.invars[0] or not _is_spread(bottom, axes, shape):
        return None
    exponent = top.invars[0]
    shifted = _source(exponent, made_by)
    if shifted is not None and shifted.primitive.name == "sub":
        before, shift = shifted.invars
        exponent = before if _is_constant_along(shift, axes, made_by) else exponent
    if isinstance(exponent, jex.Literal) or aval_of(exponent).shape != shape:
        return None
    return Softmax(exponent)


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
