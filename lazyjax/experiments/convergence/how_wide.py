r"""How wide a network must be to fit: by theorems, by certificate, and by trying.

The back-of-the-envelope question of readers of such theorems: given the number of
examples, their size and the number of classes, how many parameters? For random images
with random labels, which only memory fits, the smallest width is found by bisection and
counted in parameters. They grow like the numbers to be fitted, one for each class of
each example; that power law is followed to a large data set.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from lazyjax.certify import gradient_flow
from lazyjax.certify.widths import (
    RequiredWidth,
    du2019b,
    network_at,
    smallest_width,
    theorem_requirements,
)
from lazyjax.experiments.convergence._capacity import Capacity, Images
from lazyjax.experiments.convergence._how_wide_result import (
    KINDS,
    HowWide,
    figure,
    tables,
)
from lazyjax.experiments.judgement import Check, Judgement
from lazyjax.experiments.record import (
    CONTRADICTION,
    Conditions,
    Experiment,
    Size,
    contradicted,
)
from lazyjax.infinite import infinite_ntk
from lazyjax.laziness import log_log_slope, mean_and_sem
from lazyjax.linalg import eigvalsh
from lazyjax.nets import build
from lazyjax.sweeps import sweep

# Of the loss of outputs of zero, that counts as a fit.
ZERO = 1e-3
MOMENTUM = 0.95
# Parameters per number fitted: at least one, but for what ZERO leaves, and a few.
FEWEST, MOST = 0.8, 10.0
TRIED = 0.5  # parameters per number, below which widths are not trained
# How much wider than what fits theorems are to ask for, in the median.
FAR = 1000.0
# The example of those readers.
TARGET = Images(number=50_000, num_pixels=512 * 512, num_channels=3, num_classes=1000)


@dataclasses.dataclass(frozen=True, kw_only=True)
class HowWideSize(Size):
    """How much is computed.

    Attributes:
        train_sizes: Numbers of examples, at least two.
        num_pixels: Of an image, along one axis.
        num_channels: Of a pixel.
        num_classes: Of random labels.
        depth: Hidden layers.
        num_starts: Networks of each width.
        max_width: Largest width trained.
        max_certified: Largest width certified.
        num_steps: Of gradient descent with momentum.
        target: What to extrapolate to.
        is_contradicted: Whether one image comes twice, with opposite labels.
    """

    train_sizes: tuple[int, ...] = (16, 64)
    num_pixels: int = 8
    num_channels: int = 4
    num_classes: int = 4
    depth: int = 2
    num_starts: int = 2
    max_width: int = 32
    max_certified: int = 256
    num_steps: int = 2000
    target: Images = TARGET
    is_contradicted: bool = False


def measure(size: HowWideSize, conditions: Conditions) -> HowWide:
    """Widths asked for, certified and bisected, for each number of examples."""
    required, found = [], []
    certified = np.inf
    needed: tuple[RequiredWidth, ...] = ()
    for i, number in enumerate(size.train_sizes):
        images = Images(number, size.num_pixels, size.num_channels, size.num_classes)
        x, y = images.random(jax.random.fold_in(conditions.key, number))
        if size.is_contradicted:
            x, y = contradicted(x, y)
        conditions.progress(i / len(size.train_sizes), f"certificates for {number}")
        needed = _required(x, y, size.depth)
        required.append(
            [np.nan if each.applies is False else each.width for each in needed]
        )
        if not i:
            certified = _certified(x.reshape(number, -1), y, size, conditions.key)
        for kind in KINDS.values():
            conditions.progress(i / len(size.train_sizes), f"{kind} for {number}")
            found.append(_fitting(kind, images, x, y, size, conditions.key))
    # Kinds first, then the numbers of examples, what is found, and starts.
    together = np.stack(found).reshape(len(size.train_sizes), len(KINDS), 3, -1)
    fitting, params, epochs = together.transpose(2, 1, 0, 3)
    numbers = jnp.asarray(size.num_classes * np.asarray(size.train_sizes, np.float32))
    return HowWide(
        train_sizes=size.train_sizes,
        theorems=tuple(each.theorem for each in needed),
        depths=tuple(each.depth for each in needed),
        required=np.array(required, float).T,
        certified=certified,
        fitting=fitting,
        params=params,
        epochs=epochs,
        laws=tuple(
            log_log_slope(numbers, np.asarray(each, np.float32)) for each in params
        ),
        depth=size.depth,
        num_classes=size.num_classes,
        target=size.target,
    )


def _required(
    x: Float[Array, "n pixels channels"], y: Float[Array, "n k"], depth: int
) -> tuple[RequiredWidth, ...]:
    """What theorems ask for, of the first class against the others."""
    flat, signs = x.reshape(len(x), -1), jnp.sign(y[:, :1])
    conv = du2019b.architecture("conv_resnet", depth=depth)
    return (
        *theorem_requirements(flat, signs, depth=depth),
        *du2019b.requirements(x, conv),
    )


def _certified(
    x: Float[Array, "n d"], y: Float[Array, "n k"], size: HowWideSize, key: Array
) -> float:
    """Smallest width whose start is certified, with one hidden layer."""

    def holds(width: int) -> bool:
        spec = network_at(width).architecture
        network = build(dataclasses.replace(spec, num_outputs=y.shape[1]), width=width)
        params = network.init(jax.random.fold_in(key, width), x)
        return gradient_flow(network, params, x, y, rigor="float").is_certified

    return float(smallest_width(holds, size.max_certified) or np.inf)


def _fitting(
    kind: du2019b.NetworkKind,
    images: Images,
    x: Float[Array, "n pixels channels"],
    y: Float[Array, "n k"],
    size: HowWideSize,
    key: Array,
) -> Float[np.ndarray, "3 starts"]:
    """Smallest width, its parameters and its steps, of each start."""
    capacity = Capacity.of(kind, images, depth=size.depth)
    # Half of 1/λmax: narrow networks are further from the limit.
    rate = 0.5 / float(eigvalsh(infinite_ntk(capacity.architecture, x))[-1])

    @functools.cache
    def steps(width: int) -> Float[np.ndarray, "starts"]:
        """Steps until each start of a width fits, infinite if it does not."""
        runs = sweep(
            capacity.architecture,
            x,
            y,
            widths=(width,),
            num_seeds=size.num_starts,
            key=key,
            learning_rates=(rate,),
            num_steps=size.num_steps,
            optimizer=functools.partial(optax.sgd, momentum=MOMENTUM),
            chunk_size=1,
        )
        fits = runs.loss[0, :, 0, 0] <= ZERO * float(jnp.sum(y**2)) / 2
        return np.where(fits.any(axis=1), fits.argmax(axis=1), np.inf)

    rows = []
    for start in range(size.num_starts):
        width = smallest_width(
            lambda width, start=start: (
                capacity.num_params(width) >= TRIED * images.numbers
                and bool(np.isfinite(steps(width)[start]))
            ),
            size.max_width,
        )
        if width is None:
            rows.append((np.inf, np.inf, np.inf))
        else:
            rows.append((width, capacity.num_params(width), steps(width)[start]))
    return np.array(rows, float).T


def verdict(found: HowWide) -> Judgement:
    """Some width fits, of few parameters, and theorems ask for far more."""
    per_number = found.params[:, -1] / found.numbers[-1]
    mean, sem = mean_and_sem(per_number)
    least, most = int(np.argmin(mean)), int(np.argmax(mean))
    ratio = found.required[:, -1] / found.fitting[:, -1].max()
    return Judgement.of(
        [
            Check(
                statement="share of starts that some width fits",
                measured=float(np.mean(np.isfinite(found.fitting))),
                sense="at least",
                threshold=1.0,
            ),
            Check(
                statement="parameters per number to be fitted, fewest of three kinds,",
                measured=float(mean[least]),
                sense="at least",
                threshold=FEWEST,
                uncertainty=2 * float(sem[least]),
            ),
            Check(
                statement="most of three kinds",
                measured=float(mean[most]),
                sense="at most",
                threshold=MOST,
                uncertainty=2 * float(sem[most]),
            ),
            Check(
                statement="median width that theorems ask for, over that which fits,",
                measured=float(np.nanmedian(ratio)),
                sense="at least",
                threshold=FAR,
            ),
        ],
        "Theorems whose formulas have no constant are taken with a constant of 1.",
    )


EXPERIMENT = Experiment(
    name="how-wide",
    title="How wide a network must be to fit",
    source="A question of readers of Du et al. (2019), arXiv:1810.02054 and "
    "arXiv:1811.03804",
    claim="Networks fit random labels with a few parameters for each number to be "
    "fitted, whatever their kind; widths for which theorems on random starts promise "
    "that grow like powers 4 to 24 of the number of examples.",
    sizes={
        "quick": HowWideSize(),
        "brief": HowWideSize(train_sizes=(4, 8), max_width=16, max_certified=32),
        "full": HowWideSize(
            train_sizes=(16, 64, 256, 1024),
            num_pixels=16,
            num_classes=10,
            num_starts=5,
            max_width=1024,
            max_certified=2**16,
            num_steps=20_000,
        ),
    },
    measure=measure,
    verdict=verdict,
    tables=tables,
    figure=figure,
    control=CONTRADICTION,
)
