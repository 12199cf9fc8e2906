"""Programs evaluated in 50 digits, on arrays of objects of mpmath."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import mpmath
import numpy as np

CONTEXT: Any = mpmath.mp.clone()
CONTEXT.dps = 50

_MOVES = {
    "reshape",
    "transpose",
    "broadcast_in_dim",
    "squeeze",
    "expand_dims",
    "slice",
    "rev",
    "dynamic_slice",
    "gather",
    "split",
    "concatenate",
    "stack",
    "unstack",
    "pad",
    "dynamic_update_slice",
    "scatter",
    "select_n",
}
_SAME = {"copy", "copy_p", "stop_gradient", "name", "optimization_barrier"}
_LINEAR = {"reduce_window_sum", "scatter-add"}
_BILINEAR = {"dot_general", "conv_general_dilated"}


def _each(fn: Callable[..., Any]) -> Callable[..., np.ndarray]:
    """A function of numbers, for arrays."""
    return lambda *arrays: np.asarray(np.frompyfunc(fn, len(arrays), 1)(*arrays))


def _truth(fn: Callable[..., Any]) -> Callable[..., np.ndarray]:
    return lambda *arrays: np.asarray(fn(*arrays), bool)


_ENTRYWISE: dict[str, Callable[..., np.ndarray]] = {
    "add": np.add,
    "add_any": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "neg": np.negative,
    "abs": np.abs,
    "sign": _each(CONTEXT.sign),
    "max": np.maximum,
    "min": np.minimum,
    "clamp": lambda low, a, high: np.minimum(np.maximum(a, low), high),
    "rem": _each(lambda a, b: CONTEXT.sign(a) * CONTEXT.fmod(abs(a), abs(b))),
    "pow": _each(lambda a, b: CONTEXT.mpf(a) ** b),
    "gt": _truth(np.greater),
    "ge": _truth(np.greater_equal),
    "lt": _truth(np.less),
    "le": _truth(np.less_equal),
    "eq": _truth(np.equal),
    "ne": _truth(np.not_equal),
    "is_finite": _truth(_each(CONTEXT.isfinite)),
    "tanh": _each(CONTEXT.tanh),
    "logistic": _each(lambda u: 1 / (1 + CONTEXT.exp(-u))),
    "exp": _each(CONTEXT.exp),
    "expm1": _each(CONTEXT.expm1),
    "log": _each(CONTEXT.log),
    "log1p": _each(lambda u: CONTEXT.log(1 + u)),
    "sqrt": _each(CONTEXT.sqrt),
    "rsqrt": _each(lambda u: 1 / CONTEXT.sqrt(u)),
    "square": _each(lambda u: u * u),
    "sin": _each(CONTEXT.sin),
    "cos": _each(CONTEXT.cos),
    "erf": _each(CONTEXT.erf),
    "erfc": _each(CONTEXT.erfc),
    "atan": _each(CONTEXT.atan),
    "asinh": _each(CONTEXT.asinh),
}
_REDUCED = {
    "reduce_sum": np.sum,
    "reduce_max": np.max,
    "reduce_min": np.min,
}


def exactly(value: Any) -> np.ndarray:
    """Floats as numbers of 50 digits, others as they are."""
    array = np.asarray(value)
    if jnp.issubdtype(array.dtype, jnp.floating):
        return np.asarray(_each(CONTEXT.mpf)(array.astype(np.float64)), object)
    return array


def evaluated(
    closed: jex.ClosedJaxpr, arguments: Sequence[np.ndarray], wanted: Any = None
) -> list[np.ndarray]:
    """Results of a program, or other variables of it.

    Args:
        closed: The program.
        arguments: Its arguments; arrays of numbers of 50 digits, integers, or booleans.
        wanted: Variables, by default the results.

    Returns:
        Their values.
    """
    jaxpr = closed.jaxpr
    known = dict(zip(jaxpr.invars, arguments, strict=True))
    known |= dict(zip(jaxpr.constvars, map(exactly, closed.consts), strict=True))

    def read(atom: Any) -> np.ndarray:
        return exactly(atom.val) if isinstance(atom, jex.Literal) else known[atom]

    for eqn in jaxpr.eqns:
        operands = [read(v) for v in eqn.invars]
        results = [np.asarray(v) for v in _results(eqn, operands)]
        known |= dict(zip(eqn.outvars, results, strict=True))
    return [read(v) for v in (jaxpr.outvars if wanted is None else wanted)]


def _results(eqn: jex.JaxprEqn, operands: list[np.ndarray]) -> list[np.ndarray]:
    name, params = eqn.primitive.name, eqn.params
    inner = params.get("call_jaxpr", params.get("jaxpr"))
    if isinstance(inner, jex.ClosedJaxpr):
        return evaluated(inner, operands)
    if name in _SAME:
        return operands
    if name == "convert_element_type":
        return [_converted(operands[0], np.dtype(params["new_dtype"]))]
    if not any(part.dtype == object for part in operands):
        return [exactly(v) for v in _bound(eqn, operands)]
    if name in _MOVES:
        return _moved(eqn, operands)
    if name in _REDUCED:
        return [np.asarray(_REDUCED[name](operands[0], axis=tuple(params["axes"])))]
    if name == "argmax":
        (axis,) = params["axes"]
        return [np.asarray(np.argmax(operands[0], axis=axis))]
    if name == "cumsum":
        (a,) = operands
        order = slice(None, None, -1 if params["reverse"] else 1)
        turned = np.moveaxis(a, params["axis"], 0)[order]
        return [np.moveaxis(np.cumsum(turned, axis=0)[order], 0, params["axis"])]
    if name in _LINEAR:
        return [_linear(eqn, operands)]
    if name in _BILINEAR:
        return [_bilinear(eqn, *operands)]
    if name == "integer_pow":
        return [operands[0] ** params["y"]]
    return [np.asarray(_ENTRYWISE[name](*operands))]


def _bound(eqn: jex.JaxprEqn, operands: Sequence[Any]) -> list[np.ndarray]:
    with jax.enable_x64(True):
        params = dict(eqn.params)
        if "preferred_element_type" in params:
            params["preferred_element_type"] = np.dtype(np.float64)
        found = eqn.primitive.bind(*map(jnp.asarray, operands), **params)
    found = found if eqn.primitive.multiple_results else [found]
    return [np.asarray(v) for v in found]


def _converted(a: np.ndarray, target: np.dtype) -> np.ndarray:
    if jnp.issubdtype(target, jnp.floating):
        return a if a.dtype == object else exactly(a.astype(np.float64))
    return np.asarray(_each(int)(a) if a.dtype == object else a, target)


def _moved(eqn: jex.JaxprEqn, operands: list[np.ndarray]) -> list[np.ndarray]:
    """Where numbers go, by what the program does with their positions."""
    pool = [part.reshape(-1) for part in operands if part.dtype == object]
    positions, begin = [], 0
    for part in operands:
        if part.dtype == object:
            numbers = np.arange(begin, begin + part.size, dtype=np.float64)
            positions.append(numbers.reshape(part.shape))
            begin += part.size
        else:
            positions.append(part)
    every = np.concatenate(pool)
    return [every[found.astype(int)] for found in _bound(eqn, positions)]


def _linear(eqn: jex.JaxprEqn, operands: list[np.ndarray]) -> np.ndarray:
    """A sum over entries of operands, by what the program does with one at a time."""
    total: Any = 0
    for position, part in enumerate(operands):
        for place in np.ndindex(part.shape) if part.dtype == object else ():
            units = [np.zeros(v.shape) if v.dtype == object else v for v in operands]
            units[position][place] = 1.0
            (found,) = _bound(eqn, units)
            total = total + _each(CONTEXT.mpf)(found) * part[place]
    return np.asarray(total, object)


def _bilinear(eqn: jex.JaxprEqn, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """A sum of products of entries, by which of them are multiplied."""
    eyes = [np.eye(part.size).reshape(-1, *part.shape) for part in (a, b)]
    params = dict(eqn.params, preferred_element_type=np.dtype(np.float64))

    def bind(one: Any, other: Any) -> Any:
        return eqn.primitive.bind(one, other, **params)

    with jax.enable_x64(True):
        found = jax.vmap(jax.vmap(bind, (None, 0)), (0, None))(*map(jnp.asarray, eyes))
    table, flat = np.asarray(found), (a.reshape(-1), b.reshape(-1))
    total = np.full(table.shape[2:], CONTEXT.mpf(0), object)
    for i, j, *place in np.argwhere(np.abs(table) > 0.5):
        total[tuple(place)] += flat[0][i] * flat[1][j]
    return total
