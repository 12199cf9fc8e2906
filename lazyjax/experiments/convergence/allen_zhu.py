r"""Gradient bounds and semi-smoothness along training, of deep and of recurrent networks.

Allen-Zhu, Li and Song (2019) prove convergence of wide ReLU networks from two facts that
hold near a random start if inputs are $\delta$-separated: gradients are not small unless
the loss is, and the loss is nearly smooth. For recurrent networks, whose weights are
shared over time, the same is the harder claim. Both are measured along runs.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from rich.table import Table

from lazyjax import report
from lazyjax.certify.measured import allen_zhu2019 as measured
from lazyjax.certify.widths import allen_zhu2019
from lazyjax.data import digits
from lazyjax.experiments.judgement import Check, Judgement
from lazyjax.experiments.record import (
    CONTRADICTION,
    Conditions,
    Experiment,
    Size,
    contradicted,
)
from lazyjax.linalg import eigvalsh
from lazyjax.nets import rnn
from lazyjax.ntk import empirical_ntk
from lazyjax.typing import ApplyFn, Params

NETWORKS = ("deep", "recurrent")
# Of the loss at the start, that counts as trained.
ZERO = 0.01
# Of twice λmin(H(0)), the bound of |∇F|²/F for a constant kernel, kept at least.
KEPT = 0.5
# Largest curvature |remainder|/|W'|² along the run, relative to that at the start.
CURVED = 2.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class AllenZhuSize(Size):
    """How much is computed.

    Attributes:
        widths: Of networks.
        num_seeds: Of each.
        num_train: Training examples.
        depth: Layers trained of the deep network.
        num_steps: Of gradient descent.
        is_contradicted: Whether one input comes twice, with opposite labels.
    """

    widths: tuple[int, ...] = (32, 128, 512)
    num_seeds: int = 3
    num_train: int = 10
    depth: int = 2
    num_steps: int = 1500
    is_contradicted: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class AllenZhu:
    """Runs of each network, width and seed, at the observed steps.

    Attributes:
        widths: Of the networks.
        steps: Observed.
        separation: Smallest distance of two inputs, the δ.
        required: Width of the theorem on deep networks, without its constant.
        loss: Relative to the start.
        gradient_ratio: |∇F|²/F, relative to 2 λmin(H(0)).
        curvature: Largest remainder over |W'|² of steps along the gradient, relative to
            the start.
    """

    widths: tuple[int, ...]
    steps: tuple[int, ...]
    separation: float
    required: float
    loss: Float[np.ndarray, "networks widths seeds observed"]
    gradient_ratio: Float[np.ndarray, "networks widths seeds observed"]
    curvature: Float[np.ndarray, "networks widths seeds observed"]


def _start(
    name: str, key: Array, x: Float[Array, "n d"], width: int, depth: int
) -> tuple[ApplyFn, Params, Array]:
    """Network, parameters and inputs; rows of an image come one after another."""
    if name == "deep":
        return *allen_zhu2019.network(key, x, width=width, depth=depth), x
    network = rnn(width=width, w_std=2**0.5, recurrent_std=2**0.5)
    sequences = x.reshape(len(x), 8, 8)
    return network.apply, network.init(key, sequences), sequences


def measure(size: AllenZhuSize, conditions: Conditions) -> AllenZhu:
    """Gradients, losses and remainders along gradient descent."""
    data = digits(size.num_train, num_test=0, classes="parity", key=conditions.key)
    x, y = data.x_train, data.y_train
    if size.is_contradicted:
        x, y = contradicted(x, y)
    steps = (0, *np.unique(np.geomspace(1, size.num_steps, 12).round()).astype(int))
    gaps = jnp.linalg.norm(x[:, None] - x[None], axis=-1)
    found = []
    for number, name in enumerate(NETWORKS):
        for width in size.widths:
            words = f"training {name} networks of width {width}"
            conditions.progress(number / len(NETWORKS), words)
            for seed in range(size.num_seeds):
                key = jax.random.fold_in(conditions.key, seed)
                key = jax.random.fold_in(key, width)
                apply_fn, params, inputs = _start(name, key, x, width, size.depth)
                kernel = empirical_ntk(apply_fn, params, inputs)[..., 0, 0]
                eigenvalues = eigvalsh(kernel)
                run = measured.measure(
                    apply_fn,
                    params,
                    inputs,
                    y,
                    learning_rate=float(1 / eigenvalues[-1]),
                    num_steps=size.num_steps,
                    observe_at=[int(step) for step in steps],
                )
                curvature = np.max(run.remainder / run.step_norm**2, axis=1)
                least = 2 * float(eigenvalues[0])
                found.append(
                    (
                        run.loss / run.loss[0],
                        run.gradient_ratio / least if least > 0 else 0 * run.loss,
                        curvature / curvature[0],
                    )
                )
    shape = (3, len(NETWORKS), len(size.widths), size.num_seeds, -1)
    loss, ratio, curvature = np.stack(found, axis=1).reshape(shape)
    (needed,) = allen_zhu2019.requirements(x, depth=size.depth)
    return AllenZhu(
        widths=size.widths,
        steps=tuple(int(step) for step in steps),
        separation=float(jnp.min(gaps + 1e9 * jnp.eye(len(x), dtype=x.dtype))),
        required=float(needed.width or np.inf),
        loss=loss,
        gradient_ratio=ratio,
        curvature=curvature,
    )


def verdict(found: AllenZhu) -> Judgement:
    """Convergence, the gradient bound and smoothness at the largest width."""
    checks = []
    for i, name in enumerate(NETWORKS):
        numbers = (
            (
                "largest relative loss",
                found.loss[i, -1, :, -1].max(),
                "at most",
                ZERO,
            ),
            (
                "least |∇F|²/F over 2 λmin(H(0))",
                found.gradient_ratio[i, -1].min(),
                "at least",
                KEPT,
            ),
            (
                "largest curvature over that at the start",
                found.curvature[i, -1].max(),
                "at most",
                CURVED,
            ),
        )
        checks += [
            Check(
                statement=f"{name} network, width {found.widths[-1]}: {statement}",
                measured=float(measured),
                sense=sense,
                threshold=threshold,
            )
            for statement, measured, sense, threshold in numbers
        ]
    return Judgement.of(
        checks,
        f"The theorem asks for n²⁴L¹²/δ⁸ = {found.required:.0e}, without its constant.",
    )


def tables(found: AllenZhu) -> list[Table]:
    """Ends and extremes of runs, by network and width."""
    columns = {
        "relative loss\nat the end": found.loss[..., -1],
        "least |∇F|²/F\n/ 2 λmin(H(0))": found.gradient_ratio.min(axis=-1),
        "largest curvature\n/ at the start": found.curvature.max(axis=-1),
    }
    caption = (
        f"Inputs are {found.separation:.3g} apart. Curvature is the largest remainder of "
        "the loss over the squared norm of a step along the gradient, for four lengths."
    )
    names = [f"{name}, {width}" for name in NETWORKS for width in found.widths]
    rows = {head: values.reshape(len(names), -1) for head, values in columns.items()}
    title = "Gradients and smoothness along training"
    return [report.means_table(title, "network, width", names, rows, caption=caption)]


def figure(found: AllenZhu):
    """Loss, gradient bound and curvature along the runs of the widest networks."""
    from lazyjax import plot

    figure = plot.figure(width=9.6)
    panels = (
        (found.loss, "relative loss $F(t)/F(0)$", "Loss", None),
        (
            found.gradient_ratio,
            r"$\|\nabla F\|^2 / F$, over $2\lambda_{\min}(H(0))$",
            "Gradients are not small",
            KEPT,
        ),
        (found.curvature, "curvature, relative to the start", "Nearly smooth", CURVED),
    )
    steps = np.maximum(np.asarray(found.steps, float), 0.5)
    for axes, (values, ylabel, title, threshold) in zip(
        figure.subplots(1, 3), panels, strict=True
    ):
        series = {
            f"{name}, width {found.widths[j]}": values[i, j].T
            for i, name in enumerate(NETWORKS)
            for j in (0, len(found.widths) - 1)
        }
        limit = (
            {} if threshold is None else {"threshold": np.full(len(steps), threshold)}
        )
        plot.curves(axes, steps, series, log="xy", guides=limit, is_marked=False)
        plot.style_axes(axes, xlabel="step (start at ½)", ylabel=ylabel, title=title)
    return figure


EXPERIMENT = Experiment(
    name="allen-zhu",
    title="Gradient bounds and semi-smoothness of deep and recurrent networks",
    source="Allen-Zhu, Li and Song (2019), arXiv:1811.03962 and arXiv:1810.12065",
    claim="If inputs are δ-separated, gradient descent on wide deep ReLU networks reaches "
    "zero loss, since near the start |∇F|² is at least a multiple of F, and F is nearly "
    "smooth (Theorems 1, 3 and 4; numbers not checked); so it is for recurrent networks.",
    sizes={
        "quick": AllenZhuSize(),
        "brief": AllenZhuSize(
            widths=(32, 256), num_seeds=2, num_train=5, num_steps=500
        ),
        "full": AllenZhuSize(
            widths=(32, 128, 512, 2048), num_seeds=10, num_train=50, num_steps=50_000
        ),
    },
    measure=measure,
    verdict=verdict,
    tables=tables,
    figure=figure,
    control=CONTRADICTION,
    extras=("data",),
)
