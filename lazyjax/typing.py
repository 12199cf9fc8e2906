"""Types shared by every module: the roles callables play, and what arrays are accepted."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import jax
import numpy as np
from jaxtyping import Array, Float, Inexact, Int, Key, PyTree, Scalar, Shaped, UInt32

# What public verbs accept; what they return is always a `jax.Array`.
AnyArray: TypeAlias = jax.Array | np.ndarray

# From `jax.random.key`, or of the older style.
RandomKey: TypeAlias = Key[Array, ""] | UInt32[Array, "_"]

Params: TypeAlias = PyTree
# A batch of examples: an array `(n, *d)`, or any tree of arrays with the same first axis.
Inputs: TypeAlias = PyTree[Shaped[AnyArray, "..."]]
# An array whose first axes are those of examples; of several outputs, a tree of such.
Kernel: TypeAlias = PyTree[Inexact[Array, "..."]]
# One row of targets per example; or, for losses of classes, integer labels.
Targets: TypeAlias = Float[AnyArray, "n k"] | Int[AnyArray, "n"]
Activation: TypeAlias = str | Callable[[Array], Array]
LossFn: TypeAlias = Callable[[Float[Array, "n k"], Float[Array, "n k"]], Scalar]

# All outputs in some form, one, some, or some of each example: of both batches, or of each.
EachOutputs: TypeAlias = Int[AnyArray, "_ _"]
Outputs: TypeAlias = (
    Literal["full", "diagonal", "trace", "pseudo", "flat"]
    | int
    | Sequence[int]
    | Int[AnyArray, "_"]
    | EachOutputs
    | tuple[EachOutputs, EachOutputs]
)
Method: TypeAlias = Literal["auto", "structured", "jacobian", "vjp"]
Kind: TypeAlias = str  # a name in `lazyjax.architecture.KINDS`
Parameterization: TypeAlias = Literal["ntk", "standard", "mup"]
Trained: TypeAlias = Literal["all", "first", "last_hidden", "last"]
InputScaling: TypeAlias = Literal["fan_in", "none"]
Readout: TypeAlias = Literal["normal", "sign"]
Padding: TypeAlias = Literal["SAME", "VALID", "CIRCULAR"]
Head: TypeAlias = Literal["flatten", "average"]
Pooling: TypeAlias = Literal["average", "max"]
ActivationScale: TypeAlias = Literal["none", "unit"]
Normalization: TypeAlias = Literal["none", "layer"]


@runtime_checkable
class ApplyFn(Protocol):
    """A network as a pure function: `(params, x) -> f`, batch first, rows independent."""

    def __call__(self, params: Any, x: Inputs, /) -> Any:
        """Outputs `f`, of shape `(n, k)` or as a verb allows, for a batch `x`."""
        ...


@runtime_checkable
class InitFn(Protocol):
    """An initializer as a pure function of a key: `(key, x) -> params`."""

    def __call__(self, key: RandomKey, x: Float[AnyArray, "n *d"], /) -> Params:
        """Parameters for inputs shaped like `x`, whose values are not used."""
        ...
