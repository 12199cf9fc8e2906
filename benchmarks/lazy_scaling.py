"""How far from its linear model a network trains, over four decades of its output scale.

    python -m benchmarks.lazy_scaling --figure gap.png

trains two-layer tanh networks on real digits by exact gradient flow, in float64, all
output scales alpha and seeds in one program, from h(w0) = 0 reached in two ways: by
subtracting the start, and by doubling the network. It prints the exponents of gap,
kernel drift and movement against alpha beside theory's, and draws the gap.
"""

import argparse
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import lazyjax
from lazyjax.dynamics import (
    gradient_flow,
    linear_dynamics,
    observers,
    scaled,
    square_loss,
)
from lazyjax.laziness import (
    Scaling,
    linearization_gap,
    relative_distance,
    relative_parameter_distance,
    scaling,
)
from lazyjax.linalg import gram_matrix

ALPHAS = np.logspace(0.0, 4.0, 9)
TIMES = (0.5, 2.0, 8.0)
WAYS = {"start subtracted": False, "doubled": True}


def measure(
    *, doubled: bool, width: int, num_train: int, num_seeds: int
) -> dict[str, jax.Array]:
    """Gap, drift and movement, by alpha and seed.

    Raises:
        RuntimeError: If a solution did not meet its tolerances.
    """
    data = lazyjax.data.digits(num_train, num_test=0, classes="parity")
    x, y = data.x_train, data.y_train
    net = lazyjax.nets.mlp(
        width=width, activation="tanh", w_std=1.5, symmetrized=doubled
    )

    def member(alpha: jax.Array, key: jax.Array) -> tuple[dict[str, jax.Array], ...]:
        start = net.init(key, x)
        f0 = net.apply(start, x)
        h = lambda params, x: net.apply(params, x) - f0
        kernel = lambda params: gram_matrix(
            lazyjax.empirical_ntk(net.apply, params, x, method="jacobian")
        )
        flow = gradient_flow(
            h,
            start,
            x,
            y,
            TIMES,
            loss_fn=scaled(square_loss, alpha),
            observe=[observers.outputs],
            rtol=1e-9,
            atol=1e-13,
        )
        linear = linear_dynamics(kernel(start), y, 0 * y).gradient_flow(
            jnp.array(TIMES)
        )
        outputs = alpha * flow.observations["outputs"]
        return {
            "linearization_gap": linearization_gap(outputs, linear),
            "ntk_drift": relative_distance(kernel(flow.params), kernel(start)),
            "relative_parameter_distance": relative_parameter_distance(
                flow.params, start
            ),
        }, {"status": flow.status}

    keys = jax.random.split(jax.random.key(0), num_seeds)
    over_seeds = jax.vmap(member, in_axes=(None, 0))
    values, how = jax.jit(jax.vmap(over_seeds, in_axes=(0, None)))(ALPHAS, keys)
    if how["status"].any():
        raise RuntimeError("A solution did not meet its tolerances.")
    return values


def draw(laws: dict[str, Scaling], gaps: dict[str, jax.Array], path: Path) -> None:
    """The gap against alpha, and the fitted laws."""
    from lazyjax import plot

    figure = plot.figure(width=4.5)
    axes = figure.subplots()
    for name, gap in gaps.items():
        law = laws[name].fit
        (line,) = axes.plot(ALPHAS, law(ALPHAS), label=f"{name}: {law.slope:.2f}")
        axes.plot(ALPHAS, gap, ".", color=line.get_color(), markersize=4)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.legend(frameon=False, title="exponent")
    plot.style_axes(
        axes,
        xlabel=r"output scale $\alpha$",
        ylabel=r"$\max_t \Vert \alpha h - f_{lin} \Vert$",
        title=r"The lazier, the larger $\alpha$",
    )
    path.write_bytes(plot.png_bytes(figure))


def main() -> None:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--num-train", type=int, default=10)
    parser.add_argument("--num-seeds", type=int, default=4)
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    laws: dict[str, Scaling] = {}
    gaps: dict[str, jax.Array] = {}
    for name, doubled in WAYS.items():
        values = measure(
            doubled=doubled,
            width=options.width,
            num_train=options.num_train,
            num_seeds=options.num_seeds,
        )
        print(f"h(w0) = 0, {name}:")
        for quantity, by_seed in values.items():
            law = scaling(quantity, ALPHAS, by_seed, against="alpha")
            print(f"  {law.explain()}")
            if quantity == "linearization_gap":
                laws[name], gaps[name] = law, by_seed
        smallest = float(jnp.min(gaps[name]))
        print(f"  smallest gap 10^{math.log10(smallest):.1f}")
    if options.figure:
        draw(laws, gaps, options.figure)


if __name__ == "__main__":
    main()
