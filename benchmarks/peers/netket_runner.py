"""Kernels of quantum states by NetKet, recorded as what the library is compared with.

Run in an environment that holds NetKet (3.23 was used, with JAX 0.12):
`python benchmarks/peers/netket_runner.py tests/recorded/netket.json`.
"""

import json
import platform
import sys
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import netket as nk  # pyright: ignore[reportMissingImports]
import numpy as np

SPINS, SAMPLES, ALPHA = 4, 6, 2


def models() -> dict[str, Any]:
    """By name, a network and the mode of NetKet's Jacobian that it takes."""
    return {
        "rbm_of_complex_parameters": (
            nk.models.RBM(alpha=ALPHA, param_dtype=complex),
            "holomorphic",
        ),
        "rbm_of_complex_parameters_as_pairs": (
            nk.models.RBM(alpha=ALPHA, param_dtype=complex),
            "complex",
        ),
        "rbm_of_real_parameters": (
            nk.models.RBM(alpha=ALPHA, param_dtype=float),
            "real",
        ),
        "modulus_and_phase": (
            nk.models.RBMModPhase(alpha=ALPHA, param_dtype=float),
            "complex",
        ),
        "not_holomorphic": (NotHolomorphic(), "complex"),
    }


class NotHolomorphic(nn.Module):
    """A state whose complex parameters and their conjugates both matter."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """Logarithm of the wave function."""
        shape = (SPINS, ALPHA * SPINS)
        h = x @ self.param("kernel", nn.initializers.normal(), shape, complex)
        return jnp.sum(jnp.conj(jnp.tanh(h)) * jnp.abs(h), axis=-1)


def kernel(jacobian: Any, mode: str) -> np.ndarray:
    """The kernel of samples: complex, or of real parts, then imaginary ones, of all."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(jacobian)]
    if mode != "complex":
        rows = np.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], 1)
        return rows @ rows.conj().T
    # Axes of samples and parts; complex leaves are pairs of real ones here already.
    rows = np.concatenate([leaf.reshape(*leaf.shape[:2], -1) for leaf in leaves], 2)
    assert not np.iscomplexobj(rows)
    return np.einsum("ipk,jqk->piqj", rows, rows)


def as_lists(array: Any) -> list:
    """A complex array as nested lists, with real and imaginary parts."""
    array = np.asarray(array)
    return [array.real.tolist(), array.imag.tolist()]


def main(path: str) -> None:
    """Record parameters, samples and kernels of all models."""
    jax.config.update("jax_enable_x64", True)
    rng = np.random.default_rng(0)
    samples = rng.choice([-1.0, 1.0], size=(SAMPLES, SPINS))
    recorded: dict[str, Any] = {}
    for name, (model, mode) in models().items():
        variables = model.init(jax.random.key(0), jnp.asarray(samples))
        leaves, structure = jax.tree.flatten(variables["params"])
        drawn = [
            0.4 * rng.normal(size=leaf.shape)
            + (0.4j * rng.normal(size=leaf.shape) if np.iscomplexobj(leaf) else 0)
            for leaf in leaves
        ]
        params = structure.unflatten(map(jnp.asarray, drawn))
        kernels = [
            kernel(
                nk.jax.jacobian(model.apply, params, samples, mode=mode, center=c), mode
            )
            for c in (False, True)
        ]
        recorded[name] = {
            "mode": mode,
            "params": {
                jax.tree_util.keystr(path, simple=True, separator="/"): as_lists(leaf)
                for path, leaf in jax.tree_util.tree_leaves_with_path(params)
            },
            "log_psi": as_lists(model.apply({"params": params}, samples)),
            "kernel": as_lists(kernels[0]),
            "centered": as_lists(kernels[1]),
        }
    found = {
        "made_with": {
            "netket": nk.__version__,
            "jax": jax.__version__,
            "python": platform.python_version(),
        },
        "samples": samples.tolist(),
        "models": recorded,
    }
    with open(path, "w") as file:
        json.dump(
            jax.tree.map(lambda v: round(v, 12) if isinstance(v, float) else v, found),
            file,
        )


if __name__ == "__main__":
    main(sys.argv[1])
