"""Outputs, losses and dual variables of the linear model at many times or steps."""

import functools
from typing import Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from lazyjax._brief import brief
from lazyjax._checks import check_nonnegative
from lazyjax.dynamics.linear.damping import damped_filter
from lazyjax.dynamics.linear.filters import (
    Filter,
    descent_filter,
    flow_filter,
    grown,
    heavy_ball_filter,
    scaled_up,
    scheduled_filters,
)
from lazyjax.dynamics.schedules import at_steps
from lazyjax.linalg import gram_matrix
from lazyjax.typing import AnyArray

Quantity: TypeAlias = Literal["outputs", "loss", "dual"]


class Eigensystem(NamedTuple):
    """The kernel and the initial error in its eigenbasis; fields of `Linearized`."""

    eigenvalues: Float[Array, " m"]
    eigenvectors: Float[Array, "m m"]
    coefficients: Float[Array, "m c"]
    f0: Float[Array, "n k"]
    eig_cutoff: Float[Array, ""]


class Rates(NamedTuple):
    """Numbers that dynamics depend on, beside the time or step.

    Without a learning rate they are flows, with friction or not; without momentum,
    descent. A learning rate of one dimension is that of every step.
    """

    ridge: Float[Array, ""]
    friction: Float[Array, ""] | None = None
    learning_rate: Float[Array, "*num_rates"] | None = None
    momentum: Float[Array, ""] | None = None


def checked_rates(
    dtype: jnp.dtype,
    *,
    ridge: float | AnyArray,
    friction: float | AnyArray | None = None,
    learning_rate: Float[Array, "*num_rates"] | None = None,
    momentum: float | AnyArray | None = None,
) -> Rates:
    """Rates as arrays, checked as far as their values are known; learning rates are."""

    def number(name: str, value: float | AnyArray) -> Array:
        check_nonnegative(name, value, infinity_allowed=False)
        if jnp.ndim(value):
            raise ValueError(f"`{name}` must be one number; got {brief(value)}.")
        return jnp.asarray(value, dtype)

    return Rates(
        ridge=number("ridge", ridge),
        friction=None if friction is None else number("friction", friction),
        learning_rate=learning_rate,
        momentum=None if momentum is None else number("momentum", momentum),
    )


@functools.partial(jax.jit, static_argnames="quantity")
def evaluate(
    model: Eigensystem,
    points: Shaped[Array, "*points"],
    rates: Rates,
    test_points: tuple[Array, Array] | None,
    quantity: Quantity,
) -> Float[Array, "..."]:
    """A quantity of the linear model at every time or step, whose axes come first."""
    # Test points are their kernel and initial outputs, to have outputs there.
    shifted = model.eigenvalues + rates.ridge
    _, friction, learning_rate, momentum = rates
    table = None
    if learning_rate is not None and learning_rate.ndim:
        table = scheduled_filters(shifted, learning_rate, momentum)

    def filter_at(point: Array) -> Filter:
        if table is not None:
            return Filter(*(at_steps(leaf, point) for leaf in table))
        if learning_rate is None:
            if friction is None:
                return flow_filter(shifted, point, model.eig_cutoff)
            return damped_filter(shifted, point, friction, model.eig_cutoff)
        if momentum is None:
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
