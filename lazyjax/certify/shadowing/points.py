"""Residuals, gradients and kernels at a point, with bounds of their errors."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.extend.core as jex
import numpy as np
from jaxtyping import Float

from lazyjax.certify.arithmetic.rounding import UNIT_ROUNDOFF, gamma
from lazyjax.certify.bounds.branches import (
    Residual,
    kernel_of,
    residual_from,
    residual_of,
)
from lazyjax.certify.bounds.evaluation import (
    Evaluation,
    Kernel,
    evaluate,
    layer_norms,
)
from lazyjax.certify.bounds.layers import SYMMETRIZED_SCALE, Layers
from lazyjax.certify.bounds.program.enclosing.enclosure import (
    UP,
    Enclosure,
    exact,
    norm_of,
)
from lazyjax.certify.bounds.program.enclosing.interpreter import enclosures
from lazyjax.certify.bounds.program.jacobian import jacobian_of
from lazyjax.certify.bounds.program.start import ProgramStart
from lazyjax.certify.bounds.start import Start


@dataclasses.dataclass(frozen=True)
class Gradient:
    r"""The gradient of $\tfrac12\lVert f - y\rVert^2$ at one point.

    Attributes:
        leaves: Computed, by trained leaf.
        error: Upper bound of the Euclidean norm of its error.
        residual: Upper bound of $\lVert f - y\rVert$.
    """

    leaves: list[np.ndarray]
    error: float
    residual: float


@dataclasses.dataclass(frozen=True)
class Linearization:
    r"""What the linearized flow at a point is made of.

    Attributes:
        residual: $f - y$.
        kernel: $J J^\top$.
        pull: Of weights $q$, the leaves of $J^\top q$ and the norm of their error.
    """

    residual: Residual
    kernel: Kernel
    pull: Callable[[np.ndarray], tuple[list[np.ndarray], float]]


@dataclasses.dataclass(frozen=True)
class ProgramPoints:
    """Points of a function, by its program, equation by equation.

    Attributes:
        start: What the program was traced at.
    """

    start: ProgramStart

    @functools.cached_property
    def _closed(self) -> dict[bool, jex.ClosedJaxpr]:
        """Leaves, inputs, targets and weights to residual and products of the Jacobian.

        By whether the residual is in place of the weights.
        """
        program, start = self.start.program, self.start

        def both(
            is_gradient: bool, leaves: list[jax.Array], x: Any, y: Any, weights: Any
        ) -> tuple[jax.Array, list[jax.Array]]:
            def residual(chosen: list[jax.Array]) -> jax.Array:
                replaced = list(leaves)
                for number, leaf in zip(program.trained, chosen, strict=True):
                    replaced[number] = leaf
                return jax.vmap(lambda row: program.fn(*replaced, row))(x) - y

            chosen = [leaves[number] for number in program.trained]
            r, pull = jax.vjp(residual, chosen)
            return r, pull(r if is_gradient else weights)[0]

        leaves, y = jax.tree.leaves(start.params), start.targets
        with jax.enable_x64(True):
            return {
                case: jax.make_jaxpr(functools.partial(both, case))(
                    leaves, start.x, y, y
                )
                for case in (True, False)
            }

    def _enclosed(
        self, leaves: Sequence[np.ndarray], weights: np.ndarray | None = None
    ) -> list[Enclosure]:
        y = self.start.targets
        given = (*leaves, self.start.x, y, y if weights is None else weights)
        return enclosures(self._closed[weights is None], list(map(exact, given)))

    @property
    def trained(self) -> tuple[int, ...]:
        """Which leaves are trained."""
        return self.start.program.trained

    def gradient(self, leaves: Sequence[np.ndarray]) -> Gradient:
        """The gradient at a point.

        Args:
            leaves: All leaves of the parameters there.

        Returns:
            The gradient; bounds are infinite or NaN where nothing is known.
        """
        residual, *parts = self._enclosed(leaves)
        with np.errstate(all="ignore"):  # what overflows certifies nothing
            return Gradient(
                leaves=[part.value for part in parts],
                error=joint_norm(part.error for part in parts),
                residual=(norm_of(residual.value) + residual.error) * UP,
            )

    def linearized(self, leaves: Sequence[np.ndarray]) -> Linearization:
        """What the linearized flow at a point is made of.

        Args:
            leaves: All leaves of the parameters there.

        Returns:
            Its parts; bounds are infinite or NaN where nothing is known.
        """
        start = self.start
        outputs = self._enclosed(leaves)[0]
        zero = np.zeros_like(start.targets)

        def pull(weights: np.ndarray) -> tuple[list[np.ndarray], float]:
            _, *parts = self._enclosed(leaves, weights.reshape(zero.shape))
            return [p.value for p in parts], joint_norm(p.error for p in parts)

        with np.errstate(all="ignore"):
            return Linearization(
                residual=residual_from(
                    outputs.value, outputs.error, zero, UNIT_ROUNDOFF
                ),
                kernel=jacobian_of(start.program, leaves, start.x).kernel(),
                pull=pull,
            )


@dataclasses.dataclass(frozen=True)
class LayersPoints:
    """Points of a fully connected network, layer by layer, in NumPy.

    Attributes:
        start: The network and its data.
    """

    start: Start

    @functools.cached_property
    def _places(self) -> list[list[dict[str, int]]]:
        """Numbers of the leaves of each layer of each branch."""
        leaves, structure = jax.tree.flatten(self.start.params)
        numbered = structure.unflatten(range(len(leaves)))
        names = ("plus", "minus") if len(self.start.branches) == 2 else (None,)
        return [
            [
                (numbered if name is None else numbered[name])[f"layer_{i + 1}"]
                for i in range(len(branch.layers))
            ]
            for name, branch in zip(names, self.start.branches, strict=True)
        ]

    @functools.cached_property
    def trained(self) -> tuple[int, ...]:
        """Which leaves are trained."""
        layers = self.start.branches[0].layers
        return tuple(
            sorted(
                number
                for places in self._places
                for layer, place in zip(layers, places, strict=True)
                if layer.is_trained
                for number in place.values()
            )
        )

    def gradient(self, leaves: Sequence[np.ndarray]) -> Gradient:
        """The gradient at a point.

        Args:
            leaves: All leaves of the parameters there.

        Returns:
            The gradient; bounds are infinite or NaN where nothing is known.
        """
        with np.errstate(all="ignore"):  # what overflows certifies nothing
            evaluations = self._evaluated(leaves)
            residual = residual_of(evaluations, self.start.targets)
            parts, error = self._pulled(evaluations, residual.value, residual.error)
        return Gradient(leaves=parts, error=error, residual=residual.norm.high)

    def linearized(self, leaves: Sequence[np.ndarray]) -> Linearization:
        """What the linearized flow at a point is made of.

        Args:
            leaves: All leaves of the parameters there.

        Returns:
            Its parts; bounds are infinite or NaN where nothing is known.
        """
        with np.errstate(all="ignore"):
            evaluations = self._evaluated(leaves)
            shape = self.start.targets.shape
            return Linearization(
                residual=residual_of(evaluations, self.start.targets),
                kernel=kernel_of(evaluations),
                pull=lambda q: self._pulled(evaluations, q.reshape(shape), 0.0),
            )

    def _evaluated(self, leaves: Sequence[np.ndarray]) -> tuple[Evaluation, ...]:
        """The branches with other parameters."""
        places = zip(self.start.branches, self._places, strict=True)
        branches = [self._moved(branch, place, leaves) for branch, place in places]
        return tuple(
            evaluate(
                branch,
                self.start.inputs,
                UNIT_ROUNDOFF,
                norms=layer_norms(branch, UNIT_ROUNDOFF, is_quick=True),
            )
            for branch in branches
        )

    def _pulled(
        self,
        evaluations: tuple[Evaluation, ...],
        weights: Float[np.ndarray, "n k"],
        off: float,
    ) -> tuple[list[np.ndarray], float]:
        """Gradient of a weighted sum of outputs, and the norm of its error."""
        # Weights may be off by `off`, in Euclidean norm.
        found: dict[int, np.ndarray] = {}
        errors = []
        signs = (SYMMETRIZED_SCALE, -SYMMETRIZED_SCALE)
        if len(evaluations) == 1:
            signs = (1.0,)
        for evaluation, places, sign in zip(
            evaluations, self._places, signs, strict=True
        ):
            # The error of all weights, at most, in each of them.
            own = off + gamma(3, UNIT_ROUNDOFF) * np.abs(weights)
            for number, layer in enumerate(evaluation.network.layers):
                if layer.is_trained:
                    parts, error = _layer_gradient(
                        evaluation, number, sign * weights, own
                    )
                    errors.append(error)
                    found |= {n: parts[key] for key, n in places[number].items()}
        return [found[number] for number in self.trained], joint_norm(errors)

    def _moved(
        self,
        branch: Layers,
        places: list[dict[str, int]],
        leaves: Sequence[np.ndarray],
    ) -> Layers:
        """A branch with other parameters."""
        layers = tuple(
            dataclasses.replace(
                layer,
                weight=leaves[place["kernel"]],
                bias=leaves[place["bias"]] if "bias" in place else layer.bias,
            )
            for layer, place in zip(branch.layers, places, strict=True)
        )
        return dataclasses.replace(branch, layers=layers)


def _layer_gradient(
    evaluation: Evaluation,
    number: int,
    weights: Float[np.ndarray, "n k"],
    off: Float[np.ndarray, "n k"],
) -> tuple[dict[str, np.ndarray], float]:
    """Gradient of a weighted sum of outputs by one layer, and the norm of its error."""
    # It is s times the sum of h_i c_i^T, with c_i the sum of r_ia e_ia over outputs.
    layer = evaluation.network.layers[number]
    h, e = evaluation.inputs[number], evaluation.cotangents[number]
    n, k = weights.shape
    c = np.einsum("nk,nkm->nm", weights, e.value)
    size = np.abs(weights) + off
    own = np.sum(
        np.abs(weights) * (e.error + gamma(k + 1, UNIT_ROUNDOFF) * e.computed_norm)
        + off * e.norm,
        axis=1,
    )
    c_size = np.sum(size * e.norm, axis=1)
    rounded = gamma(n + 2, UNIT_ROUNDOFF)
    of_kernel = np.sum(h.norm * own + h.error * c_size + rounded * h.norm * c_size)
    of_bias = np.sum(own + rounded * c_size)
    error = layer.scale * of_kernel + layer.bias_scale * of_bias
    parts = {
        "kernel": layer.scale * (h.value.T @ c),
        "bias": layer.bias_scale * np.sum(c, axis=0),
    }
    return parts, float(error * UP)


def joint_norm(norms: Iterable[float]) -> float:
    """Upper bound of the norm of several arrays together, from those of each."""
    return math.sqrt(sum(norm * norm for norm in norms)) * UP
