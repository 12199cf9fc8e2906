"""What a network of the zoo is, and the registry that its rooms fill.

Each is `apply_fn(params, x)`, batch first, rows independent, `(n, k)` out, and keeps
the dtype it is given. Values are float32 numbers, drawn by NumPy from a seed that is
the network's name, and then cast: float32 and float64 share one oracle.
"""

import dataclasses
import functools
import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Tokens:
    """Inputs `(n, *shape)` that are integers below `vocabulary`."""

    vocabulary: int
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Net:
    """One network of the zoo.

    `smooth` says that finite differences make sense at every point; `twice` that its
    gradient may be differentiated again, which a `custom_vjp` need not allow.
    """

    name: str
    apply_fn: Callable
    spec: object  # shapes in place of arrays, or a function of a generator
    inputs: tuple[int, ...] | Tokens
    smooth: bool
    twice: bool

    @property
    def room(self) -> str:
        """Which file of the zoo it lives in: "dense", "conv", and so on."""
        return self.apply_fn.__module__.rpartition("_")[2]

    def params(self, dtype: Any = np.float32) -> Any:
        """Parameters, always the same numbers."""
        generator = np.random.default_rng(zlib.crc32(self.name.encode()))
        if callable(self.spec):
            params = self.spec(generator)
        else:
            draw = lambda shape: 0.6 * generator.normal(size=shape)
            params = jax.tree.map(draw, self.spec, is_leaf=_is_shape)
        return jax.tree.map(
            lambda leaf: jnp.asarray(np.asarray(leaf, np.float32), dtype), params
        )

    def x(self, n: int, seed: int = 0, dtype: Any = np.float32) -> jax.Array:
        """A batch of `n` examples; tokens stay `int32`."""
        generator = np.random.default_rng([seed, zlib.crc32(self.name.encode())])
        if isinstance(self.inputs, Tokens):
            shape = (n, *self.inputs.shape)
            tokens = generator.integers(0, self.inputs.vocabulary, size=shape)
            return jnp.asarray(tokens, jnp.int32)
        values = generator.normal(size=(n, *self.inputs)).astype(np.float32)
        return jnp.asarray(values, dtype)


ZOO: dict[str, Net] = {}


def register(
    spec: object,
    x: tuple[int, ...] | Tokens,
    *,
    smooth: bool = True,
    twice: bool = True,
) -> Callable[[Callable], Callable]:
    """Decorator that enters an `apply_fn` in the zoo under its own name."""

    def enter(apply_fn: Callable) -> Callable:
        name = apply_fn.__name__
        assert name not in ZOO, name
        ZOO[name] = Net(name, apply_fn, spec, x, smooth, twice)
        return apply_fn

    return enter


def relaxed(fn: Callable) -> Callable:
    """The function under JAX's own default promotion, for code that relies on it."""

    @functools.wraps(fn)
    def call(*args: object) -> object:
        with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
            return fn(*args)

    return call


def _is_shape(node: object) -> bool:
    return isinstance(node, tuple) and all(isinstance(size, int) for size in node)
