"""Outputs, losses and dual variables of the linear model at many times or steps."""

import functools
from typing import Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from lazyjax._checks import check_nonnegative
from lazyjax.dynamics.linear.filters import (
    Filter,
    descent_filter,
    flow_filter,
    grown,
    heavy_ball_filter,
    scaled_up,
)
from lazyjax.linalg import gram_matrix
from lazyjax.typing import AnyArray

Dynamics: TypeAlias = Literal["flow", "descent", "heavy ball"]
Quantity: TypeAlias = Literal["outputs", "loss", "dual"]


class Eigensystem(NamedTuple):
    """The kernel and the initial error in its eigenbasis; fields of `Linearized`."""

    eigenvalues: Float[Array, " m"]
    eigenvectors: Float[Array, "m m"]
    coefficients: Float[Array, "m c"]
    f0: Float[Array, "n k"]
    eig_cutoff: Float[Array, ""]


class Rates(NamedTuple):
    """Numbers that dynamics depend on, beside the time or step."""

    ridge: Float[Array, ""]
    learning_rate: Float[Array, ""]
    momentum: Float[Array, ""]


def checked_rates(
    ridge: float | AnyArray,
    learning_rate: float | AnyArray,
    momentum: float | AnyArray,
    *,
    dtype: jnp.dtype,
) -> Rates:
    """Rates as arrays, checked as far as their values are known."""
    values = {"ridge": ridge, "learning_rate": learning_rate, "momentum": momentum}
    for name, value in values.items():
        check_nonnegative(name, value, infinity_allowed=False)
    return Rates(**{name: jnp.asarray(v, dtype) for name, v in values.items()})


@functools.partial(jax.jit, static_argnames=("dynamics", "quantity"))
def evaluate(
    model: Eigensystem,
    points: Shaped[Array, "*points"],
    rates: Rates,
    test_points: tuple[Array, Array] | None,
    dynamics: Dynamics,
    quantity: Quantity,
) -> Float[Array, "..."]:
    """A quantity of the linear model at every time or step, whose axes come first."""
    # Test points are their kernel and initial outputs, to have outputs there.
    shifted = model.eigenvalues + rates.ridge
    learning_rate, momentum = rates.learning_rate, rates.momentum

    def filter_at(point: Array) -> Filter:
        if dynamics == "flow":
            return flow_filter(shifted, point, model.eig_cutoff)
        if dynamics == "descent":
            return descent_filter(shifted, point, learning_rate)
        return heavy_ball_filter(shifted, point, learning_rate, momentum)

    readout, start = model.eigenvectors, model.f0
    if quantity == "dual":
        start = jnp.zeros_like(model.f0)
    if test_points is not None:
        ntk_test_train, start = test_points
        readout = jnp.matmul(
            gram_matrix(ntk_test_train), model.eigenvectors, precision="highest"
        )

    def at(point: Array) -> Array:
        decay, integral, exponent = filter_at(point)
        coefficients, exponent = grown(model.coefficients, exponent)
        if quantity == "loss":
            share = decay + rates.ridge * integral
            loss = jnp.sum(jnp.square(share[:, None] * coefficients)) / 2
            return scaled_up(loss, 2 * exponent)
        is_on_train = quantity == "outputs" and test_points is None
        weights = model.eigenvalues * integral if is_on_train else integral
        combined = weights[:, None] * coefficients
        change = jnp.matmul(readout, combined, precision="highest")
        return start + scaled_up(change, exponent).reshape(start.shape)

    values = jax.vmap(at)(points.reshape(-1))
    return values.reshape(points.shape + values.shape[1:])
