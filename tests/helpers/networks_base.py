"""What an entry of the tables of interacting and of independent networks is."""

import dataclasses
import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers.zoo_base import relaxed


@dataclasses.dataclass(frozen=True)
class Case:
    """A network `apply_fn(params, x)` of any batch size, at one point and batch."""

    apply_fn: Callable
    params: Any
    x: jax.Array


@dataclasses.dataclass(frozen=True)
class Interacting(Case):
    """Rows interact: `strength` is how much they change, as `deviation` measures."""

    strength: float


@dataclasses.dataclass(frozen=True)
class Independent(Case):
    """Rows are independent.

    `deviation` is what rounding in float64 may leave, more where the network casts to
    fewer digits; `kernel_error` bounds the kernel's relative error in its own dtype.
    """

    deviation: float
    kernel_error: float


def draw(
    name: str, spec: Any, x: Any, n: int, dtype: Any = np.float32
) -> tuple[Any, jax.Array]:
    """Parameters and a batch; always the same numbers for one name.

    Either is made of shapes, filled with normal numbers, or a function of a generator.
    """
    generator = np.random.default_rng(zlib.crc32(name.encode()))
    if callable(spec):
        params = spec(generator)
    else:
        normal = lambda shape: 0.6 * generator.normal(size=shape)
        params = jax.tree.map(normal, spec, is_leaf=_is_shape)
    batch = x(generator) if callable(x) else generator.normal(size=(n, *x))
    return jax.tree.map(lambda leaf: _cast(leaf, dtype), params), _cast(batch, dtype)


def deviation(apply_fn: Callable, params: Any, x: Any) -> float:
    """How far rows of the whole batch are from the same rows alone, in float64.

    The largest change of any entry of a row's values, relative to that row's largest
    value, or of a gradient, relative to the largest entry of that output's gradient.
    Gradients are of one output of one row each, for all parameters.
    """
    with jax.enable_x64(True):
        wide = lambda leaf: (
            jnp.asarray(leaf, jnp.float64)
            if jnp.issubdtype(leaf.dtype, jnp.floating)
            else jnp.asarray(leaf)
        )
        params, x = jax.tree.map(wide, (params, x))
        both = jax.jit(lambda p, x: (apply_fn(p, x), jax.jacrev(apply_fn)(p, x)))
        whole = _flat(*both(params, x))
        alone = [_flat(*both(params, x[i : i + 1])) for i in range(len(x))]
    worst = 0.0
    for part, whole_part in enumerate(whole):
        alone_part = np.concatenate([row[part] for row in alone])
        assert whole_part.shape == alone_part.shape
        assert np.isfinite(whole_part).all()
        assert np.isfinite(alone_part).all()
        change = np.abs(whole_part - alone_part).max(axis=-1)
        size = np.abs([whole_part, alone_part]).max(axis=(0, -1))
        worst = max(worst, float(np.max(change / np.maximum(size, 1e-300))))
    return worst


def cases(table: dict[str, Any], quick: set[str]) -> list:
    """The table for `parametrize`: all but the quick ones are slow."""
    return [
        pytest.param(case, id=name, marks=[] if name in quick else pytest.mark.slow)
        for name, case in table.items()
    ]


def recorder(table: dict[str, Any], kind: type, **defaults: float) -> Callable:
    """The decorator factory that enters networks in `table` under their own names."""

    def register(
        spec: Any, x: Any, n: int = 7, dtype: Any = np.float32, **fields: float
    ) -> Callable[[Callable], Callable]:
        def enter(apply_fn: Callable) -> Callable:
            name = apply_fn.__name__
            assert name not in table, name
            params, batch = draw(name, spec, x, n, dtype)
            table[name] = kind(relaxed(apply_fn), params, batch, **defaults | fields)
            return apply_fn

        return enter

    return register


def _flat(values: Any, gradients: Any) -> tuple[np.ndarray, np.ndarray]:
    """Values `(n, k)` and gradients `(n, k, number of parameters)`."""
    values = np.asarray(values, np.float64)
    leaves = [
        np.asarray(leaf, np.float64).reshape(*values.shape, -1)
        for leaf in jax.tree.leaves(gradients)
    ]
    return values, np.concatenate(leaves, axis=-1)


def _cast(leaf: Any, dtype: Any) -> jax.Array:
    leaf = np.asarray(leaf)
    if np.issubdtype(leaf.dtype, np.floating):
        return jnp.asarray(leaf.astype(np.float32), dtype)
    return jnp.asarray(leaf)


def _is_shape(node: object) -> bool:
    return isinstance(node, tuple) and all(isinstance(size, int) for size in node)
