"""Apply functions that hold all of a model but its parameters, and compare by value."""

import dataclasses
import hashlib
from collections.abc import Callable, Hashable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from lazyjax.batches import as_arrays, num_rows
from lazyjax.callables.state import ComparedByValue
from lazyjax.typing import Inputs, Params

# A model as a function of what is frozen, the parameters, and a batch or an example.
ModelCall: TypeAlias = Callable[[Any, Params, Array], Any]


@dataclasses.dataclass(frozen=True)
class Frozen(ComparedByValue):
    """A pytree that stays what it was: its arrays are copies.

    Two are equal if their structures and all their leaves are: arrays by value, other
    leaves by `==`. A leaf that cannot be compared so, such as a tracer or an object
    without a hash, equals nothing but itself here. So a program compiled for one of two
    equal ones may serve the other.
    """

    tree: Any = dataclasses.field(compare=False, repr=False)
    identity: Hashable = dataclasses.field(repr=False)  # what is compared


def freeze(tree: Any) -> Frozen:
    """`tree`, held constant: its arrays are copies that nobody changes or donates."""
    leaves, treedef = jax.tree.flatten(tree)
    leaves = [_copied(leaf) for leaf in leaves]
    identity = (_hashable(treedef), *map(_leaf_identity, leaves))
    return Frozen(treedef.unflatten(leaves), identity)


@dataclasses.dataclass(frozen=True)
class Adapted(ComparedByValue):
    """The apply function `(params, x) -> f` of a model with everything else frozen."""

    # The model; a function of a module, so that it is the same at every use.
    call: ModelCall
    frozen: Frozen  # its first argument
    batched: bool  # whether its third is a batch `(n, *d)`, or one example `(*d)`

    def __call__(self, params: Any, x: Inputs, /) -> Any:
        """Outputs of the model: `(n, 1)` where it gives one number per example."""
        x = as_arrays(x)
        call = lambda inputs: self.call(self.frozen.tree, params, inputs)
        f = call(x) if self.batched else jax.vmap(call)(x)
        is_column = isinstance(f, jax.Array) and f.shape == (num_rows(x),)
        return f[:, None] if is_column else f


def _copied(leaf: Any) -> Any:
    if isinstance(leaf, np.ndarray):
        return leaf.copy()
    return jnp.array(leaf, copy=True) if isinstance(leaf, jax.Array) else leaf


def _leaf_identity(leaf: Any) -> Hashable:
    if isinstance(leaf, jax.Array):
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        try:
            host = np.asarray(jax.random.key_data(leaf) if is_key else leaf)
        except (jax.errors.TracerArrayConversionError, RuntimeError):
            return object()  # traced, or held by other processes too
        return jax.Array, jax.typeof(leaf), leaf.sharding, _digest(host)
    if isinstance(leaf, np.ndarray):
        if leaf.dtype.hasobject:
            return object()
        return np.ndarray, leaf.dtype, leaf.shape, _digest(leaf)
    return type(leaf), _hashable(leaf)


def _digest(array: np.ndarray) -> bytes:
    return hashlib.sha256(array.tobytes()).digest()


def _hashable(value: Any) -> Hashable:
    try:
        hash(value)
    except TypeError:
        return object()
    return value
