"""Batches that an iterator yields, checked."""

from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from lazyjax._brief import brief
from lazyjax._checks import check_inputs
from lazyjax.batches import as_arrays
from lazyjax.dynamics.problem import checked_problem, checked_targets
from lazyjax.dynamics.training.fingerprint import tree_digest
from lazyjax.typing import ApplyFn, Inputs, LossFn, Params


class BatchReader:
    """Batches as checked arrays.

    Attributes:
        params: Parameters at step 0, as arrays that keep their type in loops.
        loss_dtype: Of the loss.
        digest: Of all batches so far, if that of the first was set.
    """

    def __init__(
        self, apply_fn: ApplyFn, params: Params, loss_fn: LossFn, batches: object
    ) -> None:
        if not isinstance(batches, Iterable):
            raise TypeError(
                "`batches` must be an iterable of pairs (x, y), such as a generator; got "
                f"{brief(batches)}."
            )
        self.params, self._apply_fn, self._loss_fn = params, apply_fn, loss_fn
        self.loss_dtype: Any = None
        self.digest: str | None = None
        self._iterator = iter(batches)
        self._known: dict[Any, jax.ShapeDtypeStruct] = {}

    def first(self) -> tuple[Inputs, Array]:
        """The first batch."""
        batch = self.next(0)
        return as_arrays(batch["x"]), jnp.asarray(batch["y"])

    def next(self, step: int) -> dict[str, Any]:
        """The batch of `step`, which is the next; `x` and `y`."""
        try:
            x, y = self._pair(step)
            leaves, structure = jax.tree.flatten((x, y))
            like = structure, *((np.shape(leaf), leaf.dtype) for leaf in leaves)
            if like not in self._known:
                self.params, x, y, self.loss_dtype = checked_problem(
                    self._apply_fn, self.params, x, y, self._loss_fn
                )
                f = jax.eval_shape(self._apply_fn, self.params, x)
                self._known[like] = f
            else:
                f = self._known[like]
                check_inputs("x", x)
                y = checked_targets(y, f.shape, f.dtype, self._loss_fn)
        except (TypeError, ValueError) as error:
            error.add_note(f"It was raised by the batch of step {step}.")
            raise
        if self.digest is not None:
            self.digest = tree_digest((self.digest, x, y))
        return {"x": x, "y": y}

    def _pair(self, step: int) -> Sequence[Any]:
        try:
            batch = next(self._iterator)
        except StopIteration:
            raise ValueError(
                f"`batches` must yield one pair for each of `num_steps`; it ended after "
                f"{step}. `itertools.cycle` repeats a list."
            ) from None
        is_pair = isinstance(batch, tuple | list) and len(batch) == 2
        if not is_pair or not all(
            hasattr(leaf, "dtype") for leaf in jax.tree.leaves(batch)
        ):
            raise TypeError(
                f"`batches` must yield pairs (x, y) of arrays; got {brief(batch)}."
            )
        return batch
