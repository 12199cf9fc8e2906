r"""Deep networks of three kinds reach zero loss on true and on random labels.

Du, Lee, Li, Wang and Zhai (2019) prove it for fully connected, residual and convolutional
residual networks whose width grows with $1/\lambda_{\min}(K^{(H)})$, the kernel of the
last hidden layer. Here are that eigenvalue against the depth, the widths that theorems
ask for, and the smallest of those tried that reach zero loss.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float
from rich.table import Table

from lazyjax import report
from lazyjax.certify.widths import du2019b, order_of_magnitude
from lazyjax.data import digits
from lazyjax.dynamics import largest_stable_rate, train
from lazyjax.experiments.judgement import Check, Judgement
from lazyjax.experiments.record import (
    CONTRADICTION,
    Conditions,
    Experiment,
    Size,
    contradicted,
)
from lazyjax.nets import build

KINDS: tuple[du2019b.NetworkKind, ...] = ("mlp", "resnet", "conv_resnet")
NAMES = ("fully connected", "ResNet", "convolutional ResNet")
# Of the loss at the start, that counts as zero loss.
ZERO = 1e-3
MOMENTUM = 0.95
# Powers of the depth: of ResNets' λmin no lower than 1/H^2 and this much more, and of
# fully connected networks' lower than ResNets' by as much.
MARGIN = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Du2019DeepSize(Size):
    """How much is computed.

    Attributes:
        widths: Of each kind.
        num_train: Training examples.
        depth: Hidden layers of the networks trained.
        depths: Increasing depths at which kernels are evaluated.
        num_steps: Of gradient descent with momentum.
        is_contradicted: Whether one input comes twice, with opposite labels.
    """

    widths: tuple[int, ...] = (4, 64)
    num_train: int = 16
    depth: int = 3
    depths: tuple[int, ...] = (2, 4, 8, 16)
    num_steps: int = 1000
    is_contradicted: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Du2019Deep:
    """Losses, relative to their start, and what theory is about.

    Attributes:
        widths: Of networks.
        depths: Of kernels.
        loss: Losses at every tenth step, of labels that are true and random.
        eig_min: Smallest eigenvalue of the kernel at each depth.
        required: Widths of the theorems, at the depth trained.
    """

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    loss: Float[np.ndarray, "kinds widths labels points"]
    eig_min: Float[np.ndarray, "kinds depths"]
    required: Float[np.ndarray, "kinds"]

    @property
    def powers(self) -> Float[np.ndarray, "kinds"]:
        """Powers of the depth in the smallest eigenvalue, between the last two depths."""
        logs = np.log(np.maximum(self.eig_min[:, -2:], 1e-300))
        return np.diff(logs, axis=1)[:, 0] / np.log(self.depths[-1] / self.depths[-2])

    def smallest(self, kind: int) -> int | None:
        """Smallest width from which on both labels reach zero loss."""
        fits = (self.loss[kind, :, :, -1] <= ZERO).all(axis=1)
        good = [w for i, w in enumerate(self.widths) if fits[i:].all()]
        return good[0] if good else None


def measure(size: Du2019DeepSize, conditions: Conditions) -> Du2019Deep:
    """Training of each kind and width on both labels; kernels of each depth."""
    data = digits(size.num_train, num_test=0, classes="parity", key=conditions.key)
    x, y = data.x_train, data.y_train
    random = jnp.sign(jax.random.normal(conditions.key, y.shape, y.dtype))
    if size.is_contradicted:
        (_, random), (x, y) = contradicted(x, random), contradicted(x, y)
    losses, eig_min, required = [], [], []
    for number, kind in enumerate(KINDS):
        # Rows of an image are pixels of 8 channels: the theorem's images have one axis.
        inputs = x.reshape(-1, 8, 8) if kind == "conv_resnet" else x
        conditions.progress(number / 3, f"training {NAMES[number]}")
        described = du2019b.architecture(kind, depth=size.depth)
        spec = dataclasses.replace(described, trained="all")
        for width in size.widths:
            network = build(spec, width=width)
            key = jax.random.fold_in(conditions.key, width)
            params = network.init(key, inputs)
            rate = 0.5 * largest_stable_rate(network.apply, params, inputs, y)
            for labels in (y, random):
                run = train(
                    network.apply,
                    params,
                    inputs,
                    labels,
                    optimizer=optax.sgd(float(rate), momentum=MOMENTUM),
                    num_steps=size.num_steps,
                )
                losses.append(np.asarray(run.loss / run.loss[0])[::10])
        for depth in size.depths:
            at_depth = du2019b.architecture(kind, depth=depth)
            kernel = du2019b.last_hidden_kernel(inputs, at_depth)
            eig_min.append(np.linalg.eigvalsh(kernel)[0])
        (needed,) = du2019b.requirements(inputs, described)
        required.append(needed.width)
    return Du2019Deep(
        widths=size.widths,
        depths=size.depths,
        loss=np.stack(losses).reshape(3, len(size.widths), 2, -1),
        eig_min=np.array(eig_min).reshape(3, -1),
        required=np.array(required, float),
    )


def verdict(found: Du2019Deep) -> Judgement:
    """Zero loss at the largest width, and how the kernel's eigenvalue falls with depth."""
    connected, residual, _ = found.powers
    return Judgement.of(
        [
            Check(
                statement=f"largest relative loss at width {found.widths[-1]}, true and "
                "random labels,",
                measured=float(found.loss[:, -1, :, -1].max()),
                sense="at most",
                threshold=ZERO,
            ),
            Check(
                statement="power of the depth in the ResNet's λmin(K)",
                measured=float(residual),
                sense="at least",
                threshold=-2 - MARGIN,
            ),
            Check(
                statement="that of the fully connected network, relative to it,",
                measured=float(connected - residual),
                sense="at most",
                threshold=-MARGIN,
            ),
        ]
    )


def tables(found: Du2019Deep) -> list[Table]:
    """Widths asked for beside those that do; eigenvalues against the depth."""
    rows, eigenvalues = [], []
    for i, name in enumerate(NAMES):
        smallest = found.smallest(i)
        last = found.loss[i, -1, :, -1]
        rows.append(
            [
                name,
                order_of_magnitude(found.required[i]),
                "none tried" if smallest is None else str(smallest),
                f"{last[0]:.1e}",
                f"{last[1]:.1e}",
            ]
        )
        shown = [f"{value:.2e}" for value in found.eig_min[i]]
        eigenvalues.append([name, *shown, f"{found.powers[i]:.2f}"])
    caption = (
        f"Zero loss: at most {ZERO:g} of the start, on true and on random labels. Of the "
        "theorem the constants, and 2^O(H) or poly(pixels), are left out."
    )
    names = ["network", "theorem", "smallest\nthat works"]
    ends = [f"{kind} labels,\nwidth {found.widths[-1]}" for kind in ("true", "random")]
    depths = [f"H = {depth}" for depth in found.depths]
    return [
        report.table("Widths for zero loss", [*names, *ends], rows, caption=caption),
        report.table(
            "Smallest eigenvalue of K against the depth H",
            ["network", *depths, "last power"],
            eigenvalues,
        ),
    ]


def figure(found: Du2019Deep):
    """Losses of the widest networks; eigenvalues against the depth."""
    from lazyjax import plot

    figure = plot.figure()
    left, right = figure.subplots(1, 2)
    steps = 10 * np.arange(found.loss.shape[-1])
    series = {
        f"{name}, {labels}": np.maximum(found.loss[i, -1, j], 1e-9)
        for i, name in enumerate(NAMES)
        for j, labels in enumerate(("true", "random"))
    }
    plot.curves(left, steps, series, log="y", is_marked=False)
    depths = np.asarray(found.depths, float)
    plot.curves(
        right,
        depths,
        dict(zip(NAMES, found.eig_min, strict=True)),
        log="xy",
        guides={"$H^{-2}$": 2 * found.eig_min[1, 0] * (depths / depths[0]) ** -2},
    )
    title = f"Width {found.widths[-1]}, true and random labels"
    plot.style_axes(left, xlabel="step", ylabel="relative loss", title=title)
    plot.style_axes(
        right,
        xlabel="hidden layers $H$",
        ylabel=r"$\lambda_{\min}(K^{(H)})$",
        title="Kernels of infinite width",
    )
    return figure


EXPERIMENT = Experiment(
    name="du2019-deep",
    title="Deep networks of three kinds reach zero loss, also on random labels",
    source="Du, Lee, Li, Wang and Zhai (2019), arXiv:1811.03804",
    claim="Gradient descent brings wide deep networks to zero loss: fully connected, "
    "residual and convolutional residual ones (Theorems 5.1, 6.1 and 7.1), whatever the "
    "labels. λmin(K^(H)) falls like a power of the depth for ResNets, and faster for "
    "fully connected networks.",
    sizes={
        "quick": Du2019DeepSize(),
        "brief": Du2019DeepSize(
            widths=(32,), num_train=8, depth=1, depths=(4, 8), num_steps=300
        ),
        "full": Du2019DeepSize(
            widths=(4, 16, 64, 256, 1024),
            num_train=100,
            depths=(2, 4, 8, 16, 32, 64),
            num_steps=20_000,
        ),
    },
    measure=measure,
    verdict=verdict,
    tables=tables,
    figure=figure,
    control=CONTRADICTION,
    extras=("data",),
)
