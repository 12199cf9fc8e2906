"""Gradients of the loss, computed in float64, with bounds of their errors."""

import dataclasses
import functools
import math
from collections.abc import Iterable, Sequence

import jax
import jax.extend.core as jex
import numpy as np
from jaxtyping import Float

from lazyjax.certify.arithmetic.rounding import UNIT_ROUNDOFF, gamma
from lazyjax.certify.bounds.branches import residual_of
from lazyjax.certify.bounds.evaluation import Evaluation, evaluate, layer_norms
from lazyjax.certify.bounds.layers import SYMMETRIZED_SCALE, Layers
from lazyjax.certify.bounds.program.enclosing.enclosure import UP, exact, norm_of
from lazyjax.certify.bounds.program.enclosing.interpreter import enclosures
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
class ProgramGradient:
    """Gradients by a program, equation by equation.

    Attributes:
        start: What the program was traced at.
        closed: Leaves, inputs and targets to residual and gradient by trained leaf.
    """

    start: ProgramStart
    closed: jex.ClosedJaxpr

    @property
    def trained(self) -> tuple[int, ...]:
        """Which leaves are trained."""
        return self.start.program.trained

    def at(self, leaves: Sequence[np.ndarray]) -> Gradient:
        """The gradient at a point.

        Args:
            leaves: All leaves of the parameters there.

        Returns:
            The gradient; bounds are infinite or NaN where nothing is known.
        """
        known = [exact(array) for array in (*leaves, self.start.x, self.start.targets)]
        residual, *parts = enclosures(self.closed, known)
        with np.errstate(all="ignore"):  # what overflows certifies nothing
            return Gradient(
                leaves=[part.value for part in parts],
                error=joint_norm(part.error for part in parts),
                residual=(norm_of(residual.value) + residual.error) * UP,
            )


def program_gradient(start: ProgramStart) -> ProgramGradient:
    """The program of residual and gradient of a function on all examples.

    Args:
        start: The function and its data.

    Returns:
        The program.
    """
    program = start.program

    def both(
        leaves: list[jax.Array], x: jax.Array, y: jax.Array
    ) -> tuple[jax.Array, list[jax.Array]]:
        def residual(chosen: list[jax.Array]) -> jax.Array:
            replaced = list(leaves)
            for number, leaf in zip(program.trained, chosen, strict=True):
                replaced[number] = leaf
            return jax.vmap(lambda row: program.fn(*replaced, row))(x) - y

        chosen = [leaves[number] for number in program.trained]
        r, pull = jax.vjp(residual, chosen)
        return r, pull(r)[0]

    with jax.enable_x64(True):
        closed = jax.make_jaxpr(both)(
            jax.tree.leaves(start.params), start.x, start.targets
        )
    return ProgramGradient(start, closed)


@dataclasses.dataclass(frozen=True)
class LayersGradient:
    """Gradients of a fully connected network, layer by layer, in NumPy.

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

    def at(self, leaves: Sequence[np.ndarray]) -> Gradient:
        """The gradient at a point.

        Args:
            leaves: All leaves of the parameters there.

        Returns:
            The gradient; bounds are infinite or NaN where nothing is known.
        """
        with np.errstate(all="ignore"):  # what overflows certifies nothing
            branches = [
                self._moved(branch, places, leaves)
                for branch, places in zip(
                    self.start.branches, self._places, strict=True
                )
            ]
            evaluations = tuple(
                evaluate(
                    branch,
                    self.start.inputs,
                    UNIT_ROUNDOFF,
                    norms=layer_norms(branch, UNIT_ROUNDOFF, is_quick=True),
                )
                for branch in branches
            )
            residual = residual_of(evaluations, self.start.targets)
            signs = (SYMMETRIZED_SCALE, -SYMMETRIZED_SCALE)
            found, errors = {}, []
            for evaluation, places, sign in zip(
                evaluations, self._places, signs, strict=False
            ):
                weights = (sign if len(branches) == 2 else 1.0) * residual.value
                # The error of all residuals, at most, in each of them.
                off = residual.error + gamma(3, UNIT_ROUNDOFF) * np.abs(weights)
                for number, layer in enumerate(evaluation.network.layers):
                    if layer.is_trained:
                        parts, error = _layer_gradient(evaluation, number, weights, off)
                        errors.append(error)
                        found |= {places[number][k]: parts[k] for k in places[number]}
            return Gradient(
                leaves=[found[number] for number in self.trained],
                error=joint_norm(errors),
                residual=residual.norm.high,
            )

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
    r"""Gradient of a weighted sum of outputs by one layer, and the norm of its error.

    It is $s \sum_i h_i c_i^\top$ and $s_b \sum_i c_i$, $c_i = \sum_a r_{ia} e_{ia}$.
    Errors of a product of two vectors are bounded by norms.
    """
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
