r"""Training with optax in one compiled program, observed at chosen steps."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PyTree

from lazyjax._checks import (
    check_at_least,
    check_choice,
    check_function,
)
from lazyjax.batches import num_rows
from lazyjax.callables.static import HashableCallable
from lazyjax.dynamics.losses import square_loss
from lazyjax.dynamics.problem import checked_problem, named_observers
from lazyjax.dynamics.snapshot import Observer
from lazyjax.dynamics.training.arguments import (
    as_limit,
    check_batches,
    check_checkpoint,
    check_eval_batches,
    checked_optimizer,
    checked_steps,
)
from lazyjax.dynamics.training.checkpoint import run_with_checkpoints
from lazyjax.dynamics.training.loop import (
    Sampling,
    Settings,
    TrainingProblem,
    run_segment,
)
from lazyjax.dynamics.training.segments import Callback, run_with_callback
from lazyjax.files.results import Storable
from lazyjax.files.tables import (
    OBSERVED,
    STEP,
    LabelledArrays,
    Tabular,
    observed,
    on_host,
    run_axes,
)
from lazyjax.progress import Progress, program_listener
from lazyjax.typing import AnyArray, ApplyFn, Inputs, LossFn, Params, RandomKey, Targets


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Run(Tabular, Storable):
    """What came of training; under `jax.vmap`, every array has the mapped axes first.

    Attributes:
        params: Parameters after the last step.
        loss: Loss at every step, from before the first update to after the last:
            `num_steps + 1` values; with minibatches, on that of each step.
        observed_at: Steps at which the observers looked.
        observations: What each observer saw, by name, stacked along those steps.
        stopped_at: First step at which a stop rule held; from there on parameters and
            loss stay as they are. -1 if there was none.
        diverged_at: First step at which the loss was not finite, or above `max_loss`;
            -1 if there was none.
    """

    params: Params
    loss: Float[Array, "*batch num_losses"]
    observed_at: Int[Array, "*batch num_observed"]
    observations: dict[str, PyTree[Any]]
    stopped_at: Int[Array, "*batch"]
    diverged_at: Int[Array, "*batch"]

    def _headline(self) -> dict[str, Any]:
        return {"last_loss": self.loss[..., -1]}

    def _labelled(self) -> LabelledArrays:
        runs = run_axes(self.loss.ndim - 1)
        sizes = dict(zip(runs, map(range, self.loss.shape), strict=False))
        steps = on_host(self.observed_at).reshape(-1, self.observed_at.shape[-1])[0]
        return LabelledArrays(
            labels={**sizes, STEP: range(self.loss.shape[-1]), OBSERVED: steps},
            arrays={
                "loss": ((*runs, STEP), on_host(self.loss)),
                **observed(self.observations, (*runs, OBSERVED)),
                "stopped_at": (runs, on_host(self.stopped_at)),
                "diverged_at": (runs, on_host(self.diverged_at)),
            },
        )

    @property
    def status(self) -> Int[Array, "*batch"]:
        """0 if the run took all steps, 1 if it reached its target, 2 if it diverged."""
        reached = jnp.where(self.stopped_at >= 0, 1, 0)
        return jnp.where(self.diverged_at >= 0, 2, reached).astype(jnp.int32)

    def raise_if_failed(self) -> None:
        """Raise if the run diverged; not under `jax.jit`.

        Raises:
            RuntimeError: If it did; the message is that of `explain`.
        """
        if np.any(np.asarray(self.diverged_at) >= 0):
            raise RuntimeError(self.explain())

    def explain(self) -> str:
        """How the run ended, and what can be done about it if it diverged.

        Returns:
            A sentence or two, with counts if there are several runs.
        """
        num_steps = self.loss.shape[-1] - 1
        diverged, stopped = np.ravel(self.diverged_at), np.ravel(self.stopped_at)
        if diverged.size > 1:
            reached = np.sum((stopped >= 0) & (diverged < 0))
            have = diverged >= 0
            first = f" (the first at step {diverged[have].min()})" if have.any() else ""
            return (
                f"Of {diverged.size} runs of at most {num_steps} steps, {np.sum(have)} "
                f"diverged{first} and {reached} reached the target."
            )
        if diverged[0] >= 0:
            return (
                f"The loss diverged at step {diverged[0]} of {num_steps}. "
                f"{self._stable_rate()}"
            )
        loss = float(np.ravel(self.loss)[-1])
        if stopped[0] >= 0:
            return f"The loss reached its target at step {stopped[0]}: {loss:.3g}."
        first = float(np.ravel(self.loss)[0])
        grew = f", more than the first, {first:.3g}" if loss > first else ""
        return f"The run took all {num_steps} steps; the last loss is {loss:.3g}{grew}."

    def _stable_rate(self) -> str:
        eigenvalues = self.observations.get("ntk_eig_max")
        if eigenvalues is None or int(self.observed_at[0]) > 0:
            return (
                "Gradient descent needs a learning rate below that of "
                "`dynamics.largest_stable_rate`."
            )
        rate = 2 / float(np.ravel(eigenvalues)[0])
        return (
            "Gradient descent on the square loss is stable at the start up to a learning "
            f"rate of {rate:.3g} (2 over `ntk_eig_max`)."
        )


def train(
    apply_fn: ApplyFn,
    params: Params,
    x: Inputs,
    y: Targets,
    *,
    optimizer: optax.GradientTransformation,
    num_steps: int,
    loss_fn: LossFn = square_loss,
    batch_size: int | None = None,
    key: RandomKey | None = None,
    sampling: Sampling = "shuffle",
    target_loss: float | Float[AnyArray, ""] | None = None,
    max_loss: float | Float[AnyArray, ""] | None = None,
    observe: Sequence[Observer] | Mapping[str, Observer] = (),
    observe_at: Sequence[int] | Int[AnyArray, "num_observed"] | None = None,
    eval_batch_size: int | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int | None = None,
    progress: bool | Progress = False,
    callback: Callback | None = None,
) -> Run:
    r"""Training of `apply_fn` from `params`, in one compiled program.

    With `optax.sgd` it is gradient descent $w \leftarrow w - \eta \nabla L(w)$ on
    $L = \tfrac12 \lVert f - y \rVert^2$, summed over examples and outputs. A loss
    $c L$ has the same run at `learning_rate / c`. The step is stable for the linear
    model while $\eta < 2 / \lambda_{\max}(H)$. Trained on `linearize(apply_fn, params)`,
    it is the linear model's own run, for any optimizer and loss.

    Observers see the network between updates and change nothing; several of them share
    one evaluation of the outputs and the kernel. `params` is not overwritten. Seeds
    train together under `jax.vmap` over `params`.

    Args:
        apply_fn: Network `(params, x) -> f`. A second call with the same functions and
            shapes reuses the compiled program, so all functions passed must be pure;
            one that is not hashable is compiled on every call.
        params: Parameters at step 0.
        x: Training inputs: an array, or a tree of arrays with the same first axis.
        y: Training targets, in the dtype of the network's outputs.
        optimizer: From optax; loss, gradient and loss function are passed on to those
            that use them.
        num_steps: Number of updates.
        loss_fn: Loss `(f, y) -> scalar`.
        batch_size: Number of examples of a minibatch; `None` means all, in order. The
            loss is that of the minibatch alone: one that is a sum over examples, as all
            of ours, has gradients smaller by `batch_size / n` on average.
        key: Source of the minibatches; must be given with `batch_size`.
        sampling: "shuffle" draws a new order of the examples for each epoch of
            `n // batch_size` steps and takes them in turn (what is left over is left
            out of that epoch); "subset" draws the examples of each minibatch without
            replacement, whatever the others hold; "replacement" draws every example
            independently. Of the latter two, `linearized_sgd` knows the noise.
        target_loss: The run stops before the first update whose loss is at most this.
        max_loss: A larger loss counts as divergence; `None` means no finite one does.
        observe: Observers, known by their `__name__`, or a mapping from names; see
            `lazyjax.dynamics.observers`.
        observe_at: Increasing steps, from 0 to `num_steps`, at which the observers
            look; `None` means the first and the last.
        eval_batch_size: Number of examples that observers evaluate outputs of, and rows
            and columns of a kernel that they form, at a time; `None` means all. Rows of
            `apply_fn` must not interact then.
        checkpoint: Folder to keep the run in. A call with the same arguments goes on
            from what is there, with the same result to the bit; another run is refused.
            Functions are compared by what they compute, as JAX traces it.
        checkpoint_every: Number of steps between checkpoints; must divide `num_steps`.
        progress: Whether to show a bar on standard error, if that is a terminal; or a
            function of the share done and a message. The call then waits for the end.
        callback: Function `(step, metrics)`, called at the steps of `observe_at` while
            the run goes on (with `checkpoint`, once their segment is kept). `metrics`
            has the loss and all that observers saw as one number, by name, as Python
            floats: `wandb.log(metrics, step=step)`. What it raises ends the run.

    Returns:
        The trained parameters, all losses and all observations. Divergence is a result
        (`diverged_at`), not an error: the run stops there.

    Raises:
        TypeError: If an argument is not of its kind, or not floating point.
        ValueError: If `x` or `y` is empty, of the wrong shape or not finite, the output
            is not `(n, k)`, a number is out of range, arguments that belong together
            are not given together, or `checkpoint` holds another run or a damaged file,
            or cannot be written to.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from lazyjax.dynamics import observers
        >>> run = train(
        ...     lambda w, x: x @ w,
        ...     jnp.zeros((2, 1)),
        ...     jnp.array([[1.0, 0.0], [0.0, 2.0]]),
        ...     jnp.array([[1.0], [4.0]]),
        ...     optimizer=optax.sgd(0.25),
        ...     num_steps=20,
        ...     observe=[observers.ntk_eig_min, observers.parameter_distance],
        ... )
        >>> [round(loss, 6) for loss in run.loss[:3].tolist()]
        [8.5, 0.28125, 0.158203]
        >>> run.observations["ntk_eig_min"].tolist(), run.diverged_at.item()
        ([1.0, 1.0], -1)
    """
    optimizer = checked_optimizer(optimizer)
    check_at_least("num_steps", num_steps, 0)
    check_choice("sampling", sampling, ("shuffle", "replacement", "subset"))
    observers = named_observers(observe)
    steps = checked_steps(observe_at, num_steps)
    params, x, y, loss_dtype = checked_problem(apply_fn, params, x, y, loss_fn)
    check_batches(batch_size, key, num_rows(x))
    check_eval_batches(eval_batch_size, apply_fn, params, x)
    num_steps = int(num_steps)
    settings = Settings(
        apply_fn=HashableCallable(apply_fn),
        optimizer=optimizer,
        loss_fn=HashableCallable(loss_fn),
        observers=observers,
        num_steps=num_steps,
        batch_size=batch_size,
        sampling=sampling,
        eval_batch_size=eval_batch_size,
        stops_early=target_loss is not None or max_loss is not None,
    )
    problem = TrainingProblem(
        params=params,
        x=x,
        y=y,
        key=key,
        target_loss=as_limit("target_loss", target_loss, -jnp.inf, loss_dtype),
        max_loss=as_limit("max_loss", max_loss, jnp.inf, loss_dtype),
    )
    if checkpoint is not None or checkpoint_every is not None:
        check_checkpoint(checkpoint, checkpoint_every, num_steps)
    if callback is not None:
        check_function("callback", callback, "(step, metrics) -> None")
    with program_listener(progress, "train", num_steps) as listener:
        # A run of no step has no segment to keep.
        if checkpoint is not None and num_steps > 0:
            assert checkpoint_every is not None
            segment = run_with_checkpoints(
                problem,
                steps,
                settings,
                path=checkpoint,
                every=checkpoint_every,
                listener=listener,
                callback=callback,
            )
        elif callback is not None:
            segment = run_with_callback(
                problem, steps, settings, callback, listener=listener
            )
        else:
            segment = run_segment(
                problem,
                None,
                jnp.zeros((), jnp.int32),
                jnp.asarray(steps, jnp.int32),
                settings=settings,
                sees_start=int(steps[0]) == 0,
                sees_end=int(steps[-1]) == num_steps,
                listener=listener,
            )
    return Run(
        params=segment.state.params,
        loss=segment.loss,
        observed_at=jnp.asarray(steps, jnp.int32),
        observations=segment.observations,
        stopped_at=segment.state.stopped_at,
        diverged_at=segment.state.diverged_at,
    )
