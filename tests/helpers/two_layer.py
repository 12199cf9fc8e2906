"""A two-layer network twice: in JAX, and with its derivatives by hand in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import DTypeLike

# f(x) = tanh(x V) a / sqrt(m), both layers trained.


def apply(params: dict, x: jax.Array) -> jax.Array:
    """The network in JAX."""
    width = params["a"].shape[0]
    return jnp.tanh(x @ params["V"]) @ params["a"] / width**0.5


def problem(
    dtype: DTypeLike = np.float64, *, n: int = 5, d: int = 3, k: int = 2, width: int = 8
) -> tuple[dict, np.ndarray, np.ndarray]:
    """Parameters, inputs and targets, always the same for the same sizes."""
    rng = np.random.default_rng([n, d, k, width])
    params = {"V": rng.normal(size=(d, width)), "a": rng.normal(size=(width, k))}
    x, y = rng.normal(size=(n, d)), rng.normal(size=(n, k))
    params = {name: leaf.astype(dtype) for name, leaf in params.items()}
    return params, x.astype(dtype), y.astype(dtype)


def oracle_outputs(params: dict, x: np.ndarray) -> np.ndarray:
    """Outputs, example by example."""
    width = len(params["a"])
    return (
        np.stack([np.tanh(x_i @ params["V"]) @ params["a"] for x_i in x]) / width**0.5
    )


def oracle_loss(params: dict, x: np.ndarray, y: np.ndarray) -> float:
    """Half the sum of squared errors."""
    return 0.5 * float(((oracle_outputs(params, x) - y) ** 2).sum())


def oracle_jacobian(params: dict, x: np.ndarray) -> np.ndarray:
    """Jacobian of outputs, flattened example by example, in all parameters."""
    width, k = params["a"].shape
    rows = []
    for x_i in x:
        h = np.tanh(x_i @ params["V"])
        for output in range(k):
            d_v = np.outer(x_i, (1 - h**2) * params["a"][:, output])
            d_a = np.zeros((width, k))
            d_a[:, output] = h
            rows.append(np.concatenate([d_v.ravel(), d_a.ravel()]) / width**0.5)
    return np.stack(rows)


def oracle_descent(
    params: dict, x: np.ndarray, y: np.ndarray, learning_rate: float, num_steps: int
) -> list[dict]:
    """Parameters of gradient descent on `oracle_loss`, from step 0 to `num_steps`."""
    trajectory = [params]
    for _ in range(num_steps):
        params = trajectory[-1]
        residual = (oracle_outputs(params, x) - y).ravel()
        gradient = oracle_jacobian(params, x).T @ residual
        size = params["V"].size
        steps = {"V": gradient[:size], "a": gradient[size:]}
        trajectory.append(
            {
                name: leaf - learning_rate * steps[name].reshape(leaf.shape)
                for name, leaf in params.items()
            }
        )
    return trajectory
