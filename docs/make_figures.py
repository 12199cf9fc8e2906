"""Draws the figures of `concepts/`. Usage: `uv run python docs/make_figures.py`."""

import io
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure
from PIL import Image

import lazyjax
from lazyjax import plot
from lazyjax.plot.style import COLORS, FONT, plain_numbers

IMAGES = Path(__file__).parent / "images" / "concepts"


def kernels() -> Figure:
    """A kernel of ten classes, and how labels lie on its eigenvectors."""
    data = lazyjax.data.digits(200)
    x, y = data.x_train, data.y_train
    net = lazyjax.nets.mlp(width=1024, depth=2, w_std=2**0.5, num_outputs=10)
    params = net.init(jax.random.key(0), x)
    kernel = lazyjax.empirical_ntk(net.apply, params, x, outputs="trace")
    figure = plot.figure(height=3.1)
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.25))
    plot.kernel(left, kernel, jnp.argmax(y, axis=1))
    values, vectors = np.linalg.eigh(np.asarray(kernel, np.float64))
    shares = np.sum((vectors.T @ np.asarray(y, np.float64)) ** 2, axis=1)
    shares = np.cumsum(shares[::-1]) / np.sum(shares)
    ranks = np.arange(1, len(values) + 1)
    right.plot(ranks, values[::-1] / values.sum(), color=COLORS[1], label="eigenvalues")
    right.plot(ranks, 1 - shares + 1e-12, color=COLORS[0], label="labels left out")
    right.set(xscale="log", yscale="log", ylim=(1e-5, 1.5))
    title = "Few directions hold most of kernel and labels"
    plot.style_axes(right, xlabel="rank", ylabel="share of the sum", title=title)
    right.legend(fontsize=FONT - 1, frameon=False)
    return figure


def lazy_training() -> Figure:
    """Losses of one network beside its linear model, by output scale."""
    data = lazyjax.data.digits(100, classes="parity")
    x, y = data.x_train, data.y_train
    figure = plot.figure(height=3.0)
    panels = figure.subplots(1, 3, sharey=True)
    rate, steps = 0.1, np.unique(np.geomspace(1, 20_000, 80).astype(int))
    for axes, alpha in zip(panels, (0.3, 1.0, 10.0), strict=True):
        net = lazyjax.nets.mlp(
            width=64, depth=1, symmetrized=True, output_scale=alpha, w_std=2**0.5
        )
        params = net.init(jax.random.key(0), x)
        kernel = lazyjax.empirical_ntk(net.apply, params, x)
        step = rate / float(jnp.linalg.eigvalsh(kernel[..., 0, 0])[-1])
        run = lazyjax.train(
            net.apply, params, x, y, optimizer=optax.sgd(step), num_steps=20_000
        )
        linear = lazyjax.linear_dynamics(kernel, y, jnp.zeros_like(y))
        losses = [
            float(jnp.sum((linear.gradient_descent(int(t), step) - y) ** 2) / 2)
            for t in steps
        ]
        axes.plot(steps, np.asarray(run.loss)[steps], color=COLORS[0], label="network")
        axes.plot(steps, losses, "--", color=COLORS[1], label="its linear model")
        axes.set(xscale="log", yscale="log")
        title = rf"output scale $\alpha = {alpha:g}$"
        plot.style_axes(axes, xlabel="step", ylabel="", title=title)
    panels[0].set_ylabel("loss", fontsize=FONT)
    panels[0].legend(fontsize=FONT - 1, frameon=False)
    return figure


def infinite_width() -> Figure:
    """Distance of finite kernels from their limit."""
    x = lazyjax.data.digits(50).x_train
    widths, num_seeds = (16, 32, 64, 128, 256, 512, 1024), 30
    figure = plot.figure(width=4.6, height=3.0)
    axes = figure.subplots()
    for depth, color in zip((1, 2, 4), COLORS, strict=False):
        spec = lazyjax.Architecture(depth=depth, w_std=2**0.5)
        limit = lazyjax.infinite_ntk(spec, x)
        errors = []
        for width in widths:
            net = lazyjax.nets.build(spec, width=width)
            errors.append(
                [
                    lazyjax.laziness.relative_distance(
                        lazyjax.empirical_ntk(net.apply, net.init(key, x), x)[
                            ..., 0, 0
                        ],
                        limit,
                    )
                    for key in jax.random.split(jax.random.key(0), num_seeds)
                ]
            )
        means, sems = np.mean(errors, axis=1), np.std(errors, axis=1) / num_seeds**0.5
        axes.errorbar(
            widths,
            means,
            2 * sems,
            color=color,
            marker="o",
            ms=3.5,
            label=f"depth {depth}",
        )
    axes.plot(widths, 2.2 / np.sqrt(widths), ":", color="0.5", label="width$^{-1/2}$")
    axes.set(xscale="log", yscale="log")
    plain_numbers(axes.xaxis)
    title = "ReLU networks on 50 digits, 30 seeds, ±2 s.e."
    plot.style_axes(axes, xlabel="width", ylabel="relative distance", title=title)
    axes.legend(fontsize=FONT - 1, frameon=False)
    return figure


def certificates() -> Figure:
    """What is certified of a flow, beside the flow."""
    data = lazyjax.data.digits(20, num_test=0, classes="parity")
    with jax.enable_x64(True):
        x, y = (np.asarray(each, np.float64) for each in (data.x_train, data.y_train))
        net = lazyjax.nets.mlp(width=256, depth=1, activation="softplus", w_std=2.0)
        params = net.init(jax.random.key(0), x)
        warm = lazyjax.certify.warm_start(net, params, x, y)
        found = warm.certificate
        times = np.concatenate([[0], np.geomspace(0.1, 1500, 60)])
        flow = lazyjax.gradient_flow(
            net.apply,
            warm.params,
            x,
            y,
            times,
            observe={"distance": lambda at: distance(at.params, warm.params)},
        )
    figure = plot.figure(height=3.0)
    left, right = figure.subplots(1, 2)
    left.plot(times, flow.loss, color=COLORS[0], label="measured")
    bound = flow.loss[0] * np.exp(-found.rate * times)
    left.plot(times, bound, "--", color=COLORS[1], label="certified bound")
    left.set(yscale="log", ylim=(flow.loss[0] * 1e-8, flow.loss[0] * 3))
    title = "Loss, 20 digits, width 256"
    plot.style_axes(left, xlabel="time", ylabel="loss", title=title)
    left.legend(fontsize=FONT - 1, frameon=False)
    right.plot(times, flow.observations["distance"], color=COLORS[0])
    right.axhline(found.radius, ls="--", color=COLORS[1])
    right.set(xscale="log", yscale="log", xlim=(times[1], times[-1]))
    title = "Distance of parameters from the start"
    plot.style_axes(right, xlabel="time", ylabel="distance", title=title)
    return figure


def distance(one: object, other: object) -> jax.Array:
    """Euclidean distance of parameters."""
    return optax.tree.norm(optax.tree.sub(one, other))


def main() -> None:
    """Draw all."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    for draw in (kernels, lazy_training, infinite_width, certificates):
        image = Image.open(io.BytesIO(plot.png_bytes(draw(), dpi=150))).convert("RGB")
        # A palette is enough, and small.
        image.quantize(64).save(IMAGES / f"{draw.__name__}.png", optimize=True)


if __name__ == "__main__":
    main()
