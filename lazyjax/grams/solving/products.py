"""Products of a Gram matrix with columns: quick ones, and precise ones."""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from lazyjax.grams.store import GramStore
from lazyjax.jaxpr.widened import evaluate_at_least
from lazyjax.ntk import NTKOperator

Product: TypeAlias = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Products:
    """Both take and return columns in double precision."""

    quick: Product
    precise: Product  # computes in double precision too
    eps: float  # relative spacing of the numbers that `quick` computes in


def products_with(matrix: Any, num_columns: int) -> Products:
    """Products of a matrix, a store or an operator; precise ones with so many columns."""
    if isinstance(matrix, NTKOperator):
        return _of_operator(matrix, num_columns)
    # A store multiplies in the wider of both precisions.
    array = matrix if isinstance(matrix, GramStore) else np.asarray(matrix, np.float64)
    return Products(
        lambda v: array @ v, lambda v: array @ v, float(np.finfo(np.float64).eps)
    )


def _of_operator(operator: NTKOperator, num_columns: int) -> Products:
    # Compiled once for all products; anew for each system, as functions may change.
    @jax.jit
    def program(operator: NTKOperator, v: Any) -> Any:
        with jax.default_matmul_precision("highest"):
            return operator @ v

    def quick(v: np.ndarray) -> np.ndarray:
        return np.asarray(program(operator, jnp.asarray(v, operator.dtype)), np.float64)

    leaves = jax.tree.leaves(operator)
    like = jax.ShapeDtypeStruct((operator.shape[1], num_columns), operator.dtype)
    closed = jax.make_jaxpr(program)(operator, like)
    widened = jax.jit(lambda *values: evaluate_at_least(jnp.float64, closed, values)[0])

    def precise(v: np.ndarray) -> np.ndarray:
        with jax.enable_x64(True):
            return np.asarray(widened(*leaves, jnp.asarray(v)), np.float64)

    return Products(quick, precise, float(jnp.finfo(operator.dtype).eps))
