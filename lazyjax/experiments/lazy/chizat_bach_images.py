r"""Convolutional networks made lazy by their output scale, and their linear models.

Networks $\alpha (h(w) - h(w_0))$ without BatchNorm are trained on $\alpha^{-2} R$. As
$\alpha$ grows, their gates stay as they were at the start, and their accuracy on test
images becomes that of the linear model. The authors' images are CIFAR-10; where these are
not there, digits stand in for them, for which 8 by 8 pixels are enough. On these a network of
output scale 1 is lazy from the start (accuracy 0.797, the linear model's 0.791), so that
scales begin at 0.1.
"""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float
from rich.table import Table

from lazyjax import report
from lazyjax.architecture import Architecture
from lazyjax.data import Dataset, cifar10, digits
from lazyjax.dynamics import largest_stable_rate, square_loss, train
from lazyjax.experiments.judgement import Check, Judgement
from lazyjax.experiments.record import Conditions, Control, Experiment, Size
from lazyjax.laziness import mean_and_sem
from lazyjax.nets import Network, build, pre_activations, resnet18, vgg11
from lazyjax.ntk import linearize
from lazyjax.typing import RandomKey

# By which a network's accuracy is to be above its linear model's, and may be off from it
# where it is lazy; shares of gates that are as they were.
GAIN, ALLOWANCE = 0.02, 0.03
STABLE, MOVED = 0.99, 0.95

_SMALL = Architecture(
    kind="cnn",
    depth=3,
    w_std=2**0.5,
    num_outputs=10,
    pool_after=(1, 2),
    pooling="max",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChizatBachImagesSize(Size):
    r"""How much is computed.

    Attributes:
        alphas: Increasing output scales, of which the first is to learn features.
        num_seeds: Networks of each.
        architecture: Of the networks, with ten outputs.
        width: Channels of the first layer.
        num_train: Training images.
        num_test: Test images.
        batch_size: Images of a step of descent with momentum 0.9.
        num_steps: Steps.
        rate_share: Learning rate, over the largest that is stable for the linear model
            of 20 images.
    """

    alphas: tuple[float, ...] = (0.1, 1.0, 10.0, 1000.0)
    num_seeds: int = 3
    architecture: Architecture = _SMALL
    width: int = 8
    num_train: int = 200
    num_test: int = 400
    batch_size: int = 50
    num_steps: int = 400
    rate_share: float = 0.04


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChizatBachImages:
    """Accuracies and gates by output scale, the linear model last.

    Attributes:
        alphas: Output scales; infinity is the linear model.
        accuracy: On test images.
        train_accuracy: On training images.
        stability: Share of gates on test images that are as at the start; NaN where
            they are not defined by layers.
        data: Which images.
        is_cifar: Whether they are the authors'.
    """

    alphas: tuple[float, ...]
    accuracy: Float[np.ndarray, "alphas seeds"]
    train_accuracy: Float[np.ndarray, "alphas seeds"]
    stability: Float[np.ndarray, "alphas seeds"]
    data: str
    is_cifar: bool


def measure(size: ChizatBachImagesSize, conditions: Conditions) -> ChizatBachImages:
    """Accuracies after training, and gates."""
    data, is_cifar = _images(size, conditions.data_dir, conditions.key)
    network = build(size.architecture, width=size.width)
    rows = []
    alphas = (*size.alphas, np.inf)
    for number, alpha in enumerate(alphas):
        conditions.progress(number / len(alphas), f"output scale {alpha:g}")
        member = functools.partial(
            _member,
            jnp.asarray(alpha if np.isfinite(alpha) else 1.0, data.x_train.dtype),
            data=data,
            network=network,
            size=size,
            is_linear=not np.isfinite(alpha),
        )
        seeds = range(size.num_seeds)
        rows.append([member(jax.random.fold_in(conditions.key, s)) for s in seeds])
    found = np.array(rows, float)
    return ChizatBachImages(
        alphas=alphas,
        accuracy=found[..., 0],
        train_accuracy=found[..., 1],
        stability=found[..., 2],
        data=data.description,
        is_cifar=is_cifar,
    )


def _images(
    size: ChizatBachImagesSize, directory: Path | None, key: RandomKey
) -> tuple[Dataset, bool]:
    """CIFAR-10, or digits where it is not there; pixels have unit mean square."""
    options = {"num_test": size.num_test, "key": key}
    shape, is_cifar = (32, 32, 3), directory is not None
    try:
        if directory is None:
            raise FileNotFoundError
        found = cifar10(directory, size.num_train, **options)
    except FileNotFoundError:
        found, shape, is_cifar = digits(size.num_train, **options), (8, 8, 1), False
    image = lambda x: x.reshape(-1, *shape) * np.prod(shape) ** 0.5
    images = {name: image(getattr(found, name)) for name in ("x_train", "x_test")}
    return dataclasses.replace(found, **images), is_cifar


@functools.partial(jax.jit, static_argnames=("network", "size", "is_linear"))
def _member(
    alpha: Array,
    key: Array,
    *,
    data: Dataset,
    network: Network,
    size: ChizatBachImagesSize,
    is_linear: bool,
) -> Float[Array, "3"]:
    """Accuracy on test and on training images, and the share of gates that stay."""
    start = network.init(key, data.x_train)
    h = linearize(network.apply, start) if is_linear else network.apply
    model = lambda params, x: alpha * (h(params, x) - network.apply(start, x))
    few = slice(0, 20)
    rate = largest_stable_rate(
        network.apply, start, data.x_train[few], data.y_train[few]
    )
    params = train(
        model,
        start,
        data.x_train,
        data.y_train,
        optimizer=optax.sgd(size.rate_share * rate, momentum=0.9),
        num_steps=size.num_steps,
        loss_fn=lambda f, y: square_loss(f, y) / alpha**2,
        batch_size=size.batch_size,
        key=key,
    ).params
    hits = [
        jnp.mean(jnp.argmax(model(params, x), axis=1) == jnp.argmax(y, axis=1))
        for x, y in ((data.x_test, data.y_test), (data.x_train, data.y_train))
    ]
    # Gates of the linear model are those of the start.
    stability = jnp.asarray(1.0 if is_linear else jnp.nan)
    if network.architecture.kind == "cnn" and not is_linear:
        gates = pre_activations(network)
        now, before = gates(params, data.x_test), gates(start, data.x_test)
        same = jax.tree.map(lambda a, b: jnp.mean((a > 0) == (b > 0)), now, before)
        stability = jnp.mean(jnp.stack(jax.tree.leaves(same)))
    return jnp.stack([*hits, stability])


def verdict(found: ChizatBachImages) -> Judgement:
    """Whether gates stay, and accuracy falls, to that of the linear model."""
    linear = found.accuracy[-1]

    def check(statement, values, sense, threshold) -> Check:
        mean, sem = map(float, mean_and_sem(np.asarray(values)))
        return Check(
            statement=statement,
            measured=mean,
            sense=sense,
            threshold=threshold,
            uncertainty=2 * sem,
        )

    first, most = f"{found.alphas[0]:g}", f"{found.alphas[-2]:g}"
    checks = [
        check(
            f"accuracy at output scale {first} above that of the linear model",
            found.accuracy[0] - linear,
            "at least",
            GAIN,
        ),
        check(
            f"accuracy at output scale {most} off from that of the linear model",
            np.abs(found.accuracy[-2] - linear),
            "at most",
            ALLOWANCE,
        ),
    ]
    if not np.isnan(found.stability).any():
        gates = "share of gates as at the start, output scale"
        checks += [
            check(f"{gates} {most},", found.stability[-2], "at least", STABLE),
            check(f"{gates} {first},", found.stability[0], "at most", MOVED),
        ]
    premise = check(
        f"accuracy at output scale {first} on training images",
        found.train_accuracy[0],
        "at least",
        0.9,
    )
    stand_in = "" if found.is_cifar else "CIFAR-10 is not there: digits in its place."
    return Judgement.of(checks, stand_in, premises=[premise])


def tables(found: ChizatBachImages) -> list[Table]:
    """Accuracies and gates by output scale."""
    names = [f"{a:g}" if np.isfinite(a) else "linear model" for a in found.alphas]
    columns = {
        "test accuracy": found.accuracy,
        "training accuracy": found.train_accuracy,
        "gates that stay": found.stability,
    }
    return [report.means_table(f"Images: {found.data}", "output scale", names, columns)]


def figure(found: ChizatBachImages):
    """Accuracy and gates against the output scale."""
    from lazyjax import plot

    figure = plot.figure(width=4.8, height=3.6)
    axes = figure.subplots()
    finite = np.asarray(found.alphas[:-1])
    shown = {
        "test accuracy": found.accuracy[:-1],
        "training accuracy": found.train_accuracy[:-1],
        "gates as at the start": found.stability[:-1],
    }
    linear = np.full(finite.shape, found.accuracy[-1].mean())
    plot.curves(
        axes, finite, shown, log="x", guides={"test accuracy, linear model": linear}
    )
    low, high = axes.get_ylim()
    axes.set_ylim(low - 0.45 * (high - low), high)  # room for the legend
    axes.legend(fontsize=8, frameon=False, loc="lower left")
    images = "CIFAR-10" if found.is_cifar else "digits"
    plot.style_axes(
        axes,
        xlabel=r"output scale $\alpha$",
        ylabel="share of images, of gates",
        title=f"Convolutional networks on {images}, without BatchNorm",
    )
    return figure


def _of_authors(architecture: Architecture, width: int) -> ChizatBachImagesSize:
    return ChizatBachImagesSize(
        alphas=tuple(10.0**k for k in range(-1, 5)),
        architecture=dataclasses.replace(architecture, num_outputs=10),
        width=width,
        num_train=50_000,
        num_test=10_000,
        batch_size=128,
        num_steps=27_000,
    )


EXPERIMENT = Experiment(
    name="chizat-bach-images",
    title="Convolutional networks beside their linear models, by output scale",
    source="Chizat, Oyallon and Bach (2019), arXiv:1812.07956",
    claim="As the output scale grows, gates of convolutional networks stay as they were "
    "and their test accuracy falls to that of the linear model: on CIFAR-10, of VGG-11 "
    "from 89.7% to 61.7%, of ResNet-18 from 91.0% to 56.7% (figure 3a, table 3b).",
    sizes={
        "quick": ChizatBachImagesSize(),
        "brief": ChizatBachImagesSize(
            alphas=(0.1, 1000.0),
            num_seeds=2,
            num_train=100,
            num_test=200,
            num_steps=300,
        ),
        "full": _of_authors(vgg11(num_outputs=10).architecture, 64),
        "full-resnet18": _of_authors(resnet18(num_outputs=10).architecture, 64),
    },
    measure=measure,
    verdict=verdict,
    tables=tables,
    figure=figure,
    control=Control(
        what="the output scale stays below 1, so that nothing is lazy",
        change=lambda size: dataclasses.replace(size, alphas=(0.1, 0.2)),
    ),
    extras=("data",),
)
