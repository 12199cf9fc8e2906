"""A program for each rule of enclosures, and what is known of it in 50 digits."""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from lazyjax.certify.bounds.program.enclosing.enclosure import Enclosure
from lazyjax.certify.bounds.program.enclosing.interpreter import enclosures
from tests.helpers.multiprecision import CONTEXT, evaluated, exactly

# By primitive: a program of arrays of these shapes that has it.
CASES: dict[str, tuple[Callable[..., Any], tuple[tuple[int, ...], ...]]] = {
    "add": (lax.add, ((20,), (20,))),
    "sub": (lax.sub, ((4,), (4,))),
    "mul": (lax.mul, ((4,), (4,))),
    "div": (lambda a, b: a / (b + 3), ((3,), (3,))),
    "neg": (lax.neg, ((5,),)),
    "abs": (lax.abs, ((5,),)),
    "sign": (jnp.sign, ((5,),)),
    "pow": (lambda a: (2 + a) ** 1.7, ((5,),)),
    "computed exponents": (lambda a, b: (2 + a) ** b, ((4,), (4,))),
    "max": (lambda a, b: jnp.maximum(a, a + 0.01 * b), ((4,), (4,))),
    "min": (lambda a, b: jnp.minimum(a, a + 0.01 * b), ((4,), (4,))),
    "clamp": (lambda a, b: lax.clamp(b - 0.4, a, b + 0.4), ((4,), (4,))),
    "reduce_max": (lambda a: jnp.max(a, axis=1), ((2, 3),)),
    "reduce_min": (lambda a: jnp.min(a, axis=1), ((2, 3),)),
    "argmax": (
        lambda a, b: jnp.argmax(jnp.stack([a, b]), axis=0).astype(a.dtype),
        ((4,), (4,)),
    ),
    "unstack": (
        lambda a: jax.vjp(lambda *v: jnp.stack(v), a[0], a[1])[1](a),
        ((2, 3),),
    ),
    "gt": (lambda a, b: (a > b).astype(a.dtype), ((4,), (4,))),
    "ge": (lambda a, b: (a >= b).astype(a.dtype), ((4,), (4,))),
    "lt": (lambda a, b: (a < b).astype(a.dtype), ((4,), (4,))),
    "le": (lambda a, b: (a <= b).astype(a.dtype), ((4,), (4,))),
    "eq": (lambda a, b: (a == b).astype(a.dtype), ((4,), (4,))),
    "ne": (lambda a, b: (a != b).astype(a.dtype), ((4,), (4,))),
    "and": (lambda a, b: ((a > 0) & (b > 0)).astype(a.dtype), ((4,), (4,))),
    "or": (lambda a, b: ((a > 0) | (b > 0)).astype(a.dtype), ((4,), (4,))),
    "xor": (lambda a, b: ((a > 0) ^ (b > 0)).astype(a.dtype), ((4,), (4,))),
    "not": (lambda a: (~(a > 0)).astype(a.dtype), ((5,),)),
    "rem": (lambda a: jnp.where(a > 0, 5, 7) % 4 * a, ((5,),)),
    "is_finite": (lambda a: jnp.where(jnp.isfinite(a), a, 7.0), ((5,),)),
    "select_n": (lambda a, b: jnp.where(a > 0, a, b), ((4,), (4,))),
    "convert_element_type": (
        lambda a: (3 * (a > 0).astype(jnp.int32)).astype(a.dtype),
        ((5,),),
    ),
    "copy": (lambda a: jnp.array(a, copy=True), ((4,),)),
    "stop_gradient": (lax.stop_gradient, ((4,),)),
    "name": (lambda a: checkpoint_name(a, "a"), ((4,),)),
    "optimization_barrier": (lax.optimization_barrier, ((4,),)),
    "dot_general": (lambda a, b: a @ b, ((2, 3), (3, 2))),
    "conv_general_dilated": (
        lambda a, b: lax.conv_general_dilated(
            a[None, None], b[None, None], (1,), "SAME"
        ),
        ((5,), (3,)),
    ),
    "reshape": (lambda a: a.reshape(4), ((2, 2),)),
    "transpose": (lambda a: a.T, ((2, 3),)),
    "broadcast_in_dim": (lambda a: jnp.broadcast_to(a, (3, 2)), ((2,),)),
    "squeeze": (lambda a: lax.squeeze(a, (0,)), ((1, 4),)),
    "slice": (lambda a: a[1:3], ((4,),)),
    "rev": (lambda a: lax.rev(a, (0,)), ((4,),)),
    "dynamic_slice": (lambda a: lax.dynamic_slice(a, (jnp.array(1),), (2,)), ((4,),)),
    "gather": (lambda a: a[jnp.array([0, 0, 0, 1])], ((4,),)),
    "split": (lambda a: lax.split(a, (1, 3)), ((4,),)),
    "concatenate": (lambda a, b: jnp.concatenate([a, b]), ((2,), (3,))),
    "pad": (lambda a: jnp.pad(a, (1, 2)), ((3,),)),
    "dynamic_update_slice": (
        lambda a, b: lax.dynamic_update_slice(a, b, (jnp.array(1),)),
        ((4,), (2,)),
    ),
    "scatter": (lambda a, b: a.at[jnp.array([1])].set(b), ((4,), (1,))),
    "scatter-add": (lambda a, b: a.at[jnp.array([1, 1])].add(b), ((4,), (2,))),
    "reduce_sum": (lambda a: jnp.sum(a, axis=1), ((2, 4),)),
    "cumsum": (jnp.cumsum, ((5,),)),
    "reduce_window_sum": (
        lambda a: lax.reduce_window(
            a, np.zeros((), a.dtype), lax.add, (3,), (2,), "VALID"
        ),
        ((7,),),
    ),
    "tanh": (jnp.tanh, ((5,),)),
    "logistic": (jax.nn.sigmoid, ((5,),)),
    "exp": (jnp.exp, ((5,),)),
    "expm1": (jnp.expm1, ((5,),)),
    "log": (lambda a: jnp.log(2 + a), ((5,),)),
    "log1p": (lambda a: jnp.log1p(1 + a), ((5,),)),
    "sqrt": (lambda a: jnp.sqrt(2 + a), ((5,),)),
    "rsqrt": (lambda a: lax.rsqrt(2 + a), ((5,),)),
    "square": (jnp.square, ((5,),)),
    "integer_pow": (lambda a: a**3, ((5,),)),
    "sin": (jnp.sin, ((5,),)),
    "cos": (jnp.cos, ((5,),)),
    "erf": (lax.erf, ((5,),)),
    "erfc": (lax.erfc, ((5,),)),
    "atan": (jnp.arctan, ((5,),)),
    "asinh": (jnp.arcsinh, ((5,),)),
}
# Where the random numbers of a case are multiplied by more than 1.
SIZES = {"erfc": 24.0, "add": 3.7}


def traced(name: str) -> Any:
    """The program of a case, in float64."""
    fn, shapes = CASES[name]
    with jax.enable_x64(True):
        like = [jax.ShapeDtypeStruct(shape, np.dtype(np.float64)) for shape in shapes]
        return jax.make_jaxpr(fn)(*like)


@functools.cache
def points(name: str, radius: float) -> Any:
    """A program at points around a centre, within `radius` by entries, in 50 digits.

    The first is the centre; the others are all corners, if there are few, or random ones,
    and then points where one entry is off.
    """
    _, shapes = CASES[name]
    rng = np.random.default_rng(0)
    size = SIZES.get(name, 1.0)
    centre = [size * rng.uniform(-0.9, 1, shape) for shape in shapes]
    for part in centre:
        part[(0,) * part.ndim] = 0.02  # which is equal, and may be negative
    count = sum(part.size for part in centre)
    if count <= 5:
        corners = np.array(list(itertools.product((-1.0, 1.0), repeat=count)))
    else:
        corners = rng.choice((-1.0, 1.0), (24, count))
        corners[0] = 1.0
    moves = np.concatenate([np.zeros((1, count)), corners, np.eye(count)])
    program, found = traced(name), []
    moves = moves if radius else moves[:1]
    for move in moves:
        pieces = np.split(move, np.cumsum([part.size for part in centre])[:-1])
        arguments = [
            exactly(part) + exactly(piece.reshape(part.shape)) * CONTEXT.mpf(radius)
            for part, piece in zip(centre, pieces, strict=True)
        ]
        found.append(evaluated(program, arguments))
    return program, centre, moves, found


def violations(name: str, radius: float) -> set[str]:
    """What points break of the enclosures that rules give now."""
    program, centre, moves, found = points(name, radius)
    broken = set()
    arguments = [Enclosure(part, np.full(part.shape, radius)) for part in centre]
    if not radius:
        arguments = [Enclosure(part, np.zeros(())) for part in centre]
    # Errors of all entries, and errors of a norm.
    for is_by_norm in (False, True) if radius else (False,):
        if is_by_norm:
            arguments = [part._replace(norm=radius) for part in arguments]
        for known, *values in zip(enclosures(program, arguments), *found, strict=True):
            allowed = np.broadcast_to(known.radius, known.value.shape)
            for move, value in zip(moves, values, strict=True):
                if is_by_norm and np.sum(move != 0) > 1:
                    continue
                off = np.abs(exactly(known.value) - value)
                if np.any(off > exactly(allowed)):
                    broken.add("entries")
                if CONTEXT.sqrt(np.sum(off * off)) > known.error:
                    broken.add("norm")
    return broken
