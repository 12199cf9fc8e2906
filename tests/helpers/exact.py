"""Exact and high-precision oracles for bounds that account for rounding."""

import math
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np


def fractions(matrix: np.ndarray) -> list[list[Fraction]]:
    """The floating-point numbers of a matrix as the rational numbers that they are."""
    return [[Fraction(float(v)) for v in row] for row in matrix]


def sum_of_squares(values: np.ndarray) -> Fraction:
    return sum((Fraction(float(v)) ** 2 for v in values.ravel()), Fraction(0))


def gram(matrix: np.ndarray) -> list[list[Fraction]]:
    rows = fractions(matrix)
    return [
        [sum((a * b for a, b in zip(p, q, strict=True)), Fraction(0)) for q in rows]
        for p in rows
    ]


def is_positive_definite(matrix: list[list[Fraction]]) -> bool:
    """By elimination in rational arithmetic: all pivots are positive."""
    rows = [list(row) for row in matrix]
    for i in range(len(rows)):
        if rows[i][i] <= 0:
            return False
        for j in range(i + 1, len(rows)):
            factor = rows[j][i] / rows[i][i]
            rows[j] = [a - factor * b for a, b in zip(rows[j], rows[i], strict=True)]
    return True


def shifted(matrix: list[list[Fraction]], shift: Fraction, sign: int = 1):
    """The matrix times `sign`, minus `shift` times the identity."""
    return [
        [sign * v - (shift if i == j else 0) for j, v in enumerate(row)]
        for i, row in enumerate(matrix)
    ]


def eig_min_is_above(matrix: list[list[Fraction]], bound: float) -> bool:
    return is_positive_definite(shifted(matrix, Fraction(bound)))


def eig_max_is_below(matrix: list[list[Fraction]], bound: float) -> bool:
    return is_positive_definite(shifted(matrix, -Fraction(bound), sign=-1))


def activation(name: str, u: Decimal) -> tuple[Decimal, Decimal]:
    """Value and derivative with 50 digits."""
    one = Decimal(1)
    with localcontext() as context:
        context.prec = 50
        s = one / (1 + (-u).exp())
        t = 2 / (1 + (-2 * u).exp()) - 1
        bell = (-u * u).exp()
        return {
            "identity": (u, one),
            "sigmoid": (s, s * (1 - s)),
            "silu": (u * s, s + u * s * (1 - s)),
            "softplus": ((1 + u.exp()).ln(), s),
            "tanh": (t, 1 - t * t),
            "gaussian": (bell, -2 * u * bell),
            "elu": (u, one) if u > 0 else (u.exp() - 1, u.exp()),
            "relu": (u, one) if u > 0 else (0 * u, 0 * u),
        }[name]


def network(layers, name: str, factor: float, x: np.ndarray):
    """Outputs and kernel of a network of `Layers.layers`, by loops with 50 digits.

    Args:
        layers: Objects with `weight`, `bias`, `scale`, `bias_scale`, `is_trained`.
        name: Activation.
        factor: What activations are multiplied by.
        x: Inputs.

    Returns:
        Outputs `(n, k)` and kernel `(n k, n k)`, as arrays of `Decimal`.
    """
    with localcontext() as context:
        context.prec = 50
        outputs, jacobians = [], []
        for row in x:
            f, jacobian = _one(layers, name, Decimal(factor), row)
            outputs.append(f)
            jacobians.extend(jacobian)
        kernel = [
            [
                sum((p * q for p, q in zip(a, b, strict=True)), Decimal(0))
                for b in jacobians
            ]
            for a in jacobians
        ]
    return np.array(outputs), np.array(kernel)


def _one(layers, name, factor, row):
    h = [Decimal(float(v)) for v in row]
    inputs, slopes = [], []
    z: list[Decimal] = []
    for number, layer in enumerate(layers):
        inputs.append(h)
        scale, bias_scale = Decimal(layer.scale), Decimal(layer.bias_scale)
        z = [
            scale * sum((a * Decimal(float(w)) for a, w in zip(h, column, strict=True)))
            + bias_scale * Decimal(float(b))
            for column, b in zip(layer.weight.T, layer.bias, strict=True)
        ]
        if number == len(layers) - 1:
            break
        pairs = [activation(name, v) for v in z]
        h = [factor * value for value, _ in pairs]
        slopes.append([factor * slope for _, slope in pairs])
    jacobian = []
    for output in range(len(z)):
        e = [Decimal(int(i == output)) for i in range(len(z))]
        parts = []
        for number in range(len(layers) - 1, -1, -1):
            layer = layers[number]
            if layer.is_trained:
                scale, bias_scale = Decimal(layer.scale), Decimal(layer.bias_scale)
                parts += [scale * a * b for a in inputs[number] for b in e]
                parts += [bias_scale * b for b in e]
            if number:
                b = [
                    Decimal(layer.scale)
                    * sum((Decimal(float(w)) * v for w, v in zip(r, e, strict=True)))
                    for r in layer.weight
                ]
                e = [v * s for v, s in zip(b, slopes[number - 1], strict=True)]
        jacobian.append(parts)
    return z, jacobian


def spectral_norm(matrix: np.ndarray) -> float:
    """Of an array of `Decimal`, up to the rounding of the last step."""
    return float(np.linalg.norm(matrix.astype(float), 2))


def ulps(value: float, count: int) -> float:
    for _ in range(count):
        value = math.nextafter(value, math.inf)
    return value
