"""Infinite-width kernels agree with those of neural-tangents, and would not by chance."""

import dataclasses
import itertools
from types import ModuleType
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lazyjax import Architecture, infinite_ntk
from lazyjax.activations import ACTIVATIONS
from lazyjax.interop import _nt_stax
from lazyjax.interop.neural_tangents import Comparison, compare
from lazyjax.typing import Parameterization, Trained
from tests.helpers.compare import assert_close, relative_error

pytestmark = pytest.mark.usefixtures("x64")

TOLERANCE = 1e-6
CLOSED_FORMS = ["abs", "cos", "erf", "identity", "leaky_relu", "relu", "sin"]
# Their quadrature misses the kink of the derivative of "elu", which has its own test.
SMOOTH_OR_CLOSED = sorted(set(ACTIVATIONS) - {"elu"})

X1 = np.random.default_rng(0).normal(size=(4, 3))
X2 = np.random.default_rng(1).normal(size=(3, 3))


def compare_of(is_one_batch: bool = False, **fields: Any) -> Comparison:
    """Comparison in float64, with a width where one is needed."""
    architecture = Architecture(w_std=1.3, **fields)
    width = 7 if architecture.parameterization == "standard" else None
    return compare(architecture, X1, None if is_one_batch else X2, width=width)


def assert_agree(result: Comparison) -> None:
    assert result.ntk.dtype == jnp.float64
    assert jnp.isfinite(result.ntk).all()
    assert result.nngp_difference <= TOLERANCE
    assert result.ntk_difference <= TOLERANCE


@pytest.mark.parametrize("activation", SMOOTH_OR_CLOSED)
def test_kernels_agree_for_every_activation(activation: str) -> None:
    assert_agree(compare_of(activation=activation, depth=2, b_std=0.3))


@pytest.mark.parametrize("activation", CLOSED_FORMS)
def test_kernels_of_one_batch_without_biases_agree(activation: str) -> None:
    assert_agree(compare_of(True, activation=activation, depth=3))


@pytest.mark.parametrize("depth", [0, 2])
@pytest.mark.parametrize("trained", get_args(Trained))
@pytest.mark.parametrize("parameterization", get_args(Parameterization))
def test_kernels_agree_for_every_parameterization_and_choice_of_layers(
    parameterization: str, trained: str, depth: int
) -> None:
    fields = {"parameterization": parameterization, "trained": trained, "depth": depth}
    scaling = "none" if trained == "first" else "fan_in"
    assert_agree(compare_of(input_scaling=scaling, b_std=0.2, **fields))


@pytest.mark.slow
@pytest.mark.parametrize("activation", SMOOTH_OR_CLOSED)
def test_kernels_agree_for_every_combination(activation: str) -> None:
    for parameterization, depth, b_std, is_one_batch in itertools.product(
        get_args(Parameterization), range(4), (0.0, 0.3), (True, False)
    ):
        fields = {"depth": depth, "b_std": b_std, "parameterization": parameterization}
        assert_agree(compare_of(is_one_batch, activation=activation, **fields))


@pytest.mark.parametrize(
    "change",
    [
        {"w_std": 1.3 * (1 + 1e-4)},
        {"b_std": 0.3 * (1 + 1e-4)},
        {"activation": "leaky_relu"},
        {"depth": 3},
        {"trained": "last"},
        {"input_scaling": "none"},
        {"parameterization": "standard"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_any_change_on_one_side_is_seen(
    change: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels_of = _nt_stax.stax_kernels

    def changed(
        stax: ModuleType, architecture: Architecture, x1: Any, x2: Any, width: Any
    ) -> Any:
        other = dataclasses.replace(architecture, **change)
        width = 7 if other.parameterization == "standard" else width
        return kernels_of(stax, other, x1, x2, width)

    monkeypatch.setattr(_nt_stax, "stax_kernels", changed)
    result = compare_of(depth=2, b_std=0.3)
    assert result.ntk_difference > 10 * TOLERANCE


def test_every_field_of_an_architecture_is_translated_or_refused() -> None:
    # A field that is added there must be translated, or refused, and then named here:
    # ignored, it would make two different networks look like one.
    assert {field.name for field in dataclasses.fields(Architecture)} == {
        "activation",
        "activation_scale",  # refused unless it is the default
        "b_std",
        "depth",
        *("filter_shape", "head", "padding", "pixel_scaling"),  # of images: refused
        *("pool_after", "strides"),
        "input_scaling",
        "kind",
        "num_outputs",  # each output has the same kernel
        "parameterization",
        "readout",  # so has either distribution
        "residual_scale",  # of residual networks: refused
        "symmetrized",
        "trained",
        "w_std",
    }


def test_differences_are_relative_and_of_the_kernels_returned() -> None:
    result = compare_of(activation="elu")
    assert_close(result.ntk_difference, relative_error(result.ntk, result.their_ntk))
    assert_close(result.nngp_difference, relative_error(result.nngp, result.their_nngp))
    # Their quadrature loses a term of the order of one over its degree.
    assert 1e-6 < result.ntk_difference < 1e-2


def test_named_functions_are_taken_for_their_names_and_others_integrated() -> None:
    named = compare_of(activation=jax.nn.relu)
    assert_agree(named)
    other = compare_of(activation=lambda u: jnp.tanh(u))
    assert_agree(other)


def test_images_are_flattened_and_float32_is_kept() -> None:
    x = np.random.default_rng(0).normal(size=(3, 2, 2, 1)).astype(np.float32)
    architecture = Architecture(depth=2, b_std=0.1)
    result = compare(architecture, x)
    assert result.their_ntk.dtype == jnp.float32
    assert_close(result.their_ntk, infinite_ntk(architecture, x), 1e-3)


def test_network_that_neural_tangents_lacks_is_refused(own_errors: None) -> None:
    with pytest.raises(ValueError, match="`architecture` must not be symmetrized"):
        compare(Architecture(symmetrized=True), X1.astype(np.float32))


def test_misuse_is_refused_as_by_the_kernels_themselves(own_errors: None) -> None:
    x: Any = X1.astype(np.float32)
    with pytest.raises(TypeError, match="`architecture` must be an Architecture"):
        compare("relu", x)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="`width` must be given"):
        compare(Architecture(parameterization="standard"), x)
    with pytest.raises(ValueError, match="`x1` must be finite"):
        compare(Architecture(), x * np.nan)
