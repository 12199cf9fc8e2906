r"""Chatterjee's criterion along widths, from random starts and from his positive ones.

The criterion is $4 L(w_0) < r^2 \alpha$, where $\alpha$ is the least
$\lVert\nabla L\rVert^2 / L$ within distance $r$ of the start. It speaks of one start, as
inequalities for all parameters cannot; and starts with a zero first layer, positive hidden
weights and large output weights meet it at every width and depth if inputs are
independent.
"""

import dataclasses

import jax
import numpy as np
import optax
from jaxtyping import Float
from rich.table import Table

from lazyjax import report
from lazyjax.certify import compare
from lazyjax.certify.theorems import positive_start
from lazyjax.data import sphere
from lazyjax.dynamics import largest_stable_rate, train
from lazyjax.experiments.judgement import Check, Judgement
from lazyjax.experiments.record import (
    CONTRADICTION,
    Conditions,
    Experiment,
    Size,
    contradicted,
)
from lazyjax.nets import Network, mlp
from lazyjax.typing import Params

STARTS = ("random", "random, large", "positive")
# Theorems on smooth networks, in the order of the table.
CRITERIA = {
    "polyak": "PL for all\nparameters",
    "lojasiewicz": "Łojasiewicz\ninequality",
    "liu": "PL* of Liu,\nZhu, Belkin",
    "oymak": "Oymak,\nSoltanolkotabi",
    "chatterjee": "Chatterjee",
}
# Of the loss at the start, that counts as zero loss.
ZERO = 1e-4


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChatterjeeSize(Size):
    """How much is computed.

    Attributes:
        widths: Of hidden layers.
        num_train: Training examples, no more than features.
        num_features: Dimension of inputs.
        depth: Hidden layers of networks with positive starts; others have one.
        num_steps: Of gradient descent.
        is_contradicted: Whether one input comes twice, with opposite labels.
    """

    widths: tuple[int, ...] = (16, 256, 4096)
    num_train: int = 4
    num_features: int = 32
    depth: int = 1
    num_steps: int = 1000
    is_contradicted: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chatterjee:
    """Verdicts and losses of every start and width.

    Attributes:
        widths: Of hidden layers.
        verdicts: Of each criterion: 1 certified, 0 inconclusive, -1 refuted.
        margin: Of Chatterjee's criterion, 1 at most; it holds where it is positive.
        loss: At some steps of gradient descent, relative to the start.
        steps: The steps.
    """

    widths: tuple[int, ...]
    verdicts: Float[np.ndarray, "starts widths criteria"]
    margin: Float[np.ndarray, "starts widths"]
    loss: Float[np.ndarray, "starts widths points"]
    steps: tuple[int, ...]

    @property
    def is_certified(self) -> np.ndarray:
        """Whether Chatterjee's criterion holds, by start and width."""
        return self.verdicts[..., list(CRITERIA).index("chatterjee")] > 0

    @property
    def num_alone(self) -> int:
        """Starts of which it says more than both inequalities of Łojasiewicz' kind."""
        columns = [list(CRITERIA).index(name) for name in ("polyak", "lojasiewicz")]
        silent = np.all(self.verdicts[..., columns] <= 0, axis=-1)
        reached = self.loss[..., -1] <= ZERO
        return int(np.sum(self.is_certified & silent & reached))


def _start(
    kind: str, width: int, depth: int, x: jax.Array, y: jax.Array, key: jax.Array
) -> tuple[Network, Params]:
    if kind == "positive":
        found = positive_start.positive_init(x, y, width=width, depth=depth)
        return found.network, found.params
    w_std = 12.0 if "large" in kind else 1.0
    network = mlp(
        width=width,
        activation="tanh",
        w_std=w_std,
        input_scaling="none",
        symmetrized=True,
    )
    return network, network.init(jax.random.fold_in(key, width), x)


def measure(size: ChatterjeeSize, conditions: Conditions) -> Chatterjee:
    """Certificates and runs of gradient descent."""
    key_data, key = jax.random.split(conditions.key)
    data = sphere(size.num_train, size.num_features, key=key_data)
    x, y = data.x_train, data.y_train
    if size.is_contradicted:
        x, y = contradicted(x, y)
    steps = np.unique(np.geomspace(1, size.num_steps, 60).round().astype(int))
    verdicts, margin, loss = [], [], []
    cases = [(kind, width) for kind in STARTS for width in size.widths]
    for number, (kind, width) in enumerate(cases):
        conditions.progress(number / len(cases), f"{kind} start of width {width}")
        network, params = _start(kind, width, size.depth, x, y, key)
        found = compare(network, params, x, y, rigor="float").certificates
        words = {"CERTIFIED": 1.0, "INCONCLUSIVE": 0.0, "REFUTED": -1.0}
        verdicts.append([words[found[name].verdict.value] for name in CRITERIA])
        margin.append(found["chatterjee"].margin)
        rate = 0.5 * largest_stable_rate(network.apply, params, x, y)
        run = train(
            network.apply,
            params,
            x,
            y,
            optimizer=optax.sgd(float(rate)),
            num_steps=size.num_steps,
        )
        loss.append(np.asarray(run.loss / run.loss[0])[steps])
    shape = (len(STARTS), len(size.widths))
    return Chatterjee(
        widths=size.widths,
        verdicts=np.array(verdicts).reshape(*shape, -1),
        margin=np.array(margin, float).reshape(shape),
        loss=np.stack(loss).reshape(*shape, -1),
        steps=tuple(steps.tolist()),
    )


def verdict(found: Chatterjee) -> Judgement:
    """Positive starts at all widths; random ones when wide; where others are silent."""
    certified, last = found.is_certified, found.loss[..., -1]
    return Judgement.of(
        [
            Check(
                statement="share of widths whose positive start meets the criterion",
                measured=float(np.mean(certified[STARTS.index("positive")])),
                sense="at least",
                threshold=1.0,
            ),
            Check(
                statement="random starts of the largest width that meet it",
                measured=float(np.sum(certified[:2, -1])),
                sense="at least",
                threshold=1.0,
            ),
            Check(
                statement="largest relative loss after descent from starts that meet it",
                measured=float(np.max(last[certified], initial=0.0)),
                sense="at most",
                threshold=ZERO,
            ),
            Check(
                statement="starts with zero loss of which Łojasiewicz' inequality and PL "
                "for all parameters say nothing",
                measured=float(found.num_alone),
                sense="at least",
                threshold=1.0,
            ),
        ]
    )


def tables(found: Chatterjee) -> list[Table]:
    """All criteria on all starts."""
    words = {1: "holds", 0: "silent", -1: "refuted"}
    rows = [
        [
            f"{kind}, {width}",
            *(words[int(value)] for value in found.verdicts[i, j]),
            f"{found.margin[i, j]:.2g}",
            f"{found.loss[i, j, -1]:.1e}",
        ]
        for i, kind in enumerate(STARTS)
        for j, width in enumerate(found.widths)
    ]
    columns = ["start, width", *CRITERIA.values(), "margin", "loss after\ndescent"]
    caption = (
        "The margin is that of Chatterjee's criterion, which holds where it is positive. "
        "Losses are relative to the start."
    )
    return [report.table("Criteria of convergence", columns, rows, caption=caption)]


def figure(found: Chatterjee):
    """Losses, solid where the criterion holds; margins against the width."""
    from lazyjax import plot

    figure = plot.figure()
    left, right = figure.subplots(1, 2)
    steps = np.asarray(found.steps)
    series = {
        f"{kind}, {found.widths[j]}"
        f"{'' if found.is_certified[i, j] else ' (silent)'}": np.maximum(
            found.loss[i, j], 1e-30
        )
        for i, kind in enumerate(STARTS)
        for j in (0, len(found.widths) - 1)
    }
    plot.curves(left, steps, series, log="xy", is_marked=False)
    left.legend(fontsize=8, frameon=False, loc="upper right")
    left.set_ylim(1e-12, 2)
    plot.curves(
        right,
        np.asarray(found.widths, float),
        {kind: np.maximum(found.margin[i], -2) for i, kind in enumerate(STARTS)},
        log="x",
        guides={"holds above": np.zeros(len(found.widths))},
    )
    plot.style_axes(
        left, xlabel="step", ylabel="relative loss", title="Descent from each start"
    )
    plot.style_axes(
        right,
        xlabel="width $m$",
        ylabel="margin of the criterion (cut at -2)",
        title="Chatterjee's criterion",
    )
    return figure


EXPERIMENT = Experiment(
    name="chatterjee",
    title="Chatterjee's criterion along widths and starts",
    source="Chatterjee (2022), arXiv:2203.16462",
    claim="If 4L(w₀) < r² min |∇L|²/L at the start, gradient flow and descent converge to zero loss "
    "within r of it. With independent inputs and smooth increasing activations it holds "
    "for starts with zero first layer, positive hidden weights and large output weights "
    "(abstract), and for random starts if they are wide; inequalities of Łojasiewicz' "
    "kind say nothing of where such a run ends.",
    sizes={
        "quick": ChatterjeeSize(),
        "brief": ChatterjeeSize(widths=(16, 4096), num_steps=500),
        "full": ChatterjeeSize(
            widths=(16, 64, 256, 1024, 4096), num_train=20, num_features=100, depth=3
        ),
    },
    measure=measure,
    verdict=verdict,
    tables=tables,
    figure=figure,
    control=CONTRADICTION,
)
