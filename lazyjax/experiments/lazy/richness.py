r"""The best learning rate against the strength of feature learning.

Networks $\gamma^{-1} (h(w) - h(w_0))$ in maximal update parameterization are trained
with many learning rates. The one that ends at the smallest loss grows like $\gamma^2$
while training is lazy, and like $\gamma^{2/L}$, with $L$ layers of weights, where
features are learnt: then weights must grow by $\gamma^{1/L}$ each. At fixed $\gamma$,
kernels of these networks move as much at any width; those of "ntk" parameterization do not.
"""

import dataclasses

import numpy as np
from jaxtyping import Float
from rich.table import Table

from lazyjax import report
from lazyjax.architecture import Architecture
from lazyjax.dynamics import observers
from lazyjax.experiments.judgement import Check, Judgement
from lazyjax.experiments.lazy._digits import odd_against_even, unit_rate
from lazyjax.experiments.record import Conditions, Control, Experiment, Size
from lazyjax.laziness import SlopeFit, log_log_slope
from lazyjax.sweeps import Sweep, sweep

ALLOWANCE = 0.25
_PARAMETERIZATIONS = ("mup", "ntk")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RichnessSize(Size):
    r"""How much is computed.

    Attributes:
        widths: Increasing widths, of which the first is that of all learning rates.
        num_seeds: Networks of each.
        depths: Numbers $L - 1$ of hidden layers.
        log_gammas: Logarithms to base 2 of $\gamma$, increasing, from lazy to rich.
        num_lazy: How many of them, from the first, count as lazy.
        num_rich: How many, from the last, count as rich.
        num_rates: Learning rates, by factors of the root of 2.
        num_train: Training examples.
        num_steps: Steps of descent.
    """

    widths: tuple[int, ...] = (64, 128, 256, 512)
    num_seeds: int = 5
    depths: tuple[int, ...] = (1, 2)
    log_gammas: tuple[int, ...] = tuple(range(-4, 8))
    num_lazy: int = 4
    num_rich: int = 5
    num_rates: int = 30
    num_train: int = 32
    num_steps: int = 200


@dataclasses.dataclass(frozen=True, kw_only=True)
class Richness:
    """Best learning rates by depth, and drift by parameterization.

    Attributes:
        depths: Numbers of hidden layers.
        gammas: Strengths of feature learning.
        best_rate: Learning rate with the smallest loss at the end, times the largest
            eigenvalue of the kernel at infinite width.
        best_loss: That loss, over the one before training.
        lazy: Power of gamma in the best rate, where training is lazy, by depth.
        rich: The same where features are learnt.
        widths: Of the comparison of parameterizations.
        drift: Of the kernel at gamma 1, of "mup" and of "ntk".
        drift_slopes: Powers of the width in it.
    """

    depths: tuple[int, ...]
    gammas: tuple[float, ...]
    best_rate: Float[np.ndarray, "depths gammas seeds"]
    best_loss: Float[np.ndarray, "depths gammas seeds"]
    lazy: tuple[SlopeFit, ...]
    rich: tuple[SlopeFit, ...]
    widths: tuple[int, ...]
    drift: Float[np.ndarray, "parameterizations widths seeds"]
    drift_slopes: tuple[SlopeFit, ...]


def measure(size: RichnessSize, conditions: Conditions) -> Richness:
    """Best rates by one sweep for each depth, drift by one for each parameterization."""
    num_parts = len(size.depths) + len(_PARAMETERIZATIONS)
    data = odd_against_even(size.num_train, conditions.key)
    gammas = 2.0 ** np.array(size.log_gammas)

    def trained(part: int, widths, architecture, alphas, rates, observe=()) -> Sweep:
        return sweep(
            architecture,
            data.x_train,
            data.y_train,
            widths=widths,
            num_seeds=size.num_seeds,
            key=conditions.key,
            alphas=alphas,
            learning_rates=rates * unit_rate(architecture, data),
            num_steps=size.num_steps,
            center=True,
            observe=observe,
            progress=conditions.part(part / num_parts, (part + 1) / num_parts),
        )

    network = Architecture(activation="relu", w_std=2**0.5, parameterization="mup")
    # Of the sweep, whose loss is divided by gamma^-2.
    rates = 2.0 ** (np.arange(size.num_rates) / 2 - 11)
    best_rate, best_loss = [], []
    for number, depth in enumerate(size.depths):
        deep = dataclasses.replace(network, depth=depth)
        runs = trained(number, size.widths[:1], deep, 1 / gammas, rates)
        loss = runs.loss[0, ..., -1] / runs.loss[0, ..., 0]
        loss = np.where(np.isfinite(loss), loss, np.inf).swapaxes(0, 1)
        best_rate.append(rates[loss.argmin(-1)] * gammas[:, None] ** 2)
        best_loss.append(loss.min(-1))
    drift = []
    for number, name in enumerate(_PARAMETERIZATIONS):
        deep = dataclasses.replace(network, depth=2, parameterization=name)
        runs = trained(
            len(size.depths) + number,
            size.widths,
            deep,
            (1.0,),
            np.array([0.1]),
            [observers.ntk_drift],
        )
        drift.append(runs.observations["ntk_drift"][:, :, 0, 0, -1])
    fit = lambda x, y: log_log_slope(np.asarray(x, float), np.asarray(y, float))
    return Richness(
        depths=size.depths,
        gammas=tuple(gammas.tolist()),
        best_rate=np.stack(best_rate),
        best_loss=np.stack(best_loss),
        lazy=tuple(fit(gammas[: size.num_lazy], r[: size.num_lazy]) for r in best_rate),
        rich=tuple(
            fit(gammas[-size.num_rich :], r[-size.num_rich :]) for r in best_rate
        ),
        widths=size.widths,
        drift=np.stack(drift),
        drift_slopes=tuple(fit(size.widths, values) for values in drift),
    )


def verdict(found: Richness) -> Judgement:
    """All exponents, once the best of the networks are trained."""
    trained = Check(
        statement="largest share of the loss left at the best rate, over gamma,",
        measured=float(found.best_loss.mean(axis=-1).max()),
        sense="at most",
        threshold=0.2,
    )
    checks = []
    for depth, lazy, rich in zip(found.depths, found.lazy, found.rich, strict=True):
        layers = depth + 1
        for regime, fit, exponent in (("lazy", lazy, 2.0), ("rich", rich, 2 / layers)):
            name = f"exponent of the best rate, {regime}, {layers} layers"
            checks.append(Check.of_exponent(name, fit, exponent, ALLOWANCE))
    mup, ntk = found.drift_slopes
    checks += [
        Check.of_exponent(
            "exponent of the drift in the width, mup", mup, 0.0, ALLOWANCE
        ),
        Check(
            statement="exponent of the drift in the width, ntk",
            measured=float(ntk.slope),
            sense="at most",
            threshold=-0.5 + 0.15,
            uncertainty=2 * float(ntk.slope_sem),
        ),
    ]
    return Judgement.of(checks, premises=[trained])


def tables(found: Richness) -> list[Table]:
    """Best rates by gamma, and drift by width."""
    exponents = lambda fits: ", ".join(
        report.with_error(float(fit.slope), float(fit.slope_sem)) for fit in fits
    )
    by_depth = zip(found.depths, np.log2(found.best_rate), strict=True)
    return [
        report.means_table(
            "Logarithm (base 2) of the best learning rate",
            "gamma",
            found.gammas,
            {f"{depth + 1} layers": rate for depth, rate in by_depth},
            caption=f"Exponents if lazy: {exponents(found.lazy)}; claimed 2. If rich: "
            f"{exponents(found.rich)}; claimed 2 over the number of layers.",
        ),
        report.means_table(
            "Relative drift of the kernel at gamma = 1",
            "width",
            found.widths,
            dict(zip(_PARAMETERIZATIONS, found.drift, strict=True)),
            caption=f"Exponents: {exponents(found.drift_slopes)}.",
        ),
    ]


def figure(found: Richness):
    """Best rate against gamma; drift against width."""
    from lazyjax import plot

    figure = plot.figure(height=3.6)
    left, right = figure.subplots(1, 2)
    gammas = np.asarray(found.gammas)
    rates = {
        f"{depth + 1} layers": rate
        for depth, rate in zip(found.depths, found.best_rate, strict=True)
    }
    guides = {
        r"slope $2$": found.best_rate[0, 0].mean() * (gammas / gammas[0]) ** 2,
        **{
            rf"slope $2/L$, $L = {depth + 1}$": rate[-1].mean()
            * (gammas / gammas[-1]) ** (2 / (depth + 1))
            for depth, rate in zip(found.depths, found.best_rate, strict=True)
        },
    }
    plot.curves(left, gammas, rates, log="xy", guides=guides)
    low, high = found.best_rate.min(), found.best_rate.max()
    left.set_ylim(low / 3, 30 * high)
    plot.style_axes(
        left,
        xlabel=r"strength of feature learning $\gamma$",
        ylabel=r"best learning rate, in units of $1/\lambda_{\max}(H^\infty)$",
        title="From lazy to rich",
    )
    plot.scaling(
        right,
        np.asarray(found.widths, float),
        dict(zip(_PARAMETERIZATIONS, found.drift, strict=True)),
        dict(zip(_PARAMETERIZATIONS, found.drift_slopes, strict=True)),
        theory_slope=-0.5,
        theory_label=r"slope $-\frac{1}{2}$",
    )
    plot.style_axes(
        right,
        xlabel="width $m$",
        ylabel="relative drift of the kernel",
        title=r"Parameterizations at $\gamma = 1$",
    )
    return figure


EXPERIMENT = Experiment(
    name="richness",
    title="The best learning rate, from lazy training to rich",
    source="Atanasov, Meterez, Simon and Pehlevan (2024), arXiv:2410.04642",
    claim="The best learning rate grows like gamma^2 while training is lazy and like "
    "gamma^(2/L) where it is rich, for L layers; at fixed gamma, feature learning does "
    "not depend on the width (figures and equations not checked).",
    sizes={
        "quick": RichnessSize(),
        "brief": RichnessSize(widths=(32, 512), num_seeds=8, depths=(1,)),
        "full": RichnessSize(
            widths=(256, 512, 1024, 2048, 4096),
            num_seeds=8,
            depths=(1, 2, 3, 4),
            log_gammas=tuple(range(-6, 10)),
            num_lazy=6,
            num_rich=6,
            num_rates=60,
            num_train=512,
            num_steps=2000,
        ),
    },
    measure=measure,
    verdict=verdict,
    tables=tables,
    figure=figure,
    control=Control(
        what="gamma stays below 1, so that nothing is rich",
        change=lambda size: dataclasses.replace(
            size, log_gammas=tuple(k - 8 for k in size.log_gammas), num_rates=36
        ),
    ),
    extras=("data",),
)
