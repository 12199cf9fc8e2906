"""Each bound against an exact oracle, and each weakened bound against the same check."""

import dataclasses
import math
from collections.abc import Callable
from decimal import Decimal
from types import ModuleType

import numpy as np
import pytest

from lazyjax.certify import logistic
from lazyjax.certify.arithmetic import (
    activations as activation_bounds,
    matrices as matrix_bounds,
    rounding,
)
from lazyjax.certify.arithmetic.rounding import Interval
from lazyjax.certify.bounds import (
    agreement,
    ball,
    branches,
    evaluation,
    flips,
    layers as dense_layers,
    lipschitz,
    local,
    singular_values,
    start,
)
from lazyjax.certify.bounds.evaluation import Kernel
from lazyjax.certify.theorems import residual as theorems
from tests.helpers.bound_checks import CHECKS

pytestmark = pytest.mark.once

U = rounding.UNIT_ROUNDOFF


@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.sampled(2)
def test_bound(name):
    CHECKS[name]()


def scaled(factor: float) -> Callable:
    return lambda fn: lambda *a, **k: fn(*a, **k) * factor


def no_error(result):
    return dataclasses.replace(result, error=0 * result.error)


def without_error(fn: Callable) -> Callable:
    """Rows or kernels as if they were exact."""
    return lambda *args, **kwargs: no_error(fn(*args, **kwargs))


def field(name: str, factor: float) -> Callable:
    """One field of the result scaled."""

    def weaken(fn):
        def weakened(*args, **kwargs):
            result = fn(*args, **kwargs)
            value = getattr(result, name)
            return dataclasses.replace(result, **{name: value * factor})

        return weakened

    return weaken


def part(index: int, factor: float) -> Callable:
    """One entry of a pair scaled."""

    def weaken(fn):
        def weakened(*args, **kwargs):
            result = list(fn(*args, **kwargs))
            result[index] = result[index] * factor
            return tuple(result)

        return weakened

    return weaken


def constant(value: float) -> Callable:
    return lambda fn: lambda *a, **k: value


def of_function(factor: float) -> Callable:
    """What a function returns is a function; its values scaled."""
    return lambda fn: lambda *a, **k: scaled(factor)(fn(*a, **k))


def activations(name: str, factor: float) -> Callable:
    return lambda table: {
        key: dataclasses.replace(known, **{name: getattr(known, name) * factor})
        for key, known in table.items()
    }


Mutation = tuple[ModuleType | type, str, Callable, str]

MUTATIONS: list[Mutation] = [
    (rounding, "gamma", constant(0.0), "rounding_of_sums"),
    (rounding, "round_up", lambda fn: lambda v, n, u: v, "rounding_of_sums"),
    (rounding, "round_down", lambda fn: lambda v, n, u: v, "rounding_of_sums"),
    (rounding, "_outward", lambda fn: Interval, "intervals"),
    (rounding, "_widened", lambda fn: Interval, "intervals"),
    (matrix_bounds, "root_up", scaled(1 - 16 * U), "row_norms"),
    (
        matrix_bounds,
        "round_down",
        lambda fn: lambda v, n, u: v * (1 + 16 * U),
        "frobenius",
    ),
    (matrix_bounds, "gamma", constant(0.0), "gram"),
    (matrix_bounds, "row_norms_upper", scaled(1 - 1e-15), "row_norms"),
    (matrix_bounds, "frobenius_upper", scaled(1 - 1e-14), "frobenius"),
    (matrix_bounds, "frobenius_lower", scaled(1 + 1e-14), "frobenius"),
    (matrix_bounds, "symmetric_norm_upper", scaled(0.5), "symmetric_norm"),
    (matrix_bounds, "symmetric_norm_upper", constant(0.0), "cholesky"),
    (matrix_bounds, "gram_and_error", part(1, 1e-3), "gram"),
    (matrix_bounds, "eig_min_lower", scaled(1.01), "eig_min"),
    (matrix_bounds, "eig_max_upper", scaled(0.99), "eig_max"),
    (
        matrix_bounds,
        "_eig_min_by_cholesky",
        lambda fn: lambda m, s, u: s + 1e-12,
        "eig_min",
    ),
    (matrix_bounds, "spectral_norm_upper", scaled(1 - 1e-9), "spectral_norm"),
    (matrix_bounds, "perron_upper", scaled(0.999), "perron"),
    (activation_bounds, "ROUNDING", lambda v: v / 64, "activation_values"),
    (
        activation_bounds,
        "SMOOTH_ACTIVATIONS",
        activations("slope", 0.99),
        "activation_suprema",
    ),
    (
        activation_bounds,
        "SMOOTH_ACTIVATIONS",
        activations("curvature", 0.99),
        "activation_suprema",
    ),
    (evaluation, "gamma", constant(0.0), "evaluation"),
    (evaluation, "affine", without_error, "error_propagation"),
    (evaluation, "affine", without_error, "residual_norm"),
    (evaluation, "transposed", without_error, "error_propagation"),
    (evaluation, "chained", without_error, "error_propagation"),
    (evaluation, "layer_kernel", without_error, "evaluation"),
    (
        evaluation,
        "activated",
        lambda fn: lambda *a: tuple(map(no_error, fn(*a))),
        "error_propagation",
    ),
    (evaluation, "_product_error", constant(0.0), "error_propagation"),
    (lipschitz, "_largest_column", scaled(0.3), "deep_lipschitz_with_curvature"),
    (lipschitz, "_largest_frobenius", scaled(0.3), "deep_lipschitz_of_a_product"),
    (
        lipschitz,
        "two_layer",
        field("curvature", 0.9),
        "lipschitz_is_attained_by_one_unit",
    ),
    (
        lipschitz,
        "two_layer",
        field("readout", 0.9),
        "lipschitz_is_attained_by_one_unit",
    ),
    (
        lipschitz,
        "two_layer",
        field("slope", 0.9),
        "lipschitz_of_both_layers_is_attained_by_a_product",
    ),
    (
        lipschitz.TwoLayer,
        "at",
        scaled(0.9),
        "lipschitz_of_both_layers_is_attained_by_a_product",
    ),
    (
        lipschitz.TwoLayer,
        "of_first_layer",
        scaled(0.9),
        "lipschitz_of_both_layers_is_attained_by_a_product",
    ),
    (
        lipschitz.TwoLayer,
        "at",
        lambda fn: lambda self, r: fn(self, 0.0),
        "lipschitz_grows_with_the_readout",
    ),
    (lipschitz.Deep, "at", scaled(0.7), "deep_lipschitz_of_a_product"),
    (
        lipschitz.Deep,
        "at",
        lambda fn: lambda self, r: fn(self, 0.0),
        "deep_lipschitz_of_a_product",
    ),
    (
        lipschitz.Deep,
        "_forward",
        lambda fn: lambda self, r, one: [0.4 * v for v in fn(self, r, one=one)],
        "deep_lipschitz_of_a_product",
    ),
    (lipschitz, "input_gram", field("entries", 0.999), "input_gram"),
    (lipschitz, "input_gram", field("norms", 0.999), "input_gram"),
    (lipschitz, "input_gram", field("spectral", 0.999), "input_gram"),
    (singular_values, "sigma_min_lower", scaled(1.01), "singular_values"),
    (singular_values, "sigma_max_upper", scaled(0.99), "singular_values"),
    (singular_values, "newton_norm_upper", scaled(0.99), "newton_norm"),
    (branches, "output_of", part(1, 0.0), "residual_norm"),
    (branches, "output_of", part(1, 0.5), "symmetrized"),
    (branches, "kernel_of", field("error", 0.5), "symmetrized"),
    (branches.NetworkLipschitz, "__call__", scaled(0.5), "symmetrized"),
    (ball, "_ball", field("length", 0.99), "ball_is_sharp"),
    (ball, "_ball", field("sigma_end", 1.01), "ball_is_sharp"),
    (ball, "_ball", field("condition", 0.9), "ball_is_sharp"),
    (ball, "_ball", field("radius", 2.0), "ball_needs_its_radius"),
    (ball, "zero_distance", scaled(1.1), "zero_distance"),
    (theorems, "kernel_drift", scaled(0.5), "gap_and_drift"),
    (theorems, "kernel_drift", scaled(0.05), "gap_and_drift"),
    (flips, "margins_lower", scaled(1.1), "margins"),
    (flips, "flips_fn", of_function(0.4), "flips"),
    (flips, "_weights", scaled(0.4), "flips"),
    (flips, "drive_upper", scaled(0.9), "drive"),
    (logistic, "demand_of", scaled(0.9), "logistic"),
    (logistic, "total_loss_upper", scaled(0.9), "logistic"),
    (dense_layers, "_layer", field("scale", 1 - 1e-11), "output_scale"),
    (dense_layers, "_layer", field("scale", 1 - 1e-11), "agreement"),
    (dense_layers, "_layer", field("bias_scale", 0.9), "output_scale"),
    (dense_layers, "_layer", field("bias_scale", 0.9), "agreement"),
    (evaluation, "gamma", constant(0.0), "output_scale"),
    (start, "check_agreement", constant(0.0), "agreement"),
    (agreement, "_check", constant(0.0), "agreement"),
    (agreement, "_LIBRARY_FACTOR", lambda v: 1e6 * v, "agreement"),
    (agreement, "_MOVE", lambda v: 0.0, "agreement"),
    (agreement, "_coarseness", scaled(1e9), "agreement"),
    (local, "check_nonnegative", constant(0.0), "impossible_bounds"),
    (local, "_ROUNDING", lambda v: 9.0, "impossible_bounds"),
    (local, "_checked", lambda fn: lambda constant: constant, "impossible_bounds"),
    (
        singular_values,
        "sigma_min_lower",
        lambda fn: lambda k, u: math.sqrt(abs(np.linalg.eigvalsh(k.value)[0])),
        "plain_sigma_min",
    ),
    (singular_values, "sigma_min_lower", scaled(1.01), "plain_sigma_min"),
]


@pytest.mark.parametrize(
    "mutation",
    MUTATIONS,
    ids=[f"{m[0].__name__.split('.')[-1]}.{m[1]}-{m[3]}" for m in MUTATIONS],
)
def test_a_weakened_bound_fails_its_check(mutation, monkeypatch):
    owner, name, weaken, check = mutation
    original = getattr(owner, name)
    weakened = weaken(original)
    monkeypatch.setattr(owner, name, weakened)
    # Names that other modules have imported.
    for module in (
        ball,
        evaluation,
        flips,
        lipschitz,
        local,
        singular_values,
        branches,
        logistic,
        theorems,
    ):
        if isinstance(owner, ModuleType) and getattr(module, name, None) is original:
            monkeypatch.setattr(module, name, weakened)
    with pytest.raises(AssertionError):
        CHECKS[check]()


def test_every_function_that_returns_a_bound_is_mutated():
    """A bound that is added later has to be added here as well."""
    marks = ("_upper", "_lower", "_error")
    mutated = {name for _, name, _, _ in MUTATIONS}
    for module in (
        matrix_bounds,
        evaluation,
        flips,
        lipschitz,
        local,
        singular_values,
        branches,
        logistic,
    ):
        for name, value in vars(module).items():
            own = getattr(value, "__module__", None) == module.__name__
            if own and callable(value) and name.endswith(marks):
                assert name in mutated, f"{module.__name__}.{name}"


@pytest.mark.parametrize("scale", [1e-170, 1e160, 1e308])
def test_overflow_and_underflow_never_certify(scale):
    m = np.eye(2) * scale
    with np.errstate(over="ignore", invalid="ignore"):
        assert_safe(m, scale)


def assert_safe(m, scale):
    value, error = matrix_bounds.gram_and_error(m, U)
    sigma = singular_values.sigma_min_lower(Kernel(value, error), U)
    assert sigma <= scale
    assert matrix_bounds.frobenius_upper(m, U) >= scale


def test_singular_matrices_have_no_lower_bound():
    rng = np.random.default_rng(9)
    for rank in (1, 3):
        m = rng.standard_normal((5, rank))
        assert matrix_bounds.eig_min_lower(m @ m.T, U) <= 0
    assert matrix_bounds.eig_min_lower(np.full((2, 2), np.nan), U) == -math.inf


def test_intervals_of_unknown_numbers_stay_unknown():
    unknown = Interval(math.nan, 1.0)
    assert math.isnan(unknown.low)
    assert math.isnan(unknown.high)
    for result in (
        unknown + 1.0,
        Interval(0.0, 1.0) * math.inf,
        1.0 / Interval(-1.0, 1.0),
        Interval(-1.0, 1.0).sqrt(),
        Interval(0.0, 1.0).log(),
    ):
        assert math.isnan(result.low)
        assert math.isnan(result.high)


def test_symmetrized_scale_is_within_two_roundings():
    true = Decimal(1) / Decimal(2).sqrt()
    assert abs(Decimal(dense_layers.SYMMETRIZED_SCALE) / true - 1) <= 2 * Decimal(U)
