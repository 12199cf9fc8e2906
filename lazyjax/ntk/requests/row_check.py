"""Whether rows interact: by proof, and by measurement where there is none.

Measured are outputs and derivatives of whole batches, against those of each row alone.
"""

import contextlib
import dataclasses
import functools
import math
import weakref
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from lazyjax.batches import batch_of, num_rows
from lazyjax.callables.static import HashableCallable, Identity
from lazyjax.jaxpr.convolutions import with_quick_convolutions
from lazyjax.jaxpr.equations import primitives
from lazyjax.jaxpr.rows.independence import rows_are_independent
from lazyjax.jaxpr.widened import evaluate_at_least
from lazyjax.trees import tree_add, tree_size
from lazyjax.typing import ApplyFn, Inputs, Params

# Times the change of a row when its parameters are changed by rounding.
_CONDITION = 30.0
# Numbers of gradients that are held at a time.
_GRADIENT_NUMBERS = 2**25


@dataclasses.dataclass(frozen=True)
class _Level:
    """How exactly rows are compared."""

    dtype: Any  # type of all floating-point numbers that would be in a narrower one
    tolerance: float  # by how much of its size an entry may differ
    share: float  # how much of the size of others like it is added to that of an entry
    # Whether it may also differ by what rounding of the parameters changes it by.
    is_conditioned: bool


# 256 units of rounding of float32, also where rounding is a billion times finer.
_QUICK = _Level(jnp.float32, 2.0**-15, 2.0**-8, is_conditioned=False)
_EXACT = _Level(jnp.float64, 2.0**-15, 2.0**-16, is_conditioned=True)
_TRACED = _Level(jnp.float32, 2.0**-15, 2.0**-8, is_conditioned=True)
# Networks in float64, beside which there is no wider type.
_QUICK_DOUBLE = _Level(jnp.float64, 2.0**-30, 2.0**-16, is_conditioned=False)
_DOUBLE = _Level(jnp.float64, 2.0**-30, 2.0**-16, is_conditioned=True)


# By the identity of a function: whether its rows are proven independent, by what it is
# traced for.
_proofs: weakref.WeakKeyDictionary[Identity, dict[Hashable, bool]]
_proofs = weakref.WeakKeyDictionary()


def rows_are_proven(
    apply_fn: ApplyFn,
    params: Params,
    x1: Inputs,
    x2: Inputs | None = None,
) -> bool:
    """Whether it is proven that rows do not interact; no numbers are looked at."""
    # Proofs are kept for each state of `apply_fn` and the shapes and dtypes of the
    # other arguments: a second call traces nothing.
    fn = HashableCallable(apply_fn)
    proofs = _proofs.setdefault(fn.identity, {})
    leaves, structure = jax.tree.flatten(params)
    like = tuple((jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)
    is_x64 = _is_x64()
    for x in (x1, x2):
        if x is None or num_rows(x) < 2:
            continue
        rows, of_rows = jax.tree.flatten(x)
        of_rows = of_rows, tuple((leaf.shape, leaf.dtype) for leaf in rows)
        key = structure, like, of_rows, is_x64
        if key not in proofs:
            # As a program of its own, it is traced once for each size of batch.
            proofs[key] = rows_are_independent(jax.jit(fn), params, x)
        if not proofs[key]:
            return False
    return True


def check_row_independence(
    apply_fn: ApplyFn,
    params: Params,
    x1: Inputs,
    x2: Inputs | None = None,
) -> Bool[Array, ""] | None:
    """Refuse a network whose rows interact, in a program of its own."""
    fn = HashableCallable(apply_fn)
    if rows_are_proven(fn, params, x1, x2):
        return None
    level = _QUICK_DOUBLE if _is_double(fn, params, x1) else _QUICK
    excess = _compiled_measured(fn, params, x1, x2, level)
    return refuse_interaction(excess, fn, params, x1, x2)


def refuse_interaction(
    excess: Float[Array, ""],
    apply_fn: ApplyFn,
    params: Params,
    x1: Inputs,
    x2: Inputs | None,
) -> Bool[Array, ""] | None:
    """Refuse a network whose rows interact; where values are traced, whether they do."""
    # If a quick excess is above 1, rows are compared again: in float64, or, where values
    # are traced, with more allowance for rounding. `None` if they do not interact.
    is_double = _is_double(apply_fn, params, x1)
    try:
        is_suspect = float(excess) > 1
    except jax.errors.ConcretizationTypeError:
        level = _DOUBLE if is_double else _TRACED
        traced_excess = lax.cond(
            excess > 1,
            lambda: measured_excess(apply_fn, params, x1, x2, level),
            lambda: jnp.zeros((), jnp.float32),
        )
        return traced_excess > 1
    if not is_suspect:
        return None
    level = _DOUBLE if is_double else _EXACT
    is_x64 = _is_x64()
    fn = HashableCallable(apply_fn)
    with jax.enable_x64(True):
        exact = float(_compiled_measured(fn, params, x1, x2, level, is_x64))
    if exact <= 1:
        return None
    raise ValueError(
        "`apply_fn` must treat the rows of `x` independently; in the batch, a row "
        f"differs by {exact * level.tolerance:.2g} times its size from what it is alone. "
        "Put batch normalization and dropout into inference mode and remove what mixes "
        "or counts rows. `check_rows=False` leaves this check out."
    )


def nan_if_interacting(tree: Any, interacts: Bool[Array, ""] | None) -> Any:
    """`tree`, or NaN throughout if rows interact, by `refuse_interaction`."""
    if interacts is None:
        return tree
    return jax.tree.map(lambda leaf: jnp.where(interacts, jnp.nan, leaf), tree)


def _is_x64() -> bool:
    return jax.dtypes.canonicalize_dtype(jnp.float64) == jnp.float64


def _is_double(apply_fn: ApplyFn, params: Params, x: Inputs) -> bool:
    return jax.eval_shape(apply_fn, params, x).dtype == jnp.float64


def measured_excess(
    apply_fn: ApplyFn,
    params: Params,
    x1: Inputs,
    x2: Inputs | None,
    level: _Level,
    is_x64: bool | None = None,
) -> Float[Array, ""]:
    """How much outputs and derivatives of whole batches differ from those of rows alone."""
    # The largest difference of an entry, over the one that rounding explains: rows
    # interact if it is above 1. Infinite if only one of two is finite. With `is_x64`,
    # `apply_fn` is traced with 64-bit types, or without; `None` leaves that as it is.
    params, x1, x2 = lax.stop_gradient((params, x1, x2))
    excess = jnp.zeros((), jnp.float32)
    for x in (x1, x2):
        if x is not None and num_rows(x) > 1:
            with contextlib.nullcontext() if is_x64 is None else jax.enable_x64(is_x64):
                programs = _programs(apply_fn, params, x)
            leaves = jax.tree.leaves(params), jax.tree.leaves(x)
            of_batch = _excess(*programs, *leaves, level)
            excess = jnp.maximum(excess, of_batch)
    return excess


_compiled_measured = jax.jit(
    with_quick_convolutions(measured_excess), static_argnums=(0, 4, 5)
)


def _excess(
    together: jex.ClosedJaxpr,
    alone: jex.ClosedJaxpr,
    params: list[Array],
    x: list[Array],
    level: _Level,
) -> Float[Array, ""]:
    whole = evaluate_at_least(level.dtype, together, [*params, *x])
    rows = evaluate_at_least(level.dtype, alone, [*params, *x])
    changes = [jnp.zeros_like(part) for part in rows]
    if level.is_conditioned:
        moved = [_rounded_otherwise(leaf, level) for leaf in params]
        others = evaluate_at_least(level.dtype, alone, [*moved, *x])
        changes = [jnp.abs(a - b) for a, b in zip(rows, others, strict=True)]
    excesses = [
        jnp.max(_entry_excess(*parts, level))
        for parts in zip(whole, rows, changes, strict=True)
    ]
    largest = functools.reduce(jnp.maximum, excesses)
    return lax.convert_element_type(largest, jnp.float32)


def _entry_excess(whole: Array, rows: Array, change: Array, level: _Level) -> Array:
    """Differences of entries over what rounding explains."""
    size = jnp.abs(rows)
    # Entries that happen to be small are rounded as the others of their kind.
    allowed = level.tolerance * (size + level.share * _typical(size))
    if level.is_conditioned:
        allowed += _CONDITION * (change + 0.1 * _typical(change))
    difference = jnp.abs(whole - rows)
    excess = jnp.where(difference == 0, 0.0, difference / allowed)
    is_finite = jnp.isfinite(whole), jnp.isfinite(rows)
    excess = jnp.where(is_finite[0] & is_finite[1], excess, jnp.inf)
    return jnp.where(is_finite[0] | is_finite[1], excess, 0.0)


def _typical(sizes: Array) -> Array:
    """Typical of all rows, one outlier of which has no say; or of a gradient."""
    if sizes.ndim == 2:
        return jnp.median(sizes, axis=0, keepdims=True)
    return jnp.sqrt(jnp.mean(jnp.square(sizes)))


def _rounded_otherwise(leaf: Array, level: _Level) -> Array:
    """A parameter, changed by a unit of rounding or two."""
    if leaf.dtype != level.dtype:
        leaf = lax.convert_element_type(leaf, level.dtype)
    unit = 2 * float(jnp.finfo(level.dtype).eps)
    return leaf * (1 + unit * jnp.sign(_direction(leaf)))


# What is compared: outputs `(n, k)` and their derivatives along one direction, `(n, k)`;
# or, where there is no forward mode, gradients of one combination of outputs, by leaf.


def _programs(
    apply_fn: ApplyFn, params: Params, x: Inputs
) -> tuple[jex.ClosedJaxpr, jex.ClosedJaxpr]:
    """Programs of leaves and batch: of all rows together, and of each alone."""
    leaves, structure = jax.tree.flatten((params, x))

    def traced(fn: Callable[..., list[Array]]) -> jex.ClosedJaxpr:
        def of_leaves(*arguments: Array) -> list[Array]:
            return fn(apply_fn, *structure.unflatten(arguments))

        return jax.make_jaxpr(of_leaves)(*leaves)

    together = traced(_forward)
    if "custom_lin" in primitives(together):  # which JAX cannot evaluate
        return traced(_reverse), traced(_reverse_alone)
    return together, traced(_forward_alone)


def _forward(apply_fn: ApplyFn, params: Params, x: Inputs) -> list[Array]:
    tangent = jax.tree.map(_direction, params)
    return list(jax.jvp(lambda p: apply_fn(p, x), (params,), (tangent,)))


def _forward_alone(apply_fn: ApplyFn, params: Params, x: Inputs) -> list[Array]:
    one = functools.partial(_forward, apply_fn, params)
    return [part[:, 0] for part in jax.vmap(lambda row: one(batch_of(row)))(x)]


def _reverse(apply_fn: ApplyFn, params: Params, x: Inputs) -> list[Array]:
    return _vjp(apply_fn, params, x, _cotangents(apply_fn, params, x))


def _reverse_alone(apply_fn: ApplyFn, params: Params, x: Inputs) -> list[Array]:
    n = num_rows(x)
    limit = max(1, _GRADIENT_NUMBERS // tree_size(params))
    size = next(size for size in range(min(n, limit), 0, -1) if n % size == 0)
    cotangents = _cotangents(apply_fn, params, x)
    chunks = jax.tree.map(
        lambda part: part.reshape(n // size, size, 1, *part.shape[1:]), (x, cotangents)
    )

    def of_chunk(
        sums: list[Array], chunk: tuple[Inputs, Array]
    ) -> tuple[list[Array], Array]:
        one = functools.partial(_vjp, apply_fn, params)
        f, *gradients = jax.vmap(one)(*chunk)
        return tree_add(sums, [gradient.sum(0) for gradient in gradients]), f

    start = [jnp.zeros(leaf.size, leaf.dtype) for leaf in jax.tree.leaves(params)]
    sums, f = lax.scan(of_chunk, start, chunks)
    return [f.reshape(n, -1), *sums]


def _vjp(
    apply_fn: ApplyFn, params: Params, x: Inputs, cotangents: Array
) -> list[Array]:
    f, vjp_fn = jax.vjp(lambda p: apply_fn(p, x), params)
    return [f, *(leaf.ravel() for leaf in jax.tree.leaves(vjp_fn(cotangents)[0]))]


def _cotangents(apply_fn: ApplyFn, params: Params, x: Inputs) -> Array:
    """Weights of all outputs: no two are equal, and no sum of them is zero."""
    f = jax.eval_shape(apply_fn, params, x)
    return _waves(f.size, f.dtype).reshape(f.shape)


def _direction(leaf: Array) -> Array:
    """A change of a parameter, as large as it is, or of size 1 if it is zero."""
    size = jnp.sqrt(jnp.mean(jnp.square(leaf)))
    # Made of its own numbers: a constant as large would take long to compile.
    waves = _waves(math.prod(leaf.shape[-1:]), leaf.dtype)
    waves = waves.reshape((1,) * (leaf.ndim - 1) + leaf.shape[-1:])
    return jnp.flip(leaf) + jnp.where(size > 0, size, 1) * waves


def _waves(number: int, dtype: Any) -> Array:
    return jnp.cos(jnp.arange(1, number + 1, dtype=dtype))
