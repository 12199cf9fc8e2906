r"""Two-layer ReLU networks on real digits: how lazy, and how far Du et al.'s proof holds.

The network and loss of Du et al. (2019) with full-batch gradient descent, over widths
and seeds, on 8 by 8 handwritten digits, odd against even. One learning rate
$1 / \lambda_{\max}(H^\infty)$ serves all widths, so that their curves share one time
axis. Each run is compared to its own linear model, that is to gradient descent with
the kernel $H(0)$ frozen, in closed form.
"""

import dataclasses
import functools
import math
import types
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lazyjax._checks import check_at_least
from lazyjax.certify import measured
from lazyjax.certify.widths import du2019
from lazyjax.data import Dataset, minimum_angle
from lazyjax.dynamics import linear_dynamics, observers
from lazyjax.experiments.convergence._du2019_result import (
    ALLOWANCE,
    Du2019Result,
    power_of_width,
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
from lazyjax.laziness import relative_distance
from lazyjax.sweeps import sweep
from lazyjax.typing import AnyArray

# Eigenvalues are found afterwards, run by run: batched LAPACK calls of JAX 0.10, as
# vmapped observers make them, can wait for one another forever on few cores.
_OBSERVERS = (
    observers.outputs,
    observers.ntk,
    observers.parameter_distance,
    observers.activation_stability(
        lambda params, x: x @ params["layer_1"]["kernel"]  # first layers have no bias
    ),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Du2019Size(Size):
    """How much is computed.

    Attributes:
        widths: Increasing widths, at least two.
        num_seeds: Networks per width, at least two.
        num_train: Training examples.
        num_steps: Steps of gradient descent.
        num_observed: Steps at which kernels are evaluated, ends included; spaced
            geometrically.
        is_contradicted: Whether one input comes twice, with opposite labels.
    """

    widths: tuple[int, ...]
    num_seeds: int = 4
    num_train: int = 100
    num_steps: int = 600
    num_observed: int = 6
    is_contradicted: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least("len(widths)", len(self.widths), 2)
        for name in ("num_seeds", "num_train", "num_observed"):
            check_at_least(name, getattr(self, name), 2)


SIZES: Mapping[str, Du2019Size] = types.MappingProxyType(
    {
        "quick": Du2019Size(widths=(64, 256, 1024, 4096)),
        "brief": Du2019Size(widths=(32, 128, 512), num_steps=200, num_observed=5),
        "full": Du2019Size(
            widths=(64, 256, 1024, 4096, 16384), num_seeds=20, num_steps=2000
        ),
    }
)


def measure(size: Du2019Size, conditions: Conditions) -> Du2019Result:
    """Losses, kernels and linear models of networks of each width and seed."""
    conditions.progress(0.0, "reading digits")
    key = conditions.key
    data = conditions.digits(size.num_train, num_test=0, classes="parity")
    if size.is_contradicted:
        x, y = contradicted(data.x_train, data.y_train)
        data = dataclasses.replace(data, x_train=x, y_train=y)
    x, y = data.x_train, data.y_train
    ntk_infinite = infinite_ntk(du2019.ARCHITECTURE, x)
    learning_rate = 1 / jnp.linalg.eigvalsh(ntk_infinite)[-1]
    observed_at = _observed_steps(size)
    runs = sweep(
        du2019.ARCHITECTURE,
        x,
        y,
        widths=size.widths,
        num_seeds=size.num_seeds,
        key=key,
        learning_rates=[float(learning_rate)],
        num_steps=size.num_steps,
        observe=_OBSERVERS,
        observe_at=observed_at,
        progress=conditions.progress,
    ).sel(alpha=1.0, learning_rate=float(learning_rate))
    conditions.progress(1.0, "comparing")
    return _analysis(
        data,
        ntk_infinite,
        learning_rate,
        runs.loss,
        runs.observations,
        widths=size.widths,
        observed_at=observed_at,
    )


def verdict(result: Du2019Result) -> Judgement:
    """The bound on the loss in all seeds of the widest; the kernel at random starts."""
    start = next(s for s in result.slopes if s.quantity == "start_distance")
    holds = np.asarray(result.measurement.loss_descent.holds)
    enough = [w for w, held in zip(result.widths, holds, strict=True) if held.all()]
    reality = (
        f"{enough[0]} is enough for all seeds" if enough else "none tried is enough"
    )
    return Judgement.of(
        [
            Check(
                statement=f"P[loss ≤ (1 - ηλ₀/2)ᵏ L(0)] at width {result.widths[-1]}",
                measured=float(holds[-1].mean()),
                sense="at least",
                threshold=1 - result.required.failure,
            ),
            Check(
                statement="exponent of |H(0) - H∞| in the width, off from -1/2",
                measured=abs(float(start.fit.slope) - start.predicted.exponent),
                sense="at most",
                threshold=ALLOWANCE,
            ),
        ],
        f"On {result.data.description}: theory asks for widths of n⁶/(λ₀⁴δ³) = {float(result.required.literal):.0e}; "
        f"of those tried, {reality}.",
    )


EXPERIMENT = Experiment(
    name="du2019",
    title="Two-layer ReLU networks on real digits, step by step",
    source="Du, Zhai, Poczos and Singh (2019), arXiv:1810.02054",
    claim="If no two inputs are parallel and the width is Ω(n⁶/(λ₀⁴δ³)), gradient descent "
    "on a two-layer ReLU network keeps ½|f-y|² below (1 - ηλ₀/2)ᵏ times its start, with "
    "probability 1-δ (Theorem 4.1), as the kernel is near its limit and stays there.",
    sizes=SIZES,
    measure=measure,
    verdict=verdict,
    tables=Du2019Result.tables,
    figure=Du2019Result.figure,
    control=CONTRADICTION,
    extras=("data",),
    numbers=Du2019Result.numbers,
)


def _observed_steps(size: Du2019Size) -> tuple[int, ...]:
    spaced = np.geomspace(size.num_steps, 1, size.num_observed - 1)
    return (0, *np.unique(spaced.round().astype(int)).tolist())


@functools.partial(jax.jit, static_argnames=("widths", "observed_at"))
def _analysis(
    data: Dataset,
    ntk_infinite: Float[Array, "n n"],
    learning_rate: Float[Array, ""],
    loss: Float[AnyArray, "widths seeds num_losses"],
    seen: dict[str, AnyArray],
    *,
    widths: tuple[int, ...],
    observed_at: tuple[int, ...],
) -> Du2019Result:
    """Everything that follows from the runs, whose axes are widths and seeds."""
    num_steps = loss.shape[-1] - 1

    def of_run(
        run: tuple[Float[Array, "num_observed n n"], Float[Array, "num_observed n 1"]],
    ) -> dict[str, Array]:
        kernels, outputs = run
        model = linear_dynamics(kernels[0], data.y_train, outputs[0])
        predicted = model.gradient_descent(jnp.asarray(observed_at), learning_rate)
        gaps = jnp.linalg.norm(outputs - predicted, axis=(-2, -1))
        changes = kernels - kernels[:1]
        return {
            "loss_linear": model.gradient_descent_loss(
                jnp.arange(num_steps + 1), learning_rate
            ),
            "gap": jnp.max(gaps) / math.sqrt(data.x_train.shape[0]),
            "eig_min": jax.lax.map(lambda h: jnp.linalg.eigvalsh(h)[0], kernels),
            "drift_norm": jax.lax.map(
                lambda h: jnp.max(jnp.abs(jnp.linalg.eigvalsh(h))), changes
            ),
            "drift": relative_distance(kernels[-1], kernels[0]),
        }

    ntk = seen["ntk"][..., 0, 0]
    shape = ntk.shape[:2]
    flat = jax.tree.map(
        lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), (ntk, seen["outputs"])
    )
    found = jax.tree.map(
        lambda leaf: leaf.reshape(*shape, *leaf.shape[1:]), jax.lax.map(of_run, flat)
    )
    ntk_start = ntk[:, :, 0]
    scaling = {
        "start_distance": relative_distance(ntk_start, ntk_infinite),
        "drift": found["drift"],
        "gap": found["gap"],
        "parameter_distance": seen["parameter_distance"][..., -1],
    }
    return Du2019Result(
        data=data,
        learning_rate=learning_rate,
        minimum_angle=minimum_angle(data.x_train),
        eig_min=found["eig_min"][..., 0],
        **scaling,
        flips=1 - jnp.asarray(seen["activation_stability"])[..., -1],
        loss=jnp.asarray(loss),
        loss_linear=found["loss_linear"],
        rate=_late_rate(jnp.asarray(loss), learning_rate),
        rate_linear=_late_rate(found["loss_linear"], learning_rate),
        slopes=tuple(
            power_of_width(name, jnp.asarray(widths, values.dtype), values)
            for name, values in scaling.items()
        ),
        measurement=measured.du2019.measure(
            ntk_infinite,
            ntk_start=ntk_start,
            drift_norm=found["drift_norm"],
            eig_min=found["eig_min"],
            loss=jnp.asarray(loss),
            learning_rate=learning_rate,
        ),
        required=du2019.required_widths(data.x_train),
        widths=widths,
        observed_at=observed_at,
    )


def _late_rate(
    loss: Float[Array, "*batch num_losses"], learning_rate: Float[Array, ""]
) -> Float[Array, "*batch"]:
    """Rate at which the logarithm of the loss falls over the second half of the time."""
    middle, last = loss.shape[-1] // 2, loss.shape[-1] - 1
    fall = jnp.log(loss[..., middle]) - jnp.log(loss[..., last])
    return fall / (learning_rate * (last - middle))
