"""Operators made of others: centred, summed over outputs."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lazyjax.ntk.operator import NTKOperator
from lazyjax.spectrum.operators.kinds import (
    Kernel,
    LinearOperator,
    MatrixOnDisk,
    as_operator,
)
from lazyjax.typing import AnyArray


@dataclasses.dataclass(frozen=True)
class CenteredOperator:
    """A kernel of features from which their mean over examples is taken away.

    Attributes:
        kernel: What is centred.
        num_outputs: Outputs of an example, whose rows are side by side.
    """

    kernel: LinearOperator
    num_outputs: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape `(m, m)` of the matrix."""
        return self.kernel.shape

    @property
    def dtype(self) -> Any:
        """Of its entries."""
        return self.kernel.dtype

    def mv(self, v: Float[AnyArray, " m"]) -> Float[Array, " m"]:
        """Product with a vector."""
        return self._centered(self.kernel.mv(self._centered(jnp.asarray(v))))

    def _centered(self, v: Array) -> Array:
        rows = v.reshape(-1, self.num_outputs)
        return (rows - jnp.mean(rows, axis=0, keepdims=True)).ravel()


@dataclasses.dataclass(frozen=True)
class SumOverOutputs:
    """One number for each pair of examples: the sum over equal outputs.

    Attributes:
        kernel: Store or operator, which multiplies columns.
        num_outputs: Outputs of an example.
        shape: Shape `(n, n)`.
        dtype: Of its entries.
    """

    kernel: Any
    num_outputs: int
    shape: tuple[int, int]
    dtype: Any

    def mv(self, v: Float[AnyArray, " n"]) -> Float[Array, " n"]:
        """Product with a vector, by one product for each output."""
        k = self.num_outputs
        columns = jnp.kron(jnp.asarray(v)[:, None], jnp.eye(k, dtype=self.dtype))
        if isinstance(self.kernel, MatrixOnDisk):
            products = jnp.asarray(self.kernel @ np.asarray(columns), self.dtype)
        else:
            products = self.kernel @ columns
        return jnp.trace(products.reshape(-1, k, k), axis1=1, axis2=2)


def outputs_of(kernel: Kernel) -> int:
    """Outputs of an example, whose rows are side by side in an operator."""
    if isinstance(kernel, MatrixOnDisk):
        return kernel.flat_shape[0] // kernel.shape[0]
    return kernel.num_outputs if isinstance(kernel, NTKOperator) else 1


def summed_over_outputs(name: str, kernel: Kernel) -> LinearOperator:
    """A store or an operator as one number for each pair of examples.

    Args:
        name: Of the argument, for messages.
        kernel: Store or operator.

    Returns:
        The operator.

    Raises:
        ValueError: If it is of two batches.
        TypeError: If it is neither.
    """
    operator, k = as_operator(name, kernel), outputs_of(kernel)
    if k == 1:
        return operator
    n = operator.shape[0] // k
    return SumOverOutputs(kernel, k, (n, n), operator.dtype)
