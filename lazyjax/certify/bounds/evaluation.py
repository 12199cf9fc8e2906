r"""Outputs and kernel of a fully connected network, with bounds of their errors.

The exact network is that of real numbers: parameters, inputs and multipliers are the
floating-point numbers that they are, and arithmetic is exact. Of each row vector that
is computed, an upper bound of the Euclidean norm of its error is carried along.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from lazyjax.activations import Float64Activation
from lazyjax.certify.arithmetic.activations import (
    PIECEWISE_ACTIVATIONS,
    ROUNDING,
    SMOOTH_ACTIVATIONS,
    values_of,
)
from lazyjax.certify.arithmetic.matrices import (
    frobenius_upper,
    row_norms_upper,
    spectral_norm_upper,
    symmetric,
)
from lazyjax.certify.arithmetic.rounding import gamma, round_up
from lazyjax.certify.bounds.layers import Layer, Layers


@dataclasses.dataclass(frozen=True)
class EnclosedRows:
    """Row vectors, and upper bounds of the norms of their errors and of themselves.

    Attributes:
        value: The computed vectors, along the last axis.
        error: Bounds of the norms of their errors.
        computed_norm: Bounds of the norms of the computed vectors.
    """

    value: Float[np.ndarray, "*rows m"]
    error: Float[np.ndarray, "*rows"]
    computed_norm: Float[np.ndarray, "*rows"]

    @property
    def norm(self) -> Float[np.ndarray, "*rows"]:
        """Bounds of the norms of the exact vectors."""
        return (self.computed_norm + self.error) * (1 + 2.0**-52)


@dataclasses.dataclass(frozen=True)
class LayerNorms:
    """Upper bounds of the norms of a layer's weights and biases.

    Attributes:
        spectral: Spectral norm of the weights.
        frobenius: Frobenius norm of the weights.
        bias: Norm of the biases.
    """

    spectral: float
    frobenius: float
    bias: float


@dataclasses.dataclass(frozen=True)
class Evaluation:
    r"""What was computed of one branch of a network.

    Attributes:
        network: The network.
        output: $f$, one row for each example.
        preactivations: $z^l$ for each hidden layer $l$, one row for each example.
        inputs: $h^{l-1}$ for each layer $l$, one row for each example.
        backward: $\partial f / \partial h^l$ for each hidden layer $l$, a row for each
            example and output.
        cotangents: $\partial f / \partial z^l$ for each layer $l$, likewise.
        norms: Of each layer's parameters.
        unit: Unit roundoff that is accounted for.
    """

    network: Layers
    output: EnclosedRows
    preactivations: tuple[EnclosedRows, ...]
    inputs: tuple[EnclosedRows, ...]
    backward: tuple[EnclosedRows, ...]
    cotangents: tuple[EnclosedRows, ...]
    norms: tuple[LayerNorms, ...]
    unit: float


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A kernel matrix, symmetric, and a bound of the spectral norm of its error.

    Attributes:
        value: The matrix; row `i * k + a` belongs to output `a` of example `i`.
        error: The bound.
    """

    value: Float[np.ndarray, "nk nk"]
    error: float

    def __add__(self, other: "Kernel") -> "Kernel":
        # Rounding of sums is part of the error of each term, see `layer_kernel`.
        return Kernel(self.value + other.value, self.error + other.error)


def evaluate(
    network: Layers,
    x: Float[np.ndarray, "n d"],
    unit: float,
    *,
    norms: tuple[LayerNorms, ...] | None = None,
) -> Evaluation:
    """Forward and backward pass of one branch of a network."""
    # Where the activation has kinks, derivatives are those of the computed signs.
    if norms is None:
        norms = layer_norms(network, unit)
    num_rows, num_outputs = len(x), network.layers[-1].weight.shape[1]
    rows = EnclosedRows(x, np.zeros(num_rows), row_norms_upper(x, unit))
    inputs, preactivations, slopes = [rows], [], []
    for layer, norm in zip(network.layers[:-1], norms, strict=False):
        z = affine(layer, norm, rows, unit)
        rows, slope = activated(network, z, unit)
        preactivations.append(z)
        inputs.append(rows)
        slopes.append(slope)
    output = affine(network.layers[-1], norms[-1], rows, unit)

    unit_vectors = np.broadcast_to(
        np.eye(num_outputs), (num_rows,) + (num_outputs,) * 2
    )
    ones = np.ones((num_rows, num_outputs))
    cotangent = EnclosedRows(unit_vectors, 0 * ones, ones)
    backward, cotangents = [], [cotangent]
    for i in range(network.depth, 0, -1):
        b = transposed(network.layers[i], norms[i], cotangent, unit)
        cotangent = chained(network, b, slopes[i - 1], unit)
        backward.append(b)
        cotangents.append(cotangent)
    return Evaluation(
        network=network,
        output=output,
        preactivations=tuple(preactivations),
        inputs=tuple(inputs),
        backward=tuple(backward[::-1]),
        cotangents=tuple(cotangents[::-1]),
        norms=norms,
        unit=unit,
    )


def layer_norms(
    network: Layers, unit: float, *, is_quick: bool = False
) -> tuple[LayerNorms, ...]:
    """Bounds of the norms of all layers; if quick, spectral ones by Frobenius norms."""
    norms = []
    for number, layer in enumerate(network.layers):
        frobenius = spectral = frobenius_upper(layer.weight, unit)
        # Inputs are exact, so that the spectral norm of the first layer is never needed.
        if number and not is_quick:
            spectral = spectral_norm_upper(layer.weight, unit)
        bias = frobenius_upper(layer.bias, unit)
        norms.append(LayerNorms(spectral=spectral, frobenius=frobenius, bias=bias))
    return tuple(norms)


def map_rows(
    fn: Callable[..., EnclosedRows], evaluation: Evaluation, *others: Evaluation
) -> Evaluation:
    """An evaluation with all its rows mapped, beside those of others of one network."""

    def mapped(name: str) -> tuple[EnclosedRows, ...]:
        rows = (getattr(e, name) for e in (evaluation, *others))
        return tuple(map(fn, *rows))

    names = ("preactivations", "inputs", "backward", "cotangents")
    output = fn(evaluation.output, *(other.output for other in others))
    return dataclasses.replace(
        evaluation, output=output, **{name: mapped(name) for name in names}
    )


def plain(evaluation: Evaluation) -> Evaluation:
    """The same numbers, as if they were exact."""
    exact = map_rows(
        lambda rows: dataclasses.replace(rows, error=np.zeros_like(rows.error)),
        evaluation,
    )
    return dataclasses.replace(exact, unit=0.0)


def concatenated(evaluation: Evaluation, other: Evaluation) -> Evaluation:
    """Evaluations of one network on two sets of inputs, as one."""

    def joined(one: EnclosedRows, two: EnclosedRows) -> EnclosedRows:
        return EnclosedRows(
            np.concatenate([one.value, two.value]),
            np.concatenate([one.error, two.error]),
            np.concatenate([one.computed_norm, two.computed_norm]),
        )

    return map_rows(joined, evaluation, other)


def example_of(evaluation: Evaluation, i: int) -> Evaluation:
    """The evaluation of example `i` alone."""
    one = slice(i, i + 1)
    return map_rows(
        lambda rows: EnclosedRows(
            rows.value[one], rows.error[one], rows.computed_norm[one]
        ),
        evaluation,
    )


def affine(
    layer: Layer, norm: LayerNorms, rows: EnclosedRows, unit: float
) -> EnclosedRows:
    """Pre-activations of a layer."""
    value = layer.scale * (rows.value @ layer.weight) + layer.bias_scale * layer.bias
    fan_in = layer.weight.shape[0]
    size = layer.scale * rows.computed_norm * norm.frobenius
    rounded = gamma(fan_in + 5, unit) * (size + layer.bias_scale * norm.bias)
    error = rounded + layer.scale * norm.spectral * rows.error
    return _rows(value, error, unit)


def activated(
    network: Layers, z: EnclosedRows, unit: float
) -> tuple[EnclosedRows, EnclosedRows]:
    r"""Activations $c \phi(z)$ and derivatives $c \phi'(z)$."""
    phi, c = activation_of(network), network.factor
    value, derivative = values_of(phi, z.value)
    width = z.value.shape[-1]
    own = ROUNDING if unit else 0.0
    of_value = phi.slope * z.error + own * (math.sqrt(width) + z.computed_norm)
    of_derivative = phi.curvature * z.error + own * math.sqrt(width)
    scaled = _rows(c * value, c * of_value, unit, roundings=1)
    return scaled, _rows(c * derivative, c * of_derivative, unit, roundings=1)


def transposed(
    layer: Layer, norm: LayerNorms, cotangent: EnclosedRows, unit: float
) -> EnclosedRows:
    """Cotangents of a layer's inputs, from those of its outputs."""
    units = layer.weight.shape[1]
    value = layer.scale * (cotangent.value @ layer.weight.T)
    size = layer.scale * cotangent.computed_norm * norm.frobenius
    error = layer.scale * norm.spectral * cotangent.error
    return _rows(value, gamma(units + 3, unit) * size + error, unit)


def chained(
    network: Layers, b: EnclosedRows, slope: EnclosedRows, unit: float
) -> EnclosedRows:
    """Cotangents of pre-activations, from those of activations."""
    value = slope.value[:, None, :] * b.value
    steepest = network.factor * activation_of(network).slope
    largest = np.max(np.abs(b.value), axis=-1)
    error = steepest * b.error + largest * slope.error[:, None]
    return _rows(value, error, unit, roundings=1)


def activation_of(network: Layers) -> Float64Activation:
    """Bounds of the network's activation; identity if there are no hidden layers."""
    name = network.activation if network.depth else "identity"
    if name in PIECEWISE_ACTIVATIONS:
        return PIECEWISE_ACTIVATIONS[name].as_smooth
    return SMOOTH_ACTIVATIONS[name]


def layer_kernel(evaluation: Evaluation, layer: int) -> Kernel:
    r"""Part of the kernel that is due to one layer, counted from 0.

    Its entries are $(s^2 \langle h_i, h_j\rangle + s_b^2) \langle e_{ia}, e_{jb}\rangle$.
    Norms of exact vectors are at most $P = p + d$ for $h$ and $Q = q + f$ for $e$, with
    $p, q$ those of the computed ones and $d, f$ those of errors. So errors of entries
    are at most sums of products of these, of which the matrices have rank one.

    Args:
        evaluation: What was computed.
        layer: The layer.

    Returns:
        The matrix and its error, which includes that of adding it to the others.
    """
    h, e = evaluation.inputs[layer], evaluation.cotangents[layer]
    unit, spec = evaluation.unit, evaluation.network.layers[layer]
    n, k, width = e.value.shape
    flat = e.value.reshape(n * k, width)
    inner = spec.scale**2 * symmetric(h.value @ h.value.T) + spec.bias_scale**2
    value = symmetric(flat @ flat.T).reshape(n, k, n, k)
    value *= inner[:, None, :, None]

    p, d, q, f = (
        np.broadcast_to(v, (n, k)).reshape(-1)
        for v in (h.computed_norm[:, None], h.error[:, None], e.computed_norm, e.error)
    )
    both, q_all = p + d, q + f
    s_sq, b_sq = spec.scale**2, spec.bias_scale**2
    of_h = s_sq * _product_error(p * q_all, d * q_all, h.value.shape[1], unit)
    of_e = s_sq * _product_error(both * q, both * f, width, unit)
    of_bias = b_sq * _product_error(q, f, width, unit)
    size = s_sq * np.sum((both * q_all) ** 2) + b_sq * np.sum(q_all**2)
    num_terms = len(evaluation.network.layers)
    rounded = gamma(10 + num_terms, unit) * size
    error = round_up(of_h + of_e + of_bias + rounded, n * k + 30, unit)
    return Kernel(value.reshape(n * k, n * k), float(error))


def kernel(evaluation: Evaluation) -> Kernel:
    """Kernel of the trained layers; zero if there are none."""
    parts = [
        layer_kernel(evaluation, i)
        for i, layer in enumerate(evaluation.network.layers)
        if layer.is_trained
    ]
    if not parts:
        size = evaluation.output.value.size
        return Kernel(np.zeros((size, size)), 0.0)
    return sum(parts[1:], parts[0])


def _product_error(
    computed: np.ndarray, error: np.ndarray, count: int, unit: float
) -> float:
    """Norm of the errors of products, for vectors of these norms and their errors."""
    u, v = np.linalg.norm(computed), np.linalg.norm(error)
    return float(2 * u * v + v**2 + gamma(count, unit) * u**2)


def _rows(
    value: np.ndarray, error: np.ndarray, unit: float, *, roundings: int = 0
) -> EnclosedRows:
    """Rows whose error is that given, of at most ten roundings, and some of `value`."""
    computed_norm = row_norms_upper(value, unit)
    if roundings:
        error = error + gamma(roundings, unit) * computed_norm
    error = round_up(error, 12, unit)
    return EnclosedRows(
        value, np.broadcast_to(error, computed_norm.shape), computed_norm
    )
