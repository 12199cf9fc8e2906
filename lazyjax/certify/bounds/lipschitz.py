r"""Lipschitz constants of a network's Jacobian in a ball around its parameters.

The Jacobian $J$ has a row for each example and output, the norm is the spectral one,
and the ball is that of all trained parameters. For directions $U, V$ of unit norm the
constant is the largest of $\lVert D^2 f[U, V] \rVert$, with

$$D^2 f_i = \sum_{l<L} b_i^l (\phi''(z_i^l) \circ \dot z_i^l(U) \circ \dot z_i^l(V))
+ \sum_{l>1} s_l e_i^l (U_l \dot h_i^{l-1}(V) + V_l \dot h_i^{l-1}(U)),$$

where dots are derivatives along a direction, $b^l = \partial f/\partial h^l$ and
$e^l = \partial f/\partial z^l$. All numbers are sums and products of nonnegative upper
bounds, so that rounding is made up for once, at the end.
"""

import dataclasses
import math

import numpy as np
from jaxtyping import Float

from lazyjax.certify.arithmetic.matrices import (
    eig_max_upper,
    gram_and_error,
    perron_upper,
    row_norms_upper,
    spectral_norm_upper,
)
from lazyjax.certify.arithmetic.rounding import UNIT_ROUNDOFF, gamma, root_up, round_up
from lazyjax.certify.bounds.evaluation import Evaluation, activation_of
from lazyjax.certify.bounds.layers import Layer


@dataclasses.dataclass(frozen=True)
class TwoLayer:
    r"""Constants of two-layer networks, from the inputs as a whole.

    With weights $w_r$, inputs $\tilde x_i$ that include scale and bias, Gram matrix
    $G$ of those and output weights $a_r$ (rows), the terms of $D^2 f[U, V]$ are

    - $\sum_r a_r \phi''(z_{ir}) \langle u_r, \tilde x_i\rangle \langle v_r, \tilde
      x_i\rangle$, of norm at most $\max_r \lVert a_r\rVert \sup|\phi''|
      \lambda_{\max}(G \circ G)^{1/2}$ times the norms of $u$ and $v$;
    - $\sum_r \alpha_r \phi'(z_{ir}) \langle v_r, \tilde x_i\rangle$ for the direction
      $\alpha$ of output weights, of norm at most $\sup|\phi'| \lVert\tilde X\rVert$
      times those of $\alpha$ and $v$; and the same with both exchanged.

    Attributes:
        curvature: First factor without the output weights, scales included.
        slope: Second factor, scales included.
        readout: Upper bound of $\max_r \lVert a_r \rVert$.
        trains_first: Whether the first layer is trained.
        trains_last: Whether the last layer is trained.
    """

    curvature: float
    slope: float
    readout: float
    trains_first: bool
    trains_last: bool

    def at(self, radius: float) -> float:
        """Constant of the whole Jacobian in a ball of `radius`."""
        if not self.trains_first:
            return 0.0
        if not self.trains_last:
            return self.curvature * self.readout
        # Spectral norm of [[a, b], [b, 0]].
        a, b = self.curvature * (self.readout + radius), self.slope
        return float(
            round_up((a + math.sqrt(a * a + 4 * b * b)) / 2, 20, UNIT_ROUNDOFF)
        )

    def of_first_layer(self, radius: float) -> float:
        """Constant of the Jacobian for the first layer, in a ball of all parameters."""
        if not (self.trains_first and self.trains_last):
            return self.at(radius)
        a, b = self.curvature * (self.readout + radius), self.slope
        return float(round_up(math.sqrt(a * a + b * b), 20, UNIT_ROUNDOFF))


def two_layer(evaluation: Evaluation) -> TwoLayer:
    """Constants of a network with one hidden layer, all examples taken together."""
    unit = evaluation.unit
    first, last = evaluation.network.layers
    phi, c = activation_of(evaluation.network), evaluation.network.factor
    x = evaluation.inputs[0]
    gram = input_gram(x.value, first, unit)
    curvature = root_up(perron_upper(gram.entries * gram.entries, unit), 2, unit)
    outer = c * last.scale
    return TwoLayer(
        curvature=float(round_up(outer * phi.curvature * curvature, 6, unit)),
        slope=float(round_up(outer * phi.slope * gram.spectral, 6, unit)),
        readout=float(np.max(row_norms_upper(last.weight, unit))),
        trains_first=first.is_trained,
        trains_last=last.is_trained,
    )


@dataclasses.dataclass(frozen=True)
class InputGram:
    r"""Gram matrix $s^2 \langle x_i, x_j\rangle + s_b^2$ of scaled inputs with biases.

    Attributes:
        entries: Upper bounds of the absolute values of its entries.
        norms: Upper bounds of the roots of its diagonal.
        spectral: Upper bound of the root of its largest eigenvalue.
    """

    entries: Float[np.ndarray, "n n"]
    norms: Float[np.ndarray, "n"]
    spectral: float


def input_gram(x: Float[np.ndarray, "n d"], first: Layer, unit: float) -> InputGram:
    """Bounds of the Gram matrix of inputs as the first layer sees them."""
    gram, error = gram_and_error(x, unit)
    s_sq, b_sq = first.scale**2, first.bias_scale**2
    gram, norms = s_sq * gram + b_sq, row_norms_upper(x, unit)
    # Three roundings more, of entries at most the product of the two inputs' norms.
    size = s_sq * norms[:, None] * norms + b_sq
    entries = round_up(np.abs(gram) + gamma(x.shape[1] + 4, unit) * size, 8, unit)
    rounded = round_up(gamma(4, unit) * np.sum(np.diagonal(size)), len(x) + 8, unit)
    largest = max(eig_max_upper(gram, unit), 0) + round_up(s_sq * error, 4, unit)
    return InputGram(
        entries=entries,
        norms=root_up(np.diagonal(size), 6, unit),
        spectral=float(root_up(largest + rounded, 4, unit)),
    )


@dataclasses.dataclass(frozen=True)
class DeepLayer:
    r"""What the constants need to know of a layer, at the centre of the ball.

    Attributes:
        scale: Multiplier of its weights.
        bias_scale: Multiplier of its biases.
        is_trained: Whether it is trained.
        weight: Upper bound of the spectral norm of its weights.
        inputs: Upper bound of the spectral norm of its inputs, all examples together.
        one_input: Upper bound of the norm of the inputs of one example.
        backward: Upper bound of the norm of $\partial f / \partial h$ of its inputs.
        backward_column: The same for one unit, over all outputs.
        cotangent: Upper bound of the norm of $\partial f / \partial z$ of the layer
            before.
    """

    scale: float
    bias_scale: float
    is_trained: bool
    weight: float
    inputs: float
    one_input: float
    backward: float = 0.0
    backward_column: float = 0.0
    cotangent: float = 0.0


@dataclasses.dataclass(frozen=True)
class Deep:
    r"""Constants of networks of any depth, anew for each radius.

    Attributes:
        layers: The layers, in order.
        slope: Upper bound of the derivative of activations, factor included.
        curvature: Upper bound of the second derivative, factor included.
        num_examples: Number of examples.
        num_outputs: Number of outputs.
    """

    layers: tuple[DeepLayer, ...]
    slope: float
    curvature: float
    num_examples: int
    num_outputs: int

    def at(self, radius: float) -> float:
        r"""Constant of the whole Jacobian in a ball of `radius`.

        Backward, `db` and `de` bound how far cotangents are from those at the centre,
        `steepest` how large those of one example are.

        Args:
            radius: Radius of the ball.

        Returns:
            The constant.
        """
        zeta = self._forward(radius, one=False)
        pi = self._forward(radius, one=True)
        total, de, steepest = 0.0, 0.0, 1.0
        for i in range(len(self.layers) - 1, 0, -1):
            layer = self.layers[i]
            moved = 0.0
            if layer.is_trained:
                moved = radius
                total += layer.scale * steepest * self.slope * zeta[i - 1]
            db = layer.scale * (moved * steepest + layer.weight * de)
            column = layer.backward_column
            total += self.curvature * (column + db) * pi[i - 1] * zeta[i - 1]
            de = self.slope * db + self.curvature * column * radius * pi[i - 1]
            steepest = min(self.slope * (layer.backward + db), layer.cotangent + de)
        roundings = 100 * (len(self.layers) + 1) ** 2 + 4 * self.num_outputs
        return float(round_up(total, roundings, UNIT_ROUNDOFF))

    def _forward(self, radius: float, *, one: bool) -> list[float]:
        r"""Bounds of $\lVert\dot z^l(V)\rVert$ for each hidden layer.

        The norm is at most $\sum_j c_j \lVert V_j \rVert$ over layers $j \le l$, hence
        at most that of $c$.

        Args:
            radius: Radius of the ball.
            one: Whether for one example, or for all together.

        Returns:
            The bounds.
        """
        along = np.zeros(len(self.layers))
        norms = []
        shift = 0.0  # how far inputs are from those at the centre
        for i, layer in enumerate(self.layers[:-1]):
            moved = radius if layer.is_trained else 0.0
            along = layer.scale * (layer.weight + moved) * self.slope * along
            if layer.is_trained:
                size = (layer.one_input if one else layer.inputs) + shift
                biases = layer.bias_scale**2 * (1 if one else self.num_examples)
                along[i] = math.sqrt((layer.scale * size) ** 2 + biases)
            norms.append(float(np.linalg.norm(along)))
            shift = radius * self.slope * norms[-1]
        return norms


def deep(evaluation: Evaluation) -> Deep:
    """Constants of a network of any depth."""
    unit, network = evaluation.unit, evaluation.network
    layers = []
    for i, (layer, rows) in enumerate(
        zip(network.layers, evaluation.inputs, strict=True)
    ):
        off = float(np.linalg.norm(rows.error))
        spectral = spectral_norm_upper(rows.value, unit) + off
        known = DeepLayer(
            scale=layer.scale,
            bias_scale=layer.bias_scale,
            is_trained=layer.is_trained,
            weight=evaluation.norms[i].spectral,
            inputs=float(round_up(spectral, len(rows.error) + 4, unit)),
            one_input=float(np.max(rows.norm)),
        )
        if i:
            b, e = evaluation.backward[i - 1], evaluation.cotangents[i - 1]
            known = dataclasses.replace(
                known,
                backward=_largest_frobenius(b.norm),
                backward_column=_largest_column(b.value, b.error),
                cotangent=_largest_frobenius(e.norm),
            )
        layers.append(known)
    phi, factor = activation_of(network), network.factor
    n, k = evaluation.output.value.shape
    return Deep(tuple(layers), factor * phi.slope, factor * phi.curvature, n, k)


def lipschitz_of(evaluation: Evaluation) -> TwoLayer | Deep:
    """The sharper constants for the network's depth."""
    is_two_layer = evaluation.network.depth == 1
    return two_layer(evaluation) if is_two_layer else deep(evaluation)


def _largest_column(
    value: Float[np.ndarray, "n k m"], error: Float[np.ndarray, "n k"]
) -> float:
    """Upper bound of the largest norm over outputs, for one example and unit."""
    columns = np.sqrt(np.max(np.sum(value**2, axis=1)))
    return float(columns) + _largest_frobenius(error)


def _largest_frobenius(norm: Float[np.ndarray, "n k"]) -> float:
    """Upper bound of the largest norm over all outputs, for one example."""
    return float(np.sqrt(np.max(np.sum(norm**2, axis=1))))
