"""Functions of equal values whose derivatives are told by rules of their own."""

from typing import Any

import jax


def identity_with_derivative(factor: float) -> Any:
    """The identity, of which JAX is told that it multiplies cotangents by a factor."""

    @jax.custom_vjp
    def identity(f):
        return f

    identity.defvjp(lambda f: (f, None), lambda _, cotangent: (factor * cotangent,))
    return identity
