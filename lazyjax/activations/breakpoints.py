"""Where functions of one number have kinks and jumps, found from their programs."""

import dataclasses
from collections.abc import Callable, Generator, Sequence
from typing import Any, Literal, TypeAlias

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from lazyjax.jaxpr.equations import aval_of, called, evaluate, is_smooth, opened
from lazyjax.jaxpr.registry import describe, primitive_of

# More kinks and jumps than these are refused.
MOST_BREAKS = 32

_REACH = 1e6  # none is looked for farther out
_NEAR_ZERO = 1e-20  # those nearer to 0 are at 0
_BATCH = 512  # points watched at once


class TooManyBreaksError(ValueError):
    """A function has more kinks and jumps than its moments can be made of."""


def breaks(fn: Callable[[Array], Array], dtype: Any) -> tuple[float, ...]:
    """Increasing places of kinks and jumps of a function, as far out as a million."""
    # Its comparisons, roundings, maxima and the like, and all its integers, are watched
    # on a grid, and changes are located by bisection to the last bit. So there may be a
    # kink or jump at each of the places; between them the function is one formula. A
    # branch that is taken between two points of the grid only (some 0.01 apart) is found
    # if some value of the program passes 0 there.
    watch = _Watch(fn, dtype)
    if not watch.num_branches:
        return ()
    grid = _grid((0.0, *_marks(watch)), dtype)
    return _changes(watch.branches, grid, MOST_BREAKS)


def marks(fn: Callable[[Array], Array], dtype: Any) -> tuple[float, ...]:
    """Increasing places where a value inside the program of a function passes 0."""
    # There it may vary fast without a kink: narrow bumps, steep steps, singularities.
    # Values that pass 0 more often than `MOST_BREAKS` times are left out.
    return _marks(_Watch(fn, dtype))


def _marks(watch: "_Watch") -> tuple[float, ...]:
    return _changes(watch.signs, _grid((0.0,), watch.dtype), None)


class _Watch:
    """What the program of a function does at each of many numbers."""

    def __init__(self, fn: Callable[[Array], Array], dtype: Any) -> None:
        self.dtype = dtype
        self._program = jax.make_jaxpr(fn)(jax.ShapeDtypeStruct((1,), dtype))
        # Compiled, and for one number of points: eager operations would cost more.
        self._fn = jax.jit(jax.vmap(self._at))
        points = jax.ShapeDtypeStruct((_BATCH,), dtype)
        self.num_branches = jax.eval_shape(jax.vmap(self._at), points)[0].shape[1]

    def branches(self, points: np.ndarray) -> np.ndarray:
        """Branches taken, one row of numbers for each point."""
        return self._rows(0, points)

    def signs(self, points: np.ndarray) -> np.ndarray:
        """Signs of real values, one row for each point."""
        return self._rows(1, points)

    def _rows(self, which: int, points: np.ndarray) -> np.ndarray:
        filled = np.zeros((-(-points.size // _BATCH), _BATCH), self.dtype)
        filled.ravel()[: points.size] = points
        with jax.ensure_compile_time_eval():
            rows = [np.asarray(self._fn(batch)[which]) for batch in filled]
        return np.concatenate(rows)[: points.size]

    def _at(self, u: Array) -> tuple[Array, Array]:
        jaxpr, consts = opened(self._program)
        known = [_Value(_concrete(c), False) for c in consts]
        seen = list(_observed(jaxpr, known, [_Value(u[None], True)]))
        return _row(seen, "branch"), _row(seen, "sign")


# Equations, watched -------------------------------------------------------------------

_Kind: TypeAlias = Literal["branch", "sign"]
_Seen: TypeAlias = Generator[tuple[_Kind, Array], None, list["_Value"]]


@dataclasses.dataclass(frozen=True)
class _Value:
    """A value of the program; None if it is a traced one."""

    array: Any
    varies: bool  # whether it depends on the argument


def _observed(
    jaxpr: jex.Jaxpr, consts: Sequence[_Value], args: Sequence[_Value]
) -> _Seen:
    """Branches that equations take and signs of their results, then the outputs."""
    env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))

    def read(atom: Any) -> _Value:
        is_literal = isinstance(atom, jex.Literal)
        if is_literal:
            return _Value(np.asarray(atom.val, aval_of(atom).dtype), False)
        return env[atom]

    for eqn in jaxpr.eqns:
        operands = [read(atom) for atom in eqn.invars]
        # Custom rules change derivatives only, and these have programs of their own.
        inner = called(eqn) or eqn.params.get("call_jaxpr")
        if inner is not None:
            results = yield from _opened_up(inner, operands)
        else:
            for branch in eqn.params.get("branches", ()):  # of `cond`
                yield from _opened_up(branch, operands[1:])
            results = yield from _result(eqn, jaxpr.debug_info, operands)
        env.update(zip(eqn.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _opened_up(jaxpr: Any, operands: Sequence[_Value]) -> _Seen:
    inner, consts = opened(jaxpr)
    return _observed(inner, [_Value(_concrete(c), False) for c in consts], operands)


def _result(eqn: jex.JaxprEqn, debug_info: Any, operands: Sequence[_Value]) -> _Seen:
    varies = any(operand.varies for operand in operands)
    branch_fn = primitive_of(eqn).branch
    is_discrete = [not is_smooth(atom) for atom in eqn.outvars]
    if any(operand.array is None for operand in operands):
        if varies and (branch_fn is not None or any(is_discrete)):
            raise ValueError(
                "`activation` has kinks or jumps at places that depend on traced values "
                f"(in {eqn.primitive.name!r}), where they cannot be found. Close over "
                "numbers known before tracing, or use `lazyjax.monte_carlo_ntk`."
            )
        return [_Value(None, varies) for _ in eqn.outvars]
    arrays = evaluate(eqn, debug_info, *(operand.array for operand in operands))
    if varies:
        if branch_fn is not None:
            found = branch_fn(eqn, arrays[0], *(operand.array for operand in operands))
            yield "branch", found
        for array, is_integer in zip(arrays, is_discrete, strict=True):
            yield ("branch", array) if is_integer else ("sign", jnp.sign(array))
    return [_Value(array, varies) for array in arrays]


def _row(seen: Sequence[tuple[_Kind, Array]], kind: _Kind) -> Array:
    """Everything observed of one kind, as one array of numbers."""
    found = [jnp.ravel(value).astype(jnp.float32) for of, value in seen if of == kind]
    row = jnp.concatenate([jnp.zeros(0, jnp.float32), *found])
    return jnp.where(jnp.isnan(row), jnp.inf, row)


def _order(eqn: jex.JaxprEqn, out: Array, a: Any, b: Any) -> Array:
    return jnp.where(a > b, 1, jnp.where(a < b, -1, 0))


def _extreme(eqn: jex.JaxprEqn, out: Array, x: Array) -> Array:
    return x == jnp.expand_dims(out, eqn.params["axes"])


# What tells which branch a primitive takes: a function of its equation, its first result
# and its operands.
_BRANCHES: dict[str, Callable[..., Array]] = {
    "abs": lambda eqn, out, x: jnp.sign(x),
    "ceil": lambda eqn, out, x: out,
    "clamp": lambda eqn, out, low, x, high: (
        jnp.where(x > low, 1, 0) + jnp.where(x >= high, 1, 0)
    ),
    "cummax": lambda eqn, out, x: x == out,
    "cummin": lambda eqn, out, x: x == out,
    "floor": lambda eqn, out, x: out,
    "max": _order,
    "min": _order,
    "reduce_max": _extreme,
    "reduce_min": _extreme,
    "rem": lambda eqn, out, x, y: jnp.trunc(x / y),
    "round": lambda eqn, out, x: out,
    "sign": lambda eqn, out, x: out,
    "sort": lambda eqn, out, x, *_: jnp.argsort(x, axis=eqn.params["dimension"]),
}
for _name, _branch in _BRANCHES.items():
    describe(_name, branch=_branch)


def _concrete(const: Any) -> Any | None:
    """`const`, or None if it is traced."""
    try:
        np.asarray(const)
    except jax.errors.TracerArrayConversionError:
        return None
    return const


# Places -------------------------------------------------------------------------------


def _grid(centres: Sequence[float], dtype: Any) -> np.ndarray:
    """Points at which programs are watched first, dense around `centres`."""
    steps = np.geomspace(1e-9, 1, 90)  # no round numbers, where kinks are
    near = np.concatenate([c + sign * steps for c in centres for sign in (-1, 1)])
    far = np.geomspace(1, 0.987 * _REACH, 700)
    points = [near, np.linspace(-16.013, 16.017, 4093), far, -far]
    return np.unique(np.concatenate(points).astype(dtype))


def _changes(
    watch: Callable[[np.ndarray], np.ndarray], grid: np.ndarray, limit: int | None
) -> tuple[float, ...]:
    """Increasing places where what `watch` sees is not the same on both sides."""
    # Beyond `limit` places there is an error; without a limit, what changes too often
    # is looked away from.
    rows = watch(grid)
    if limit is None:
        columns = np.sum(rows[1:] != rows[:-1], axis=0) <= MOST_BREAKS
        rows = rows[:, columns]
    else:
        columns = np.ones(rows.shape[1], bool)
    is_change = np.any(rows[1:] != rows[:-1], axis=1)
    low, high = (_ordered(side[is_change]) for side in (grid[:-1], grid[1:]))
    low_rows, high_rows = rows[:-1][is_change], rows[1:][is_change]
    while low.size and np.any(high - low > 1):
        if limit is not None and low.size > 4 * limit:
            raise TooManyBreaksError(_too_many(low.size, limit))
        middle = low + (high - low) // 2
        middle_rows = watch(_numbers(middle, grid.dtype))[:, columns]
        halves = (
            (low, low_rows, middle, middle_rows),
            (middle, middle_rows, high, high_rows),
        )
        kept = []
        for half in halves:
            differs = np.any(half[1] != half[3], axis=1)
            kept.append([part[differs] for part in half])
        low, low_rows, high, high_rows = (
            np.concatenate(p) for p in zip(*kept, strict=True)
        )
    a, b = (_numbers(side, grid.dtype).astype(np.float64) for side in (low, high))
    places = _merged(sorted(((a + b) / 2).tolist()), grid.dtype)
    if limit is not None and len(places) > limit:
        raise TooManyBreaksError(_too_many(len(places), limit))
    return tuple(places)


def _merged(places: list[float], dtype: Any) -> list[float]:
    """Places without those that are the same up to rounding."""
    merged: list[float] = []
    for place in places:
        place = 0.0 if abs(place) < _NEAR_ZERO else place
        same = 16 * float(jnp.finfo(dtype).eps) * abs(place)
        if not merged or place - merged[-1] > same:
            merged.append(place)
    return merged


def _too_many(count: int, limit: int) -> str:
    return (
        f"`activation` must have at most {limit} kinks and jumps between -1e6 and 1e6 to "
        f"have Gaussian moments; its program has at least {count}. Bound its "
        "argument, as by `jnp.clip`, before it is rounded, or use "
        "`lazyjax.monte_carlo_ntk`."
    )


def _ordered(points: np.ndarray) -> np.ndarray:
    """Integers in the order of floating-point numbers, without gaps."""
    bits = points.view(np.int64 if points.dtype == np.float64 else np.int32)
    return np.where(bits >= 0, bits, np.iinfo(bits.dtype).min - bits).astype(np.int64)


def _numbers(ordered: np.ndarray, dtype: Any) -> np.ndarray:
    """The numbers of which `_ordered` made these integers."""
    bits_type = np.dtype(np.int64 if dtype == np.float64 else np.int32)
    bits = ordered.astype(bits_type)
    bits = np.where(bits >= 0, bits, np.iinfo(bits_type).min - bits)
    return bits.astype(bits_type).view(dtype)
