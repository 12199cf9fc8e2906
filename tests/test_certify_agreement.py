"""What is certified is what `network.apply` computes; nothing else is."""

import dataclasses
import itertools
from typing import Any

import flax.core
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lazyjax import certify
from lazyjax.architecture import Architecture
from lazyjax.certify import Verdict
from lazyjax.certify.arithmetic.activations import SMOOTH_ACTIVATIONS
from lazyjax.certify.bounds import layers as dense_layers
from lazyjax.nets import Network, mlp
from lazyjax.nets.build import build
from tests.helpers.compare import assert_close

WIDTH = 6
RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((3, 4)), RNG.standard_normal((3, 1))

# Values of each field, of which none is the default.
VALUES: dict[str, tuple] = {
    "depth": (0, 2, 3),
    "activation": tuple(sorted({*SMOOTH_ACTIVATIONS} - {"tanh"})),
    "w_std": (0.3, 2.0),
    "b_std": (0.2, 3.0),
    "parameterization": ("standard", "mup"),
    "num_outputs": (3,),
    "trained": ("first", "last", "last_hidden", (1,), (2, 1), ()),
    "input_scaling": ("none",),
    "readout": ("sign",),
    "symmetrized": (True,),
    "activation_scale": ("unit",),
    "output_scale": (1e-3, 0.3, 1e3),
    "kind": ("resnet", "cnn", "conv_resnet", "rnn", "block_resnet", "vit"),
    "normalization": ("layer",),
    "residual_scale": (0.7,),
    "recurrent_std": (2.0,),
    "width_factors": ((2,),),
    "filter_shape": ((5, 5),),
    "strides": ((2,),),
    "padding": ("VALID", "CIRCULAR"),
    "pool_after": ((1,),),
    "pooling": ("max",),
    "head": ("average",),
    "pixel_scaling": ("none",),
    "patch_size": (2,),
    "num_heads": (2,),
}
BASE = Architecture(activation="tanh")


def undeclared(described: type) -> set[str]:
    """Fields that are neither handled nor refused, or that have no values here."""
    names = {field.name for field in dataclasses.fields(described)}
    declared = dense_layers.HANDLED | set(dense_layers.REFUSED)
    return (names ^ declared) | (names ^ set(VALUES))


def test_every_field_is_handled_or_refused():
    assert undeclared(Architecture) == set()
    assert not dense_layers.HANDLED & set(dense_layers.REFUSED)
    for name, values in VALUES.items():
        assert getattr(BASE, name) not in values
    # A field that is added later has to be declared.
    later = dataclasses.make_dataclass(
        "Later", [("new", int, 0)], bases=(Architecture,), frozen=True, kw_only=True
    )
    assert undeclared(later) == {"new"}


def start(network: Network) -> Any:
    """Parameters of the network for `X`; the copies of a symmetrized one differ."""
    rng, spec = np.random.default_rng(0), network.architecture
    sizes = [X.shape[1], *[network.width] * spec.depth, spec.num_outputs]

    def layer(shape: tuple[int, int]) -> dict:
        size = 1 / np.sqrt(shape[0]) if spec.parameterization == "standard" else 1.0
        arrays = {"kernel": size * rng.standard_normal(shape)}
        return arrays | ({"bias": rng.standard_normal(shape[1])} if spec.b_std else {})

    def copy() -> dict:
        shapes = itertools.pairwise(sizes)
        return {f"layer_{i}": layer(shape) for i, shape in enumerate(shapes, 1)}

    return {"minus": copy(), "plus": copy()} if spec.symmetrized else copy()


def jacobian(network: Network, params: Any) -> tuple[np.ndarray, np.ndarray]:
    """Outputs and Jacobian of what users run, in float64."""
    with jax.enable_x64(True):
        exact = jax.tree.map(jnp.asarray, params)
        f = network.apply(exact, jnp.asarray(X))
        parts = jax.jacrev(network.apply)(exact, jnp.asarray(X))
        rows = [np.asarray(v).reshape(f.size, -1) for v in jax.tree.leaves(parts)]
    return np.asarray(f), np.concatenate(rows, axis=1)


@pytest.mark.parametrize(
    ("name", "value"),
    [(n, v) for n in sorted(dense_layers.HANDLED) for v in VALUES[n]],
    ids=str,
)
def test_bounds_of_every_value_are_those_of_the_network(name, value):
    network = build(dataclasses.replace(BASE, **{name: value}), width=WIDTH)
    params = start(network)
    y = np.ones((3, network.architecture.num_outputs))
    f, rows = jacobian(network, params)
    bounds = certify.local_bounds(network, params, X, y)
    assert_close(bounds.residual.high, np.linalg.norm(f - y), 1e-12)
    assert bounds.residual.low <= np.linalg.norm(f - y) * (1 + 1e-14)
    singular = np.linalg.svd(rows, compute_uv=False)
    assert bounds.jacobian_norm == pytest.approx(singular[0], rel=1e-10, abs=1e-100)
    least = singular[-1] if singular[-1] > 1e-6 * singular[0] else 0.0
    assert bounds.blocks[0].sigma_min == pytest.approx(least, rel=1e-8)


def forced(name: str, value: Any) -> Architecture:
    """A description that its own checks might not allow."""
    described = dataclasses.replace(BASE)
    object.__setattr__(described, name, value)
    return described


@pytest.mark.once
@pytest.mark.parametrize(
    ("name", "value"),
    [(n, v) for n in dense_layers.REFUSED for v in VALUES[n]],
    ids=str,
)
def test_every_other_value_is_refused(name, value):
    network = build(BASE, width=WIDTH)
    params = start(network)
    network = dataclasses.replace(network, architecture=forced(name, value))
    with pytest.raises(ValueError, match=f"`network` must have {name} = "):
        certify.local_bounds(network, params, X, Y)


@pytest.mark.once
def test_a_field_that_is_not_declared_is_refused_at_all_values_but_its_default():
    network = build(BASE, width=WIDTH)
    params = start(network)
    later: Any = dataclasses.make_dataclass(
        "Later", [("new", int, 0)], bases=(Architecture,), frozen=True, kw_only=True
    )
    for value in (0, 1):
        described = later(activation="tanh", new=value)
        changed = dataclasses.replace(network, architecture=described)
        if value == 0:
            dense_layers.layers_of(changed, params)
        else:
            with pytest.raises(ValueError, match="must have new = 0"):
                dense_layers.layers_of(changed, params)


# Networks whose forward pass is not that of their description.

NETWORK = mlp(width=WIDTH, activation="tanh", trained="first", symmetrized=True)
PARAMS = start(NETWORK)
OUTPUTS = NETWORK.apply


def cast(params: Any, x: Any) -> Any:
    lowered = jax.tree.map(lambda v: v.astype(jnp.float32), (params, x))
    return OUTPUTS(*lowered)


def linearized(params: Any, x: Any) -> Any:
    centre = jax.tree.map(jnp.asarray, PARAMS)
    move = jax.tree.map(jnp.subtract, params, centre)
    f, change = jax.jvp(lambda p: OUTPUTS(p, x), (centre,), (move,))
    return f + change


DIFFERENT = {
    "scaled": lambda p, x: 10 * OUTPUTS(p, x),
    "scaled by a hair": lambda p, x: (1 + 1e-9) * OUTPUTS(p, x),
    "shifted": lambda p, x: OUTPUTS(p, x) + 1e-6,
    "squashed": lambda p, x: jnp.tanh(OUTPUTS(p, x)),
    "other rows": lambda p, x: OUTPUTS(p, x[::-1]),
    "other copies": lambda p, x: OUTPUTS({"plus": p["minus"], "minus": p["plus"]}, x),
    "not trained": lambda p, x: jax.lax.stop_gradient(OUTPUTS(p, x)),
    "all trained": mlp(width=WIDTH, activation="tanh", symmetrized=True).apply,
    "linearized": linearized,
    "scaled, in float32": lambda p, x: 1.01 * cast(p, x),
    "NaN": lambda p, x: OUTPUTS(p, x) * jnp.nan,
    "one column": lambda p, x: OUTPUTS(p, x)[:, 0],
    "a pair": lambda p, x: (OUTPUTS(p, x), x),
}
EQUAL = {
    "compiled": jax.jit(OUTPUTS),
    "wrapped": lambda p, x: OUTPUTS(p, x),
    "float32": cast,
    "reordered": lambda p, x: -(0.0 - OUTPUTS(p, x)),
}


def with_apply(apply_fn: Any) -> Network:
    return dataclasses.replace(NETWORK, apply=apply_fn)


@pytest.mark.parametrize("name", DIFFERENT)
def test_a_network_that_computes_something_else_is_refused(name):
    with pytest.raises(ValueError, match=r"`network.apply` must"):
        certify.gradient_flow(with_apply(DIFFERENT[name]), PARAMS, X, Y)


@pytest.mark.parametrize("name", EQUAL)
def test_a_network_that_computes_the_same_is_certified_alike(name):
    own: Any = certify.gradient_flow(NETWORK, PARAMS, X, Y)
    found = certify.gradient_flow(with_apply(EQUAL[name]), PARAMS, X, Y)
    assert found.to_json() == own.to_json()  # in which a NaN is equal to itself


def test_the_message_says_what_is_off_and_by_how_much():
    with pytest.raises(
        ValueError, match=r"its outputs are off by 1\.73e-06, where rounding explains "
    ):
        certify.existence(with_apply(DIFFERENT["shifted"]), PARAMS, X, Y)
    with pytest.raises(
        ValueError, match=r"derivatives in `params\['plus'\]\['layer_1'\]\['kernel'\]`"
    ):
        certify.existence(with_apply(DIFFERENT["not trained"]), PARAMS, X, Y)
    with pytest.raises(
        ValueError, match=r"\['layer_2'\].*which is not trained, are off"
    ):
        certify.existence(with_apply(DIFFERENT["all trained"]), PARAMS, X, Y)


def on_others(params: Any, x: Any) -> Any:
    """Another network away from the training inputs."""
    return OUTPUTS(params, x) * jnp.where(jnp.all(jnp.abs(x) < 90), 1.0, 2.0)


VERBS: dict[str, Any] = {
    "existence": certify.existence,
    "gradient_flow": certify.gradient_flow,
    "gradient_descent": certify.gradient_descent,
    "lazy_gap": lambda n, p, x, y: certify.lazy_gap(n, p, x, y, X),
    "logistic_flow": lambda n, p, x, y: certify.logistic_flow(
        n, p, x, np.sign(y), target_loss=0.1
    ),
    "warm_start": lambda *a: certify.warm_start(*a, num_steps=2),
    "local_bounds": certify.local_bounds,
    "compare": certify.compare,
}


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_compares(name):
    with pytest.raises(ValueError, match=r"`network.apply` must compute"):
        VERBS[name](with_apply(DIFFERENT["scaled"]), PARAMS, X, Y)


def test_the_gap_on_other_inputs_is_of_what_is_computed_there():
    network = with_apply(on_others)
    certify.lazy_gap(network, PARAMS, X, Y, X)
    with pytest.raises(ValueError, match=r"`network.apply` must compute"):
        certify.lazy_gap(network, PARAMS, X, Y, 100 * X)


@pytest.mark.usefixtures("own_errors")
@pytest.mark.once
def test_other_inputs_are_checked():
    for wrong, message in (
        (X * np.nan, "`x_test` must be finite"),
        (X[:, :2], "`x_test` must have 4 features"),
    ):
        with pytest.raises(ValueError, match=message):
            certify.lazy_gap(NETWORK, PARAMS, X, Y, wrong)


def test_a_network_that_changed_after_the_first_call_is_compared_anew():
    factor = [1.0]
    network = with_apply(lambda p, x: factor[0] * OUTPUTS(p, x))
    certify.gradient_flow(network, PARAMS, X, Y)
    factor[0] = 2.0
    with pytest.raises(ValueError, match=r"`network.apply` must compute"):
        certify.gradient_flow(network, PARAMS, X, Y)


def test_relu_networks_are_compared_too():
    relu = mlp(width=WIDTH, activation="relu", trained="first")
    params = start(relu)
    certify.gradient_flow(relu, params, X, Y)
    # Where all units are at their kinks as well.
    zeros = jax.tree.map(np.zeros_like, params)
    for activation in ("relu", "leaky_relu", "abs"):
        network = mlp(width=WIDTH, activation=activation, trained="first")
        certify.gradient_flow(network, zeros, X, Y)
    leaky = dataclasses.replace(
        relu, apply=mlp(width=WIDTH, activation="leaky_relu", trained="first").apply
    )
    for point in (params, zeros):
        with pytest.raises(ValueError, match=r"`network.apply` must compute"):
            certify.gradient_flow(leaky, point, X, Y)


@pytest.mark.parametrize(
    "changes",
    [{"w_std": 2.0}, {"trained": "all"}, {"output_scale": 1.1}, {"activation": "erf"}],
)
def test_a_description_that_is_not_that_of_the_network_is_refused(changes):
    described = dataclasses.replace(NETWORK.architecture, **changes)
    network = dataclasses.replace(NETWORK, architecture=described)
    with pytest.raises(ValueError, match=r"`network.apply` must compute"):
        certify.gradient_flow(network, PARAMS, X, Y)


# Parameters that are not those of the network.


def without(tree: dict, *path: str) -> dict:
    name, *rest = path
    if not rest:
        return {key: value for key, value in tree.items() if key != name}
    return tree | {name: without(tree[name], *rest)}


@pytest.mark.once
@pytest.mark.usefixtures("own_errors")
@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        (
            start(mlp(width=8, activation="tanh", symmetrized=True)),
            ValueError,
            r"\['layer_1'\]\['kernel'\]` must have shape \(features, 6\).*width 6.*"
            r"got \(4, 8\)",
        ),
        (
            start(mlp(width=WIDTH, num_outputs=2, symmetrized=True)),
            ValueError,
            r"\['layer_2'\]\['kernel'\]` must have shape \(6, 1\).*got \(6, 2\)",
        ),
        (PARAMS["plus"], ValueError, "`params` must be those .*'minus', 'plus'"),
        (without(PARAMS, "minus"), ValueError, "`params` must be those"),
        (without(PARAMS, "plus", "layer_2"), ValueError, r"`params\['plus'\]` must be"),
        (
            start(mlp(width=WIDTH, b_std=1.0, symmetrized=True)),
            ValueError,
            r"\['layer_1'\]` must be those .*'kernel'; got \['bias', 'kernel'\]",
        ),
        (
            start(mlp(width=WIDTH, depth=2, symmetrized=True)),
            ValueError,
            "got .*'layer_3'",
        ),
        ([PARAMS], ValueError, "`params` must be those .*got list"),
        (
            jax.tree.map(lambda v: v.astype(int), PARAMS),
            TypeError,
            r"must be a real floating-point array; got dtype int64",
        ),
        (jax.tree.map(lambda v: v[None], PARAMS), ValueError, r"must have shape"),
        (jax.tree.map(lambda v: v * np.inf, PARAMS), ValueError, "must be finite"),
    ],
)
def test_parameters_of_another_network_are_refused(params, error, message):
    for verb in (certify.existence, certify.gradient_flow):
        with pytest.raises(error, match=message):
            verb(NETWORK, params, X, Y)


def test_parameters_may_be_of_any_floating_type_and_mapping():
    lowered = jax.tree.map(lambda v: jnp.asarray(v, jnp.bfloat16), PARAMS)
    exact = jax.tree.map(lambda v: np.asarray(v, np.float64), lowered)
    own = certify.gradient_flow(NETWORK, exact, X, Y)
    for same in (
        lowered,
        jax.tree.map(lambda v: np.asarray(v, np.float32), lowered),
        flax.core.freeze(lowered),
    ):
        found = certify.gradient_flow(NETWORK, same, X, Y)
        assert found.to_json() == own.to_json()


# What was certified, and false, before outputs were compared.


@pytest.fixture(scope="module")
def amplified():
    x = np.random.default_rng(1).standard_normal((4, 32))
    x, y = x / np.linalg.norm(x, axis=1, keepdims=True), np.array([[1.0], [-1]] * 2)
    network = mlp(
        width=64,
        activation="softplus",
        trained="first",
        symmetrized=True,
        output_scale=10.0,
    )
    with jax.enable_x64(True):
        params = network.init(jax.random.key(1), jnp.asarray(x))
    return network, jax.tree.map(np.asarray, params), x, y


def losses(network, params, x, y, learning_rate, num_steps=60):
    with jax.enable_x64(True):
        x, y = jnp.asarray(x), jnp.asarray(y)

        def loss_at(params):
            return jnp.sum((network.apply(params, x) - y) ** 2) / 2

        def step(params, _):
            loss, gradient = jax.value_and_grad(loss_at)(params)
            move = lambda w, g: w - learning_rate * g
            return jax.tree.map(move, params, gradient), loss

        run = jax.jit(lambda p: jax.lax.scan(step, p, None, length=num_steps)[1])
        return np.asarray(run(jax.tree.map(jnp.asarray, params)))


def test_scaled_outputs_are_certified_at_rates_that_converge_only(amplified):
    network, params, x, y = amplified
    data: Any = params, x, y
    certificate: Any = certify.gradient_descent(network, *data)
    assert certificate.is_certified
    loss = losses(network, params, x, y, certificate.step_size)
    assert np.all(
        loss <= loss[0] * (1 - certificate.rate) ** np.arange(60) * (1 + 1e-9)
    )
    # What is right for a scale of 1 is a hundred times too large.
    wrong = 30 * certificate.step_size
    assert not certify.gradient_descent(
        network, *data, learning_rate=wrong
    ).is_certified
    assert np.max(losses(network, params, x, y, wrong)) > 10 * loss[0]


def test_warm_starts_of_scaled_outputs_have_the_residual_that_they_claim(amplified):
    network, params, x, y = amplified
    trained = certify.warm_start(network, params, x, y, until="converged")
    with jax.enable_x64(True):
        exact = jax.tree.map(jnp.asarray, trained.params)
        f = np.asarray(network.apply(exact, jnp.asarray(x)))
    assert trained.certificate.is_certified
    assert np.linalg.norm(f - y) <= trained.certificate["residual"] + 1e-13
    assert np.linalg.norm(f - y) <= 1e-12


def test_zero_loss_that_is_near_is_not_refuted():
    """f = 10 w / sqrt(2) at the unit vectors: ones are at a distance of 0.2 from 0."""
    network = mlp(width=1, depth=0, output_scale=10.0)
    params = {"layer_1": {"kernel": np.zeros((2, 1))}}
    for radius, verdict in ((0.201, Verdict.CERTIFIED), (0.199, Verdict.REFUTED)):
        found = certify.existence(
            network, params, np.eye(2), np.ones((2, 1)), radius=radius
        )
        assert found.verdict is verdict


# Plain floating-point values.


@pytest.mark.once
@pytest.mark.parametrize("scale", [1e-150, 1e-140, 1e-20, 1.0, 1e20, 1e140, 1e150])
@pytest.mark.parametrize("rigor", ["float", "proof"])
@pytest.mark.sampled(4)
def test_more_examples_than_features_are_never_certified(scale, rigor):
    network = mlp(width=1, depth=0)
    params = {"layer_1": {"kernel": np.zeros((2, 1))}}
    for seed in range(3):
        rng = np.random.default_rng(seed)
        x, y = scale * rng.standard_normal((3, 2)), scale * rng.standard_normal((3, 1))
        x[2] = x[0] if seed == 2 else x[2]
        for verb in (
            certify.gradient_flow,
            certify.gradient_descent,
            certify.existence,
        ):
            assert not verb(network, params, x, y, rigor=rigor).is_certified
    x, y = scale * X[:2, :2], scale * Y[:2]
    # Two examples are few enough, but proofs leave room for underflow.
    full = certify.gradient_flow(network, params, x, y, rigor=rigor)
    assert full.is_certified == (scale > 1e-100 or rigor == "float")
