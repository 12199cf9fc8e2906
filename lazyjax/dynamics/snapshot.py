"""The network at one step of training, as observers see it.

Quantities that several observers need (outputs, kernel) belong to the snapshot, which
evaluates each of them once.
"""

import copy
import dataclasses
import functools
from collections.abc import Callable
from typing import Any, TypeAlias

from jaxtyping import Array, Float, PyTree, Shaped

from lazyjax.batches import as_arrays
from lazyjax.dynamics.blocks import in_batches, ntk_in_blocks
from lazyjax.dynamics.losses import square_loss
from lazyjax.linalg import eigvalsh, gram_matrix
from lazyjax.typing import AnyArray, ApplyFn, Inputs, LossFn, Params


@dataclasses.dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A network at one step of training; quantities are evaluated when first asked for.

    Attributes:
        apply_fn: Network.
        params: Its parameters at this step.
        x: Training inputs.
        y: Training targets.
        step: Number of updates so far; under gradient flow, the time.
        start: Snapshot at step 0; `None` where this is it. Read it as `initial`.
        loss_fn: Loss that is trained on.
        batch_size: Examples whose outputs and kernel are evaluated at a time; `None` for
            all of them.

    Example:
        >>> import jax.numpy as jnp
        >>> from lazyjax.dynamics.observers import ntk_drift, ntk_eig_min, residual_norm
        >>> linear = lambda w, x: x @ w
        >>> x, y = jnp.array([[3.0, 4.0]]), jnp.ones((1, 1))
        >>> before = Snapshot(apply_fn=linear, params=jnp.zeros((2, 1)), x=x, y=y)
        >>> after = Snapshot(
        ...     apply_fn=linear, params=jnp.ones((2, 1)), x=x, y=y, step=1, start=before
        ... )
        >>> residual_norm(after).item(), ntk_eig_min(after).item()
        (6.0, 25.0)
        >>> ntk_drift(after).item()
        0.0
    """

    apply_fn: ApplyFn
    params: Params
    x: Inputs
    y: Float[AnyArray, "n k"]
    step: int | float | Shaped[Array, ""] = 0
    start: "Snapshot | None" = None
    loss_fn: LossFn = square_loss
    batch_size: int | None = None

    @property
    def initial(self) -> "Snapshot":
        """The snapshot at step 0."""
        return self if self.start is None else self.start

    @functools.cached_property
    def outputs(self) -> Float[Array, "n k"]:
        """Outputs on the training inputs."""
        outputs_fn = functools.partial(self.apply_fn, self.params)
        return in_batches(outputs_fn, as_arrays(self.x), self.batch_size)

    @functools.cached_property
    def ntk(self) -> Float[Array, "n n k k"]:
        """Kernel on the training inputs, unnormalized; NaN if rows interact."""
        x = as_arrays(self.x)
        return ntk_in_blocks(self.apply_fn, self.params, x, self.batch_size)

    @functools.cached_property
    def gram(self) -> Float[Array, "nk nk"]:
        """The kernel as a matrix H, acting on `outputs` flattened example by example."""
        return gram_matrix(self.ntk)

    @functools.cached_property
    def gram_eigenvalues(self) -> Float[Array, "nk"]:
        """Eigenvalues of `gram`, ascending."""
        return eigvalsh(self.gram)

    def following(
        self, params: Params, step: int | float | Shaped[Array, ""]
    ) -> "Snapshot":
        """Snapshot of the same training run at a later step.

        What it evaluates at step 0 that is not known there yet, it keeps to itself: a
        value that belongs to one traced program never reaches another one.

        Args:
            params: Parameters at that step.
            step: Number of updates so far, or time.

        Returns:
            The snapshot, whose `initial` is that of this one.
        """
        start = copy.copy(self.initial)
        return dataclasses.replace(self, params=params, step=step, start=start)


Observer: TypeAlias = Callable[[Snapshot], PyTree[Any]]
