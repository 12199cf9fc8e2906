"""Checks of bounds of matrices, scalars and activations; see `test_certify_bounds`."""

import functools
from decimal import Decimal
from fractions import Fraction

import numpy as np

from lazyjax.certify.arithmetic import (
    activations as activation_bounds,
    matrices as matrix_bounds,
    rounding,
)
from lazyjax.certify.arithmetic.rounding import Interval
from tests.helpers import exact

U = rounding.UNIT_ROUNDOFF


def matrices(count: int = 12, rows: int = 5, columns: int = 7):
    rng = np.random.default_rng(0)
    return [rng.standard_normal((rows, columns)) for _ in range(count)]


def symmetric_matrices():
    """Well and badly conditioned ones; the last is singular up to rounding."""
    hilbert = np.array([[1 / (i + j + 1) for j in range(7)] for i in range(7)])
    return [m @ m.T for m in matrices()] + [hilbert, np.full((3, 3), 0.1)]


# Norms and eigenvalues of matrices, in rational arithmetic.


def check_row_norms():
    for m in matrices():
        bounds = matrix_bounds.row_norms_upper(m, U)
        for row, bound in zip(m, bounds, strict=True):
            assert exact.sum_of_squares(row) <= Fraction(float(bound)) ** 2
            assert bound <= np.linalg.norm(row) * (1 + 1e-13)


def check_frobenius():
    for m in matrices():
        square = exact.sum_of_squares(m)
        upper = matrix_bounds.frobenius_upper(m, U)
        lower = matrix_bounds.frobenius_lower(m, U)
        assert Fraction(lower) ** 2 <= square <= Fraction(upper) ** 2
        assert upper <= lower * (1 + 1e-12)


def check_symmetric_norm():
    for m in [*symmetric_matrices(), np.diag([1.0, -3.0])]:
        bound = matrix_bounds.symmetric_norm_upper(m, U)
        q = exact.fractions(m)
        assert exact.eig_max_is_below(q, exact.ulps(bound, 1))
        assert exact.eig_min_is_above(q, -exact.ulps(bound, 1))


def check_gram():
    for m in matrices():
        gram, error = matrix_bounds.gram_and_error(m, U)
        np.testing.assert_array_equal(gram, gram.T)
        difference = exact.fractions(gram)
        for row, true in zip(difference, exact.gram(m), strict=True):
            row[:] = [a - b for a, b in zip(row, true, strict=True)]
        assert exact.eig_max_is_below(difference, error)
        assert exact.eig_min_is_above(difference, -error)
        assert error <= 1e-13 * np.trace(gram)


def check_eig_min():
    for m in symmetric_matrices():
        bound = matrix_bounds.eig_min_lower(m, U)
        q, size = exact.fractions(m), np.trace(m)
        assert exact.eig_min_is_above(q, bound)
        assert not exact.eig_min_is_above(q, bound + 1e-13 * size)


def check_eig_max():
    for m in symmetric_matrices():
        bound = matrix_bounds.eig_max_upper(m, U)
        q, size = exact.fractions(m), np.trace(m)
        assert exact.eig_max_is_below(q, bound)
        assert not exact.eig_max_is_below(q, bound - 1e-13 * size)


def check_cholesky():
    """Also for a shift that is far from the smallest eigenvalue."""
    for m in symmetric_matrices()[:-1]:
        for shift in (-1.0, 0.3 * np.linalg.eigvalsh(m)[0]):
            bound = matrix_bounds._eig_min_by_cholesky(m, shift, U)
            assert bound <= shift
            assert exact.eig_min_is_above(exact.fractions(m), bound)
            assert bound >= shift - 1e-13 * (np.trace(m) + abs(shift))
        # Of any matrix, such as a factor in single precision.
        shift = 0.9 * np.linalg.eigvalsh(m)[0]
        factor = np.linalg.cholesky(m - shift * np.eye(len(m))).astype(np.float32)
        for poor in (factor.astype(float), factor * 1.001, factor * 0.0):
            for wrong in (shift, shift * 4 / 3):
                bound = matrix_bounds._eig_min_by_factor(
                    m, poor.astype(float), wrong, U
                )
                assert exact.eig_min_is_above(exact.fractions(m), bound)


def check_spectral_norm():
    for m in [*matrices(), *(m.T for m in matrices(3))]:
        bound = matrix_bounds.spectral_norm_upper(m, U)
        gram = exact.gram(m)
        square = Fraction(bound) ** 2
        assert exact.is_positive_definite(exact.shifted(gram, -square, sign=-1))
        assert bound <= np.linalg.norm(m, 2) * (1 + 1e-12)


def check_perron():
    for m in map(np.abs, symmetric_matrices()):
        bound = matrix_bounds.perron_upper(m, U)
        assert exact.eig_max_is_below(exact.fractions(m), exact.ulps(bound, 1))
        assert bound <= np.linalg.eigvalsh(m)[-1] * (1 + 1e-6)


# Scalars.


def check_intervals():
    rng = np.random.default_rng(1)
    for a, b in rng.standard_normal((200, 2)):
        p, q = Fraction(a), Fraction(b)
        pairs = [
            (rounding.interval(a) + b, p + q),
            (rounding.interval(a) - b, p - q),
            (rounding.interval(a) * b, p * q),
            (rounding.interval(a) / b, p / q),
        ]
        for result, true in pairs:
            assert Fraction(result.low) < true < Fraction(result.high)
        root = rounding.interval(abs(a)).sqrt()
        assert Fraction(root.low) ** 2 <= abs(p) <= Fraction(root.high) ** 2
        for result, true in (
            (rounding.interval(abs(a)).log(), Decimal(abs(a)).ln()),
            (rounding.interval(a).expm1(), Decimal(a).exp() - 1),
        ):
            assert Decimal(result.low) < true < Decimal(result.high)
    wide = Interval(-1.0, 2.0) * Interval(-3.0, 5.0)
    assert wide.low <= -6 <= 10 <= wide.high


def check_rounding_of_sums():
    rng = np.random.default_rng(2)
    for _ in range(50):
        values = rng.random(9)
        computed = functools.reduce(lambda s, v: s + v, values, 0.0)
        true = sum(map(Fraction, values), Fraction(0))
        assert Fraction(float(rounding.round_up(computed, 9, U))) > true
        assert Fraction(float(rounding.round_down(computed, 9, U))) < true
    for count in (1, 10, 10**6):
        true = Fraction(count) * Fraction(U) / (1 - Fraction(count) * Fraction(U))
        assert Fraction(rounding.gamma(count, U)) > true


# Activations.


def check_activation_values():
    points = np.concatenate([np.linspace(-30, 30, 61), np.linspace(-1, 1, 40) ** 3])
    for name in ("sigmoid", "silu", "softplus", "tanh", "gaussian", "elu"):
        known = activation_bounds.SMOOTH_ACTIVATIONS[name]
        values, slopes = activation_bounds.values_of(known, points)
        for u, value, slope in zip(points, values, slopes, strict=True):
            true_value, true_slope = exact.activation(name, Decimal(float(u)))
            assert abs(Decimal(float(value)) - true_value) <= Decimal(
                activation_bounds.ROUNDING
            ) * (1 + abs(Decimal(float(u)))), (name, u)
            assert abs(Decimal(float(slope)) - true_slope) <= Decimal(
                activation_bounds.ROUNDING
            ), (name, u)


def check_activation_suprema():
    grid = np.linspace(-8, 8, 320_001)
    for name, known in activation_bounds.SMOOTH_ACTIVATIONS.items():
        values, slopes = activation_bounds.values_of(known, grid)
        step = grid[1] - grid[0]
        assert np.max(np.abs(slopes)) <= known.slope * (1 + 4 * U), name
        assert np.max(np.abs(slopes)) >= known.slope * (1 - 1e-3), name
        curvature = np.max(np.abs(np.diff(slopes))) / step
        assert curvature <= known.curvature * (1 + 1e-9) + 1e-10, name
        assert curvature >= known.curvature * (1 - 1e-3), name
        secants = np.diff(values) / step
        middle = (slopes[1:] + slopes[:-1]) / 2
        np.testing.assert_allclose(secants, middle, atol=1e-4)
