r"""Complex parameters and outputs in terms of real ones.

A complex parameter $u + iv$ is the pair of real ones $(u, v)$, whether the network is
holomorphic or not; a complex output the pair of its real and imaginary parts. The complex
kernel is $\Theta = J J^\dagger$ with $J$ the derivatives of complex outputs by the real
parameters: if $\Theta^{pq}$ is the kernel between parts $p$ and $q$ (0 real, 1 imaginary),
$\Theta = (\Theta^{00} + \Theta^{11}) + i (\Theta^{10} - \Theta^{01})$.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from lazyjax.typing import Params


def is_complex(array: Any) -> bool:
    """Whether an array, or its shape and dtype, is of complex numbers."""
    return jnp.issubdtype(array.dtype, jnp.complexfloating)


def complex_leaves(params: Params) -> tuple[bool, ...]:
    """For each leaf, whether it is complex."""
    return tuple(map(is_complex, jax.tree.leaves(params)))


def real_params(params: Params) -> Params:
    """Parameters, each complex leaf of which is `(2, *shape)`: real and imaginary parts."""

    def real_leaf(leaf: Any) -> Any:
        return jnp.stack([leaf.real, leaf.imag]) if is_complex(leaf) else leaf

    return jax.tree.map(real_leaf, params)


def complex_params(params: Params, which: Sequence[bool]) -> Params:
    """Parameters from what `real_params` makes of them; `which` leaves are complex."""
    leaves, structure = jax.tree.flatten(params)
    together = [
        lax.complex(*(lax.index_in_dim(leaf, part, keepdims=False) for part in (0, 1)))
        if of_complex
        else leaf
        for leaf, of_complex in zip(leaves, which, strict=True)
    ]
    return structure.unflatten(together)


def hermitian(block: Array, is_complex_row: bool, is_complex_column: bool) -> Array:
    """Kernel `(..., a, b)` of outputs, of whose parts it is `(..., p, a, q, b)`."""

    def part(p: int, q: int) -> Array:
        return block[..., p, :, q, :]

    if is_complex_row and is_complex_column:
        return lax.complex(part(0, 0) + part(1, 1), part(1, 0) - part(0, 1))
    if is_complex_row:
        return lax.complex(part(0, 0), part(1, 0))
    if is_complex_column:
        return lax.complex(part(0, 0), -part(0, 1))
    return part(0, 0)
