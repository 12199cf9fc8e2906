"""A run that can be gone on from wherever it has been."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float

from lazyjax.callables.static import HashableCallable
from lazyjax.dynamics.losses import square_loss
from lazyjax.dynamics.problem import checked_problem
from lazyjax.dynamics.training.arguments import as_limit, checked_optimizer
from lazyjax.dynamics.training.loop import Settings, State, TrainingProblem
from lazyjax.dynamics.training.segments import segment_from
from lazyjax.typing import AnyArray, ApplyFn, Inputs, LossFn, Params


class Waypoint(NamedTuple):
    """A run at one step.

    Attributes:
        step: Number of updates so far.
        state: All that the rest of the run depends on.
        loss: Loss at this step.
    """

    step: int
    state: State
    loss: float

    @property
    def params(self) -> Params:
        """Parameters at this step."""
        return self.state.params

    @property
    def diverged_at(self) -> int:
        """First step at which the loss was not finite, or -1; as in a `Run`."""
        return int(self.state.diverged_at)


class Trajectory:
    """A run of `train` on all examples, of which whoever walks it keeps what they need."""

    def __init__(
        self,
        apply_fn: ApplyFn,
        params: Params,
        x: Inputs,
        y: Float[AnyArray, "n k"],
        *,
        optimizer: optax.GradientTransformation,
        num_steps: int,
        loss_fn: LossFn = square_loss,
    ) -> None:
        optimizer = checked_optimizer(optimizer)
        params, x, y, loss_dtype = checked_problem(apply_fn, params, x, y, loss_fn)
        self._problem = TrainingProblem(
            params=params,
            x=x,
            y=y,
            key=None,
            target_loss=as_limit("target_loss", None, -jnp.inf, loss_dtype),
            max_loss=as_limit("max_loss", None, jnp.inf, loss_dtype),
        )
        self._settings = Settings(
            apply_fn=HashableCallable(apply_fn),
            optimizer=optimizer,
            loss_fn=HashableCallable(loss_fn),
            observers=(),
            # No segment is the longest one: all are of one program, so that a step is
            # the same to the bit, whichever way it is reached.
            num_steps=num_steps + 1,
            batch_size=None,
            sampling="shuffle",
            eval_batch_size=None,
            stops_early=False,
        )

    def at(self, step: int, after: Waypoint | None = None) -> Waypoint:
        """The run at a step.

        Args:
            step: The step.
            after: Where the run has been at that step or before; `None` is its start.

        Returns:
            The run at that step; as it was where it diverged, if it has.
        """
        start, state = (0, None) if after is None else (after.step, after.state)
        nowhere = np.zeros(0, np.int32)
        segment = segment_from(
            self._problem, state, start, step, nowhere, self._settings
        )
        loss = float(segment.loss[step - start])
        return Waypoint(step=step, state=segment.state, loss=loss)
