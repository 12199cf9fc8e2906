"""How a run went, beside what the kernel at its start said of it."""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from lazyjax._brief import brief
from lazyjax._checks import check_instance, check_number, known_numbers
from lazyjax.dynamics import Linearized, Run
from lazyjax.files.results import Storable


@dataclasses.dataclass(frozen=True, kw_only=True)
class Calibration(Storable):
    """Losses of a run and of its forecast, and when each had fallen how far.

    Attributes:
        forecast: Loss at every step, as it was forecast.
        measured: Loss at every step, as it was.
        shares: Decreasing shares of the loss at the start.
        forecast_steps: First step at which no more than that share was left, as it was
            forecast; NaN if there is none.
        measured_steps: The same, as it was.
    """

    forecast: Float[np.ndarray, " steps"]
    measured: Float[np.ndarray, " steps"]
    shares: tuple[float, ...]
    forecast_steps: Float[np.ndarray, " shares"]
    measured_steps: Float[np.ndarray, " shares"]

    @property
    def ratio(self) -> Float[np.ndarray, " shares"]:
        """Steps forecast over steps taken: below 1 where the forecast was too early."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.forecast_steps / self.measured_steps

    @property
    def worst(self) -> float:
        """Largest difference of the roots of the losses, as a share of the first.

        These are distances of outputs from targets, for the square loss.
        """
        apart = np.abs(np.sqrt(self.forecast) - np.sqrt(self.measured))
        return float(np.max(apart) / np.sqrt(self.measured[0]))

    def rows(self) -> list[list[str]]:
        """Cells of a table: share of the loss, steps forecast, steps taken, their ratio."""
        show = lambda step: "none" if np.isnan(step) else f"{step:.0f}"
        return [
            [
                f"{share:g}",
                show(expected),
                show(taken),
                "" if np.isnan(ratio) else f"{ratio:.2f}",
            ]
            for share, expected, taken, ratio in zip(
                self.shares,
                self.forecast_steps,
                self.measured_steps,
                self.ratio,
                strict=True,
            )
        ]


def calibration(
    run: Run,
    linear: Linearized,
    *,
    learning_rate: float,
    momentum: float = 0.0,
    shares: Sequence[float] = (0.5, 0.1, 0.01, 0.001),
) -> Calibration:
    r"""A run of gradient descent beside the forecast of its kernel.

    Args:
        run: From `lazyjax.train`, on $\tfrac12 \lVert f - y\rVert^2$ of all examples.
        linear: From `lazyjax.linear_dynamics` of the kernel and outputs at the start.
        learning_rate: Of the run.
        momentum: Of the run.
        shares: Shares of the loss at the start, between 0 and 1.

    Returns:
        Both losses, and the steps at which they had fallen to these shares.

    Raises:
        ValueError: If `run` holds several runs, starts from another loss than `linear`,
            or a share is out of range.
        TypeError: If `run` or `linear` is something else.

    Example:
        >>> import jax.numpy as jnp, lazyjax, optax
        >>> x, y = jnp.eye(2), jnp.ones((2, 1))
        >>> model = lambda w, x: x @ w
        >>> run = lazyjax.train(
        ...     model, jnp.zeros((2, 1)), x, y, optimizer=optax.sgd(0.5), num_steps=9
        ... )
        >>> linear = lazyjax.linear_dynamics(x @ x.T, y, jnp.zeros((2, 1)))
        >>> found = calibration(run, linear, learning_rate=0.5)
        >>> found.rows()[:2], found.worst < 1e-6
        ([['0.5', '1', '1', '1.00'], ['0.1', '2', '2', '1.00']], True)
    """
    check_instance("run", run, Run, "lazyjax.train")
    check_instance("linear", linear, Linearized, "lazyjax.linear_dynamics")
    check_number("learning_rate", learning_rate)
    check_number("momentum", momentum)
    measured = np.asarray(run.loss, np.float64)
    if measured.ndim != 1:
        raise ValueError(f"`run` must be one run; got losses of {measured.shape}.")
    wanted = known_numbers("shares", shares)
    if wanted.ndim != 1 or not wanted.size or not np.all((wanted > 0) & (wanted < 1)):
        raise ValueError(
            f"`shares` must be numbers between 0 and 1; got {brief(shares)}."
        )
    steps = jnp.arange(len(measured))
    expected = np.asarray(
        linear.heavy_ball_loss(steps, learning_rate, momentum), np.float64
    )
    if not np.isclose(expected[0], measured[0], rtol=1e-3):
        raise ValueError(
            "`linear` must start where `run` does, of the loss summed over examples; "
            f"got losses {expected[0]:.6g} and {measured[0]:.6g}."
        )
    chosen = tuple(sorted(wanted.tolist(), reverse=True))
    return Calibration(
        forecast=expected,
        measured=measured,
        shares=chosen,
        forecast_steps=_first_steps(expected, chosen),
        measured_steps=_first_steps(measured, chosen),
    )


def _first_steps(
    loss: Float[np.ndarray, " steps"], shares: Sequence[float]
) -> Float[np.ndarray, " shares"]:
    reached = loss <= np.asarray(shares)[:, None] * loss[0]
    return np.where(reached.any(axis=1), reached.argmax(axis=1), np.nan)
