r"""Gradient flow of a network beside that of its linear model, as differential equations.

Along gradient flow of $\tfrac12\lVert f - y\rVert^2$ the outputs of a network obey
$\dot f = -H(t) (f - y)$, and those of its linear model $\dot f = -H(0) (f - y)$. Both
sides are computed apart: derivatives in time as differences of outputs, kernels from
derivatives in parameters. By Grönwall's inequality, $\lVert f - y\rVert^2$ stays below
$e^{-2\lambda t}$ times its start while $\lambda_{\min}(H) \ge \lambda$. And the wider the
network, the nearer the two flows.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from rich.table import Table

from lazyjax import report
from lazyjax.architecture import Architecture
from lazyjax.data import digits
from lazyjax.dynamics import gradient_flow, linear_dynamics, observers
from lazyjax.experiments.judgement import Check, Judgement
from lazyjax.experiments.record import Conditions, Control, Experiment, Size
from lazyjax.infinite import infinite_ntk
from lazyjax.laziness import SlopeFit, log_log_slope
from lazyjax.linalg import eigvalsh
from lazyjax.nets import Network, build

ARCHITECTURE = Architecture(depth=1, activation="tanh", symmetrized=True)
# Differences in time are over this share of the time, to both sides.
_STEP = 0.02
# Allowed between the two sides of an equation, whose difference quotients are rounded.
TOLERANCE = 0.01


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExactVsLinearizedSize(Size):
    """How much is computed.

    Attributes:
        widths: Increasing widths.
        num_seeds: Networks of each.
        num_train: Training examples.
        num_times: Times at which both sides are compared.
        is_mean_field: Whether outputs are smaller by the root of the width, and time is
            longer by the width.
    """

    widths: tuple[int, ...] = (16, 64, 256, 1024)
    num_seeds: int = 4
    num_train: int = 20
    num_times: int = 9
    is_mean_field: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExactVsLinearized:
    """Both flows of every width and seed; curves are at `times`.

    Attributes:
        widths: Of the networks.
        times: In units of the slowest decay of the fastest mode, 1/λmax(H∞).
        exact_error: Largest |df/dt + H(t) (f - y)|, relative to df/dt, over times at
            which a percent of the residual is left.
        linear_error: The same of the linear model, with H(0).
        frozen_error: The same of the network, with H(0): how far it is from linear.
        bound_ratio: Largest |f - y|² over its bound by the smallest eigenvalue seen.
        eig_min: Smallest eigenvalue of H(t) over times.
        gap: Largest distance between the two flows' outputs, over √n.
        loss: ½|f - y|² of the network.
        loss_linear: Of the linear model.
        bound: The bound on the loss.
        slope: Power of the width in `gap`.
    """

    widths: tuple[int, ...]
    times: Float[np.ndarray, "num_times"]
    exact_error: Float[np.ndarray, "widths seeds"]
    linear_error: Float[np.ndarray, "widths seeds"]
    frozen_error: Float[np.ndarray, "widths seeds"]
    bound_ratio: Float[np.ndarray, "widths seeds"]
    eig_min: Float[np.ndarray, "widths seeds"]
    gap: Float[np.ndarray, "widths seeds"]
    loss: Float[np.ndarray, "widths seeds num_times"]
    loss_linear: Float[np.ndarray, "widths seeds num_times"]
    bound: Float[np.ndarray, "widths seeds num_times"]
    slope: SlopeFit


def measure(size: ExactVsLinearizedSize, conditions: Conditions) -> ExactVsLinearized:
    """Both sides of both equations along the flows."""
    key = conditions.key
    data = digits(size.num_train, num_test=0, classes="parity", key=key)
    x, y = data.x_train, data.y_train
    fastest = float(eigvalsh(infinite_ntk(ARCHITECTURE, x))[-1])
    times = np.geomspace(0.3, 30, size.num_times)
    nearby = times[:, None] * np.array([1 - _STEP, 1.0, 1 + _STEP])
    found = []
    for number, width in enumerate(size.widths):
        conditions.progress(number / len(size.widths), f"flow of width {width}")
        scale = width**-0.5 if size.is_mean_field else 1.0
        points = jnp.asarray(nearby.ravel() / (fastest * scale**2), x.dtype)
        network = build(
            dataclasses.replace(ARCHITECTURE, output_scale=scale), width=width
        )
        keys = jax.random.split(jax.random.fold_in(key, width), size.num_seeds)
        flows = functools.partial(_flows, network=network, x=x, y=y, points=points)
        found.append(jax.tree.map(np.asarray, jax.lax.map(flows, keys)))
    together = {name: np.stack([part[name] for part in found]) for name in found[0]}
    return ExactVsLinearized(
        widths=size.widths,
        times=times,
        slope=log_log_slope(np.asarray(size.widths, float), together["gap"]),
        **together,
    )


def _flows(
    key: Array,
    *,
    network: Network,
    x: Float[Array, "n d"],
    y: Float[Array, "n 1"],
    points: Float[Array, "points"],
) -> dict[str, Array]:
    """What is compared, of one network."""
    flow = gradient_flow(
        network.apply,
        network.init(key, x),
        x,
        y,
        jnp.concatenate([jnp.zeros(1, x.dtype), points]),
        observe=[observers.outputs, observers.ntk],
        rtol=1e-6,
        atol=1e-6,
    )
    kernels = flow.observations["ntk"][..., 0, 0]
    outputs = flow.observations["outputs"]
    linear = linear_dynamics(kernels[0], y, outputs[0])
    return _both_sides(kernels, outputs, linear.gradient_flow(points), y, points)


def _both_sides(
    kernels: Float[Array, "points n n"],
    outputs: Float[Array, "points n 1"],
    linear: Float[Array, "points_without_start n 1"],
    y: Float[Array, "n 1"],
    points: Float[Array, "points_without_start"],
) -> dict[str, Array]:
    """Both sides of both equations; points come in threes around each time."""
    start, exact = outputs[0], outputs[1:]
    gaps = jnp.linalg.norm(exact - linear, axis=(1, 2)) / y.size**0.5
    before, now, after = (points[shift::3] for shift in range(3))

    def error(f: Array, kernel: Array) -> Array:
        velocity = (f[2::3] - f[::3]) / (after - before)[:, None, None]
        field = -kernel @ (f[1::3] - y[None])
        norm = lambda a: jnp.linalg.norm(a, axis=(1, 2))
        # Where a percent of the residual is left, differences are mostly rounding.
        is_seen = norm(f[1::3] - y[None]) > 0.01 * jnp.linalg.norm(start - y)
        errors = norm(velocity - field) / norm(velocity)
        return jnp.max(jnp.where(is_seen, errors, 0.0))

    eig_min = jnp.min(jax.lax.map(lambda kernel: eigvalsh(kernel)[0], kernels))
    loss = lambda f: 0.5 * jnp.sum((f - y[None]) ** 2, axis=(1, 2))
    bound = loss(start[None]) * jnp.exp(-2 * eig_min * now)
    return {
        "exact_error": error(exact, kernels[2::3]),
        "linear_error": error(linear, kernels[:1]),
        "frozen_error": error(exact, kernels[:1]),
        "bound_ratio": jnp.max(loss(exact[1::3]) / bound),
        "eig_min": eig_min,
        "gap": jnp.max(gaps),
        "loss": loss(exact[1::3]),
        "loss_linear": loss(linear[1::3]),
        "bound": bound,
    }


def verdict(found: ExactVsLinearized) -> Judgement:
    """Both equations to a percent, the bound, and the exponent of the gap."""
    largest = (
        ("relative error of df/dt = -H(t)(f-y)", found.exact_error, TOLERANCE),
        ("of the linear model's -H(0)(f-y)", found.linear_error, TOLERANCE),
        ("loss over Grönwall's bound", found.bound_ratio, 1 + TOLERANCE),
    )
    checks = [
        Check(
            statement=statement,
            measured=float(np.max(values)),
            sense="at most",
            threshold=threshold,
        )
        for statement, values, threshold in largest
    ]
    gap = Check(
        statement="exponent of the gap in the width",
        measured=float(found.slope.slope),
        sense="at most",
        threshold=-0.5 + 0.15,
        uncertainty=2 * float(found.slope.slope_sem),
    )
    return Judgement.of([*checks, gap])


def tables(found: ExactVsLinearized) -> list[Table]:
    """Errors, bound and gap by width."""
    columns = {
        "df/dt against\n-H(t)(f-y)": found.exact_error,
        "linear against\n-H(0)(f-y)": found.linear_error,
        "df/dt against\n-H(0)(f-y)": found.frozen_error,
        "loss\n/ bound": found.bound_ratio,
        "min over t of\nλmin H(t)": found.eig_min,
        "largest gap\nto linear": found.gap,
    }
    caption = (
        f"Largest over times. Exponent of the gap: {float(found.slope.slope):.2f} ± "
        f"{float(found.slope.slope_sem):.2f}; theory: at most -1/2."
    )
    title = "Flows of networks and of their linear models"
    return [report.means_table(title, "width", found.widths, columns, caption=caption)]


def figure(found: ExactVsLinearized):
    """Losses under both flows with the bound; errors and gap against the width."""
    from lazyjax import plot

    figure = plot.figure(height=3.6)
    left, right = figure.subplots(1, 2)
    ends = {0: f"width {found.widths[0]}", -1: f"width {found.widths[-1]}"}
    relative = lambda loss: loss / found.bound[..., :1]
    plot.loss_curves(
        left,
        found.times,
        exact={name: relative(found.loss)[i] for i, name in ends.items()},
        linear={name: relative(found.loss_linear)[i] for i, name in ends.items()},
        bound=relative(found.bound)[-1].mean(axis=0),
        bound_label=f"Grönwall's bound, width {found.widths[-1]}",
    )
    plot.style_axes(
        left,
        xlabel=r"time $t$, in units of $1/\lambda_{\max}(H^\infty)$",
        ylabel="loss, relative to the first bound",
        title="Gradient flow: mean and range of seeds",
    )
    plot.curves(
        right,
        np.asarray(found.widths, float),
        {
            "network: largest gap to linear": found.gap,
            r"$\dot f$ against $-H(0)(f-y)$": found.frozen_error,
            r"$\dot f$ against $-H(t)(f-y)$": found.exact_error,
        },
        log="xy",
        guides={
            r"slope $-\frac{1}{2}$": found.gap[0].mean()
            * (np.asarray(found.widths) / found.widths[0]) ** -0.5
        },
    )
    plot.style_axes(
        right,
        xlabel="width $m$",
        ylabel="mean over seeds ± standard error",
        title="Wider networks are nearer to linear",
    )
    return figure


EXPERIMENT = Experiment(
    name="exact-vs-linearized",
    title="Gradient flow of networks and of their linear models",
    source="Berner (2019), slides on the neural tangent kernel; Jacot, Gabriel and "
    "Hongler (2018), arXiv:1806.07572",
    claim="Outputs obey df/dt = -H(t)(f-y), those of the linear model -H(0)(f-y); so "
    "|f-y|² falls like e^(-2λt) while λmin(H) is at least λ (Grönwall), and the gap "
    "between the two vanishes as the width grows, like its power -1/2 or faster.",
    sizes={
        "quick": ExactVsLinearizedSize(),
        "brief": ExactVsLinearizedSize(
            widths=(16, 128), num_seeds=3, num_train=8, num_times=6
        ),
        "full": ExactVsLinearizedSize(
            widths=(16, 64, 256, 1024, 4096, 16384),
            num_seeds=10,
            num_train=100,
            num_times=30,
        ),
    },
    measure=measure,
    verdict=verdict,
    tables=tables,
    figure=figure,
    control=Control(
        what="outputs are scaled by one over the width (mean-field), so that features "
        "are learnt at every width",
        change=lambda size: dataclasses.replace(size, is_mean_field=True),
    ),
    extras=("data", "ode"),
)
