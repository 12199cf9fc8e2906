"""The network's Taylor expansion in its parameters, as a network of its own."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from lazyjax._checks import (
    check_apply_fn,
    check_at_least,
    check_like,
    check_params,
)
from lazyjax.batches import as_arrays
from lazyjax.ntk.methods.forward import tangent_outputs
from lazyjax.ntk.requests.columns import Columns, in_real_numbers
from lazyjax.ntk.requests.complex_numbers import real_params
from lazyjax.ntk.requests.placement import in_automatic_axes, rows_of
from lazyjax.typing import ApplyFn, Inputs, Params


@dataclasses.dataclass(frozen=True, eq=False)
class _Taylor:
    apply_fn: ApplyFn
    params0: Params
    order: int

    def __call__(self, params: Any, x: Inputs, /) -> Any:
        return in_automatic_axes(self._value, (params, self.params0, x), rows_of(x))

    def _value(self, _rows: Any, params: Any, params0: Params, x: Inputs) -> Any:
        check_like("params", params, "the point of expansion", params0)
        x = as_arrays(x)
        columns = Columns.of(jax.eval_shape(self.apply_fn, params0, x))
        apply_fn, params0 = in_real_numbers(self.apply_fn, params0, columns)
        if apply_fn is not self.apply_fn:
            params = real_params(params)
        displacement = jax.tree.map(jnp.subtract, params, params0)

        def derivative(order: int, p: Params, x: Inputs) -> Array:
            """Directional derivative of this order at `p`, along the displacement."""
            if order == 0:
                return apply_fn(p, x)
            lower = functools.partial(derivative, order - 1)
            return tangent_outputs(lower, p, x, displacement)

        f = derivative(0, params0, x)
        for order in range(1, self.order + 1):
            f = f + derivative(order, params0, x) / math.factorial(order)
        return columns.outputs(f)


def linearize(apply_fn: ApplyFn, params: Params) -> ApplyFn:
    r"""Linearized network $f(w_0, x) + Df(w_0, x)(w - w_0)$.

    Args:
        apply_fn: Network `(params, x) -> f`.
        params: The point $w_0$.

    Returns:
        The linearized network; its parameters and its outputs, which may be trees or
        complex, are of the form of those of `apply_fn`.

    Raises:
        TypeError: If a parameter is neither floating point nor complex.

    Example:
        >>> import jax.numpy as jnp, lazyjax
        >>> square = lambda w, x: (x @ w) ** 2
        >>> f = lazyjax.linearize(square, jnp.ones((1, 1)))
        >>> f(jnp.full((1, 1), 2.0), jnp.ones((1, 1))).item()
        3.0
    """
    return taylor_expand(apply_fn, params, order=1)


def taylor_expand(apply_fn: ApplyFn, params: Params, *, order: int) -> ApplyFn:
    r"""Taylor polynomial of the network in its parameters around $w_0$.

    Evaluated by nested forward mode, whose cost doubles with each order.

    Args:
        apply_fn: Network `(params, x) -> f`.
        params: The point $w_0$.
        order: Degree of the polynomial; 1 is `linearize`.

    Returns:
        The expanded network; its parameters and outputs are of the form of those of
        `apply_fn`.

    Raises:
        TypeError: If a parameter is neither floating point nor complex, or `order` not
            an integer.
        ValueError: If `order` is negative.

    Example:
        >>> import jax.numpy as jnp, lazyjax
        >>> cube = lambda w, x: (x @ w) ** 3
        >>> f = lazyjax.taylor_expand(cube, jnp.ones((1, 1)), order=2)
        >>> f(jnp.full((1, 1), 2.0), jnp.ones((1, 1))).item()
        7.0
    """
    check_apply_fn(apply_fn, params)
    check_params("params", params, allow_complex=True, allow_explicit=True)
    check_at_least("order", order, 0)
    return _Taylor(apply_fn, params, order)
