"""Draw the figure of `quantum_states.md`: `python docs/how_to/quantum_states_figure.py`."""

import pathlib

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import lazyjax
from lazyjax import spectrum

SPINS, SAMPLES, STARTS = 10, 512, 5


def log_psi(params: dict, spins: jax.Array) -> jax.Array:
    """Logarithm of the wave function of a restricted Boltzmann machine."""
    spins = spins.astype(params["visible"].dtype)
    hidden = spins @ params["kernel"] + params["hidden"][None]
    return jnp.log(jnp.cosh(hidden)).sum(-1) + spins @ params["visible"]


def eigenvalues(num_hidden: int, start: int, spins: jax.Array) -> np.ndarray:
    """Eigenvalues of the centred kernel over the number of samples, largest first."""
    keys = jax.random.split(jax.random.key(start), 3)
    draw = lambda key, *shape: 0.1 * jax.random.normal(key, shape, jnp.complex128)
    params = {
        "kernel": draw(keys[0], SPINS, num_hidden),
        "hidden": draw(keys[1], num_hidden),
        "visible": draw(keys[2], SPINS),
    }
    kernel = lazyjax.empirical_ntk(log_psi, params, spins)
    return np.linalg.eigvalsh(spectrum.center(kernel) / 2 / SAMPLES)[::-1]


def main() -> None:
    """Draw and save."""
    every = np.array(np.meshgrid(*[[-1.0, 1.0]] * SPINS)).reshape(SPINS, -1).T
    chosen = np.random.default_rng(0).permutation(len(every))[:SAMPLES]
    spins = jnp.asarray(every[chosen])
    fig, axes = plt.subplots(figsize=(5.2, 3.4), layout="constrained")
    for num_hidden, color in ((5, "#9ecae1"), (20, "#4292c6"), (80, "#08306b")):
        found = np.stack([eigenvalues(num_hidden, s, spins) for s in range(STARTS)])
        found = np.maximum(found, 1e-20)
        rank = np.arange(1, SAMPLES + 1)
        number = SPINS * num_hidden + num_hidden + SPINS
        label = f"{num_hidden} hidden units, {number} parameters"
        axes.plot(rank, np.median(found, 0), color=color, label=label)
        axes.fill_between(rank, found.min(0), found.max(0), color=color, alpha=0.3)
    axes.set(xscale="log", yscale="log", ylim=(1e-19, None))
    axes.set(xlabel="number", ylabel=r"eigenvalue of $O O^\dagger$")
    axes.legend(frameon=False, loc="lower left")
    axes.spines[["top", "right"]].set_visible(False)
    path = pathlib.Path(__file__).parents[1] / "images" / "quantum_states.png"
    fig.savefig(path, dpi=130)


if __name__ == "__main__":
    with jax.enable_x64(True):
        main()
