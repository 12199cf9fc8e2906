"""Infinite-width kernels agree with those of neural-tangents, and would not by chance."""

import dataclasses
import itertools
import math
from collections.abc import Iterator
from types import ModuleType
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lazyjax import Architecture, infinite_ntk
from lazyjax.activations import ACTIVATIONS
from lazyjax.architecture import KINDS
from lazyjax.interop import _nt_stax
from lazyjax.interop.neural_tangents import KernelComparison, compare
from lazyjax.typing import Parameterization, Trained
from tests.helpers.compare import assert_close, relative_error
from tests.test_infinite import oracle_kernels

pytestmark = [pytest.mark.usefixtures("x64"), pytest.mark.once]

TOLERANCE = 1e-6
# Their quadrature misses the kink of the derivative of "elu", which has its own test.
SMOOTH_OR_CLOSED = sorted(set(ACTIVATIONS) - {"elu"})


def batches(*shape: int) -> tuple[np.ndarray, np.ndarray]:
    """Two, of three examples and of two."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(3, *shape)) / 2, rng.normal(size=(2, *shape)) / 2


VECTORS, SEQUENCES, IMAGES = batches(3), batches(6, 2), batches(4, 4, 2)

# Architectures, and activations for each: in residual networks odd ones, see `compare`.
NETWORKS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "mlp": ({"depth": 2, "b_std": 0.3}, SMOOTH_OR_CLOSED),
    "mlp_shallow": ({"w_std": 0.7}, ["relu", "tanh"]),
    "mlp_deep": ({"depth": 3, "input_scaling": "none"}, ["leaky_relu", "erf"]),
    "mlp_unit": (
        {"depth": 2, "activation_scale": "unit", "output_scale": 3.0},
        ["abs", "softplus"],
    ),
    "mlp_normalized": (
        {"depth": 2, "normalization": "layer", "b_std": 0.3},
        ["relu", "erf"],
    ),
    "cnn_normalized": (
        {
            "kind": "cnn",
            "depth": 2,
            "normalization": "layer",
            "head": "average",
            "filter_shape": (3,),
            "pool_after": (1,),
        },
        ["erf"],
    ),
    "resnet": (
        {"kind": "resnet", "depth": 3, "b_std": 0.2},
        ["erf", "identity", "tanh"],
    ),
    "resnet_standard": (
        {
            "kind": "resnet",
            "depth": 2,
            "parameterization": "standard",
            "activation_scale": "unit",
            "residual_scale": 1.0,
        },
        ["sin"],
    ),
    "resnet_last_hidden": (
        {"kind": "resnet", "depth": 2, "trained": "last_hidden"},
        ["erf"],
    ),
    "cnn": ({"kind": "cnn", "depth": 3, "b_std": 0.3}, ["relu", "erf"]),
    "cnn_average": (
        {"kind": "cnn", "depth": 2, "head": "average", "padding": "CIRCULAR"},
        ["relu", "cos"],
    ),
    "cnn_strides": (
        {"kind": "cnn", "depth": 2, "strides": (2, 1), "filter_shape": (3, 2)},
        ["relu", "sin"],
    ),
    "cnn_valid_average": (
        {
            "kind": "cnn",
            "depth": 2,
            "padding": "VALID",
            "filter_shape": (2, 2),
            "head": "average",
            "b_std": 0.1,
        },
        ["leaky_relu", "gelu"],
    ),
    "cnn_pool": (
        {"kind": "cnn", "depth": 2, "pool_after": (1,), "b_std": 0.2},
        ["relu", "erf"],
    ),
    "cnn_pools_average": (
        {"kind": "cnn", "depth": 2, "pool_after": (1, 2), "head": "average"},
        ["relu"],
    ),
    "cnn_unscaled": (
        {"kind": "cnn", "depth": 2, "input_scaling": "none", "pixel_scaling": "none"},
        ["relu", "erf"],
    ),
    "cnn_standard": (
        {"kind": "cnn", "depth": 2, "parameterization": "standard", "b_std": 0.3},
        ["relu", "abs"],
    ),
    "cnn_standard_unscaled": (
        {
            "kind": "cnn",
            "parameterization": "standard",
            "input_scaling": "none",
            "pixel_scaling": "none",
            "filter_shape": (3,),
        },
        ["relu"],
    ),
    "cnn_subset_mup": (
        {"kind": "cnn", "depth": 2, "trained": (1, 3), "parameterization": "mup"},
        ["erf"],
    ),
    "cnn_sequences": (
        {
            "kind": "cnn",
            "depth": 2,
            "filter_shape": (3,),
            "strides": (1, 2),
            "padding": "CIRCULAR",
        },
        ["relu", "erf"],
    ),
    "conv_resnet": (
        {"kind": "conv_resnet", "depth": 3, "b_std": 0.1, "filter_shape": (3,)},
        ["erf", "sin"],
    ),
    "conv_resnet_of_du": (
        {
            "kind": "conv_resnet",
            "depth": 2,
            "filter_shape": (3,),
            "input_scaling": "none",
            "pixel_scaling": "none",
            "activation_scale": "unit",
            "trained": "last_hidden",
        },
        ["erf"],
    ),
    "conv_resnet_average": (
        {"kind": "conv_resnet", "depth": 2, "head": "average", "padding": "CIRCULAR"},
        ["erf"],
    ),
}
COMBINATIONS = [
    (name, activation) for name, (_, names) in NETWORKS.items() for activation in names
]


def described(name: str, activation: str) -> Architecture:
    return Architecture(**{"w_std": 1.3, **NETWORKS[name][0], "activation": activation})


def compared(
    architecture: Architecture, *, is_one_batch: bool = False
) -> KernelComparison:
    """KernelComparison on a batch that fits, with a width where one is needed."""
    x1, x2 = VECTORS
    if architecture.kind == "rnn":
        x1, x2 = SEQUENCES
    if architecture.is_convolutional:
        x1, x2 = IMAGES if len(architecture.filter_shape) == 2 else SEQUENCES
    width = 7 if architecture.parameterization == "standard" else None
    return compare(architecture, x1, None if is_one_batch else x2, width=width)


def compare_of(is_one_batch: bool = False, **fields: Any) -> KernelComparison:
    return compared(Architecture(w_std=1.3, **fields), is_one_batch=is_one_batch)


def assert_agree(result: KernelComparison) -> None:
    assert result.ntk.dtype == jnp.float64
    assert jnp.isfinite(result.ntk).all()
    assert result.nngp_difference <= TOLERANCE
    assert result.ntk_difference <= TOLERANCE


@pytest.fixture(scope="module")
def table() -> Iterator[dict[tuple[str, str], tuple[float, float]]]:
    """Differences by network and activation, shown at the end by `pytest -s`."""
    differences: dict[tuple[str, str], tuple[float, float]] = {}
    yield differences
    lines = [
        f"{network:<24}{activation:<12}{nngp:>9.1e}{ntk:>9.1e}"
        for (network, activation), (nngp, ntk) in differences.items()
    ]
    worst = max((max(pair) for pair in differences.values()), default=math.nan)
    lines += [f"worst of {len(differences)}: {worst:.1e}"]
    print(  # noqa: T201 - what `-s` is for
        "", f"{'network':<24}{'activation':<12}{'nngp':>9}{'ntk':>9}", *lines, sep="\n"
    )


# Every third in every run, all of them nightly.
@pytest.mark.parametrize(
    ("network", "activation"),
    [
        pytest.param(*pair, marks=[pytest.mark.slow] * bool(number % 3))
        for number, pair in enumerate(COMBINATIONS)
    ],
)
@pytest.mark.sampled(3)
def test_kernels_agree_on_every_combination(
    network: str, activation: str, table: dict[tuple[str, str], tuple[float, float]]
) -> None:
    result = compared(described(network, activation))
    pair = float(result.nngp_difference), float(result.ntk_difference)
    table[network, activation] = pair
    assert_agree(result)


def test_combinations_are_more_than_thirty_and_of_every_kind() -> None:
    specs = {described(*combination) for combination in COMBINATIONS}
    assert len(specs) == len(COMBINATIONS) >= 30
    with_counterpart = {name for name, kind in KINDS.items() if kind.stax is not None}
    assert {spec.kind for spec in specs} == with_counterpart
    assert with_counterpart == {"cnn", "conv_resnet", "mlp", "resnet"}


def test_kernels_of_one_batch_agree() -> None:
    assert_agree(compare_of(True, activation="relu", depth=3))


@pytest.mark.parametrize("trained", sorted({*get_args(Trained)} - {"all"}))
@pytest.mark.parametrize("parameterization", ["mup", "standard"])
@pytest.mark.sampled(1)
def test_kernels_agree_for_every_parameterization_and_choice_of_layers(
    parameterization: str, trained: str
) -> None:
    fields = {"parameterization": parameterization, "trained": trained, "depth": 2}
    scaling = "none" if trained == "first" else "fan_in"
    assert_agree(compare_of(input_scaling=scaling, b_std=0.2, **fields))


@pytest.mark.parametrize("parameterization", ["mup", "standard"])
def test_kernels_of_linear_models_agree(parameterization: str) -> None:
    assert_agree(compare_of(parameterization=parameterization, depth=0, b_std=0.2))


@pytest.mark.slow
@pytest.mark.parametrize("activation", SMOOTH_OR_CLOSED)
def test_kernels_agree_for_every_choice_of_fields(activation: str) -> None:
    for parameterization, depth, b_std, is_one_batch in itertools.product(
        get_args(Parameterization), range(4), (0.0, 0.3), (True, False)
    ):
        fields = {"depth": depth, "b_std": b_std, "parameterization": parameterization}
        assert_agree(compare_of(is_one_batch, activation=activation, **fields))


CHANGES: list[tuple[str, dict[str, Any]]] = [
    ("mlp", {"w_std": 1.3 * (1 + 1e-4)}),
    ("mlp", {"activation": "leaky_relu"}),
    ("mlp", {"depth": 3}),
    ("mlp", {"trained": "last"}),
    ("mlp", {"input_scaling": "none"}),
    ("mlp", {"output_scale": 1 + 1e-4}),
    ("mlp", {"normalization": "layer"}),
    ("mlp", {"parameterization": "standard"}),
    ("cnn_sequences", {"padding": "SAME"}),
    ("cnn_sequences", {"strides": (2, 1)}),
    ("cnn_sequences", {"pool_after": (2,)}),
    ("cnn_sequences", {"pixel_scaling": "none"}),
    ("conv_resnet", {"residual_scale": 0.5 * (1 + 1e-4)}),
    ("conv_resnet", {"activation_scale": "unit"}),
]


@pytest.mark.parametrize(("network", "change"), CHANGES)
@pytest.mark.sampled(3)
def test_any_change_on_one_side_is_seen(
    network: str, change: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels_of = _nt_stax.stax_kernels

    def changed(
        stax: ModuleType, architecture: Architecture, x1: Any, x2: Any, width: Any
    ) -> Any:
        other = dataclasses.replace(architecture, **change)
        width = 7 if other.parameterization == "standard" else width
        return kernels_of(stax, other, x1, x2, width)

    monkeypatch.setattr(_nt_stax, "stax_kernels", changed)
    activation = "erf" if network == "conv_resnet" else "relu"
    result = compared(described(network, activation))
    assert result.ntk_difference > 10 * TOLERANCE


def test_every_field_of_an_architecture_is_translated_or_refused() -> None:
    # A field that is added there must be translated, or refused, and then named here:
    # ignored, it would make two different networks look like one.
    assert {field.name for field in dataclasses.fields(Architecture)} == {
        "activation",
        "activation_scale",
        "b_std",
        "depth",
        *("filter_shape", "head", "padding", "pixel_scaling", "pool_after", "strides"),
        "input_scaling",
        "kind",
        "normalization",
        "num_heads",  # refused, with its kind
        "num_outputs",  # each output has the same kernel
        "output_scale",
        "parameterization",
        "patch_size",  # refused, with its kind
        "pooling",  # refused if there is no limit
        "readout",  # so has either distribution
        "recurrent_std",  # refused, with its kind
        "residual_scale",
        "symmetrized",  # refused
        "trained",
        "w_std",
        "width_factors",
    }


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "vit"},
        {"kind": "block_resnet", "depth": 3},
        {"kind": "cnn", "pooling": "max", "pool_after": (1,)},
    ],
)
def test_networks_without_a_limit_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"`architecture(\.kind)?`"):
        compare(Architecture(**fields), IMAGES[0])


@pytest.mark.slow
def test_where_elu_differs_theirs_is_the_one_that_is_off() -> None:
    spec = Architecture(activation="elu", depth=2, w_std=1.3)
    result = compared(spec)
    assert_close(result.ntk_difference, relative_error(result.ntk, result.their_ntk))
    assert_close(result.nngp_difference, relative_error(result.nngp, result.their_nngp))
    # In polar coordinates, split at the kinks: good to 1e-12.
    x1, x2 = map(jnp.asarray, VECTORS)
    _, truth = oracle_kernels(spec, x1, x2, None)
    own, theirs = (relative_error(k, truth) for k in (result.ntk, result.their_ntk))
    assert own < 1e-4
    # Their quadrature loses a term of the order of one over its degree.
    assert max(1e-3, 50 * own) < theirs < 1e-2


def test_named_functions_are_taken_for_their_names_and_others_integrated() -> None:
    named = compare_of(activation=jax.nn.relu)
    assert_agree(named)
    other = compare_of(activation=lambda u: jnp.tanh(u))
    assert_agree(other)


def test_features_are_flattened_and_float32_is_kept() -> None:
    x = np.random.default_rng(0).normal(size=(3, 2, 2, 1)).astype(np.float32)
    architecture = Architecture(depth=2, b_std=0.1)
    result = compare(architecture, x)
    assert result.their_ntk.dtype == jnp.float32
    assert_close(result.their_ntk, infinite_ntk(architecture, x), 1e-3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"symmetrized": True}, "`architecture` must not be symmetrized"),
        ({"kind": "rnn"}, "`architecture.kind` must be one of .* got 'rnn'"),
        ({"kind": "resnet"}, "`architecture.activation` must be odd .* got 'relu'"),
        ({"kind": "conv_resnet", "activation": "cos"}, "must be odd .* got 'cos'"),
    ],
)
def test_network_that_neural_tangents_lacks_is_refused(
    fields: dict[str, Any], message: str, own_errors: None
) -> None:
    with pytest.raises(ValueError, match=message):
        compared(Architecture(**fields))


def test_misuse_is_refused_as_by_the_kernels_themselves(own_errors: None) -> None:
    x: Any = VECTORS[0].astype(np.float32)
    with pytest.raises(TypeError, match="`architecture` must be an Architecture"):
        compare("relu", x)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="`width` must be given"):
        compare(Architecture(parameterization="standard"), x)
    with pytest.raises(ValueError, match="`x1` must be finite"):
        compare(Architecture(), x * np.nan)
