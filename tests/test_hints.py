"""What is reached for first, and what the message then says to do."""

import types
from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import lazyjax
from lazyjax._brief import brief
from lazyjax._models import model_hint
from lazyjax.dynamics.losses import cross_entropy_loss, logistic_loss, scaled

pytestmark = [pytest.mark.once, pytest.mark.usefixtures("own_errors")]

NET = lazyjax.nets.mlp(width=8, depth=1, num_outputs=3)
X = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
PARAMS = NET.init(jax.random.key(0), X)
LABELS = np.array([0, 2, 1, 1, 0])
ROWS = np.eye(3, dtype=np.float32)[LABELS]


def trained(y, *, apply_fn=NET.apply, params=PARAMS, x=X, **options):
    options = {"loss_fn": cross_entropy_loss, "num_steps": 3} | options
    optimizer = options.pop("optimizer", optax.sgd(0.1))
    return lazyjax.train(apply_fn, params, x, y, optimizer=optimizer, **options)


def ntk(apply_fn: Any = NET.apply, params: Any = PARAMS, x: Any = X) -> jax.Array:
    return lazyjax.empirical_ntk(apply_fn, params, x)


# Labels of classes --------------------------------------------------------------------


@pytest.mark.parametrize("loss_fn", [cross_entropy_loss, scaled(cross_entropy_loss, 3)])
def test_labels_are_one_hot_rows_to_losses_of_classes(loss_fn):
    expected = trained(ROWS, loss_fn=loss_fn).loss
    for labels in (LABELS, jnp.asarray(LABELS), LABELS.astype(np.uint8)):
        np.testing.assert_array_equal(trained(labels, loss_fn=loss_fn).loss, expected)
    assert not np.array_equal(
        trained(2 - LABELS, loss_fn=loss_fn).loss, expected
    )  # they matter


def test_labels_are_taken_by_flow_and_sweep_too():
    flow = lambda y: lazyjax.gradient_flow(
        NET.apply, PARAMS, X, y, [0.0, 0.1], loss_fn=cross_entropy_loss
    )
    np.testing.assert_array_equal(flow(LABELS).loss, flow(ROWS).loss)
    sweep = lambda y: lazyjax.sweep(
        NET,
        X,
        y,
        widths=[4],
        num_seeds=1,
        key=jax.random.key(0),
        learning_rates=[0.1],
        num_steps=2,
        loss_fn=cross_entropy_loss,
    )
    np.testing.assert_array_equal(sweep(LABELS).loss, sweep(ROWS).loss)


def test_labels_out_of_range_are_refused_or_not_a_number():
    for bad in (LABELS + 1, LABELS - 1):
        with pytest.raises(
            ValueError, match=r"class labels from 0 to 2.*got (1|-1) to"
        ):
            trained(bad)
        assert np.isnan(jax.jit(cross_entropy_loss)(jnp.zeros((5, 3)), bad))
    assert np.isfinite(jax.jit(cross_entropy_loss)(jnp.zeros((5, 3)), LABELS))


def test_labels_are_refused_by_other_losses_with_both_ways_out():
    message = r"class labels\. Make them one-hot, `jax\.nn\.one_hot\(y, 3\)`; or .*"
    with pytest.raises(ValueError, match=message + "cross_entropy_loss`, which takes"):
        trained(LABELS, loss_fn=lazyjax.dynamics.square_loss)
    hint = r"one-hot: `jax\.nn\.one_hot\(y\[:, 0\], 3\)`"
    with pytest.raises(ValueError, match=hint):
        trained(LABELS[:, None])
    with pytest.raises(
        TypeError, match=r"`y` must be an array; got list.*jnp\.asarray"
    ):
        trained(LABELS.tolist())


def test_one_class_has_no_cross_entropy():
    with pytest.raises(ValueError, match=r"two or more classes.*`logistic_loss`"):
        cross_entropy_loss(jnp.zeros((5, 1)), jnp.ones((5, 1)))


def test_targets_of_another_shape_are_told_how_to_fit():
    with pytest.raises(ValueError, match=r"got \(3, 5\)\. Transpose it: `y\.T`"):
        trained(ROWS.T)
    one = lambda params, x: NET.apply(params, x)[:, :1]
    with pytest.raises(ValueError, match=r"Add an axis: `y\[:, None\]`"):
        trained(ROWS[:, 0], apply_fn=one, loss_fn=logistic_loss)
    with pytest.raises(ValueError, match=r"`y` must have shape \(5, 3\).*got \(4, 3\)"):
        trained(ROWS[:4])


# Models of other libraries ------------------------------------------------------------

LINEN = nn.Dense(3)
EQUINOX = eqx.nn.MLP(4, 3, 8, 1, key=jax.random.key(0))
NNX = nnx.Linear(4, 3, rngs=nnx.Rngs(0))


def from_module(module, name):
    """A class as another library would have it."""
    return type(name, (), {"__module__": module})


@pytest.mark.parametrize(
    ("model", "hint"),
    [
        (LINEN, r"a Flax Linen module: pass `apply_fn, params = .*flax\.from_linen\("),
        (nn.Dense, r"the class of a Flax Linen module: pass .*from_linen"),
        (NNX, r"a Flax NNX module: pass `.*flax\.from_nnx\(model\)`"),
        (EQUINOX, r"an Equinox module: pass `.*equinox\.from_equinox\(model\)`"),
        (NET, r"a network of lazyjax: pass its forward pass, `network\.apply`"),
    ],
)
@pytest.mark.parametrize(
    "verb", [ntk, lambda apply_fn: trained(ROWS, apply_fn=apply_fn)]
)
def test_models_are_met_with_the_adapter_they_need(verb, model, hint):
    with pytest.raises(TypeError, match=f"`apply_fn` must be callable.*It is {hint}"):
        verb(model)


@pytest.mark.parametrize(
    ("module", "name", "hint"),
    [
        ("torch.nn.modules.module", "Module", " It is a PyTorch module, which JAX"),
        ("haiku._src.transform", "Transformed", " It is a transformed Haiku function"),
        ("haiku._src.transform", "TransformedWithState", " It is a transformed Haiku"),
        ("torchvision", "Module", ""),
        ("haikus", "Transformed", ""),
        ("builtins", "Module", ""),
    ],
)
def test_models_of_libraries_that_are_not_installed_are_known_by_name(
    module, name, hint
):
    model = from_module(module, name)()
    assert model_hint(model)[: len(hint) or None] == hint
    derived = type("Mine", (type(model),), {})()
    assert model_hint(derived) == model_hint(model)


def test_an_equinox_module_that_is_a_function_of_both_is_one():
    class Scaled(eqx.Module):
        scale: float

        def __call__(self, params, x):
            return self.scale * NET.apply(params, x)

    np.testing.assert_allclose(ntk(Scaled(2.0)), 4 * ntk(), rtol=1e-5)


def test_models_in_place_of_parameters_are_met_with_the_adapter():
    call = lambda model, x: jax.vmap(model)(x)
    with pytest.raises(TypeError, match=r"`params\.activation`.*from_equinox\(model\)"):
        ntk(call, EQUINOX)


# Parameters and inputs ----------------------------------------------------------------


def test_complex_parameters_of_what_is_trained_are_to_be_split():
    weights = {"w": jnp.ones((4, 3), complex)}
    x, y = jnp.ones((5, 4)), jnp.ones((5, 3))
    train = lambda apply_fn, params: lazyjax.train(
        apply_fn, params, x, y, optimizer=optax.sgd(0.1), num_steps=1
    )
    message = r"`params\['w'\]` must be a real .*got dtype complex.*real and imaginary"
    with pytest.raises(TypeError, match=message):
        train(lambda p, x: (x @ p["w"]).real, weights)
    parts = {"real": jnp.ones((4, 3)), "imag": jnp.zeros((4, 3))}
    weights_of = lambda p: jax.lax.complex(p["real"], p["imag"])
    as_told = lambda p, x: (x.astype(complex) @ weights_of(p)).real
    assert train(as_told, parts).loss.shape == (2,)


def test_integers_and_numbers_among_parameters_are_told_apart():
    with pytest.raises(TypeError, match=r"got dtype int32. Close over what is not"):
        ntk(params={"w": jnp.ones(3), "seed": np.arange(2, dtype=np.int32)})
    with pytest.raises(TypeError, match=r"got a float. Make it an array"):
        ntk(params={"w": 1.0})


def test_arguments_in_another_order_are_suspected():
    with pytest.raises(TypeError) as error:
        ntk(PARAMS, NET.apply)
    assert str(error.value) == (
        "`apply_fn` must be callable, a function `(params, x) -> f`; got {'layer_1': "
        "{'kernel': float32[4,8]}, 'layer_2': {'kernel': float32[8,3]}}. Are `apply_fn` "
        "and `params` swapped?"
    )
    with pytest.raises(
        ValueError, match=r"these are parameters, arguments are swapped"
    ):
        ntk(params=X, x=PARAMS)
    with pytest.raises(TypeError, match=r"`apply_fn` must be callable.*got 'relu'"):
        ntk("relu")


def test_outputs_of_tokens_are_to_be_flattened_in_training():
    tokens = lambda params, x: x[:, :, None] * params[None, None]
    x = jnp.ones((5, 4))
    train = lambda apply_fn, y: lazyjax.train(
        apply_fn, jnp.ones(3), x, y, optimizer=optax.sgd(0.1), num_steps=1
    )
    with pytest.raises(ValueError, match=r"got \(5, 4, 3\).*Flatten.*reshape\(f\.shap"):
        train(tokens, jnp.ones((5, 4, 3)))
    for as_told in (lambda f: f.reshape(f.shape[0], -1), lambda f: f[:, -1]):
        y = as_told(jnp.ones((5, 4, 3)))
        told = lambda p, x, g=as_told: g(tokens(p, x))
        assert train(told, y).loss.shape == (2,)


def test_one_example_lacks_its_axis():
    dense = lambda w, x: x @ w
    with pytest.raises(ValueError, match=r"4 examples without features.*`x\[None\]`"):
        ntk(dense, jnp.ones((4, 3)), X[0])
    with pytest.raises(ValueError, match=r"got shape \(4,\)\. For one example: `x\[No"):
        ntk(x=X[0])


def test_parameters_of_another_network_are_told_by_their_shapes():
    with pytest.raises(
        ValueError, match=r"`params` must be those.*`params\['params'\]`"
    ):
        ntk(params={"params": PARAMS})
    with pytest.raises(
        ValueError, match=r"with layers 'layer_1' and so on; got {'w': f"
    ):
        ntk(params={"w": jnp.ones(3)})


def test_data_frames_and_text_in_place_of_arrays():
    frame = types.SimpleNamespace(to_numpy=None)
    with pytest.raises(TypeError, match=r"got SimpleNamespace.*`x1\.to_numpy\(\)`"):
        ntk(x=frame)
    with pytest.raises(TypeError, match=r"`x1` must be an array; got NoneType\.$"):
        ntk(x=None)
    with pytest.raises(TypeError, match=r"`x1` must hold numbers; got dtype object"):
        ntk(x=np.array([None] * 3))
    with pytest.raises(TypeError, match=r"`x1` must hold numbers; got dtype key"):
        ntk(x=jax.random.split(jax.random.key(0)))


# Numbers and keys ---------------------------------------------------------------------


def test_integers_of_numpy_are_integers():
    run = trained(LABELS, num_steps=np.int64(3))
    np.testing.assert_array_equal(run.loss, trained(LABELS).loss)
    kernel = lazyjax.empirical_ntk(NET.apply, PARAMS, X, outputs=np.int32(1))  # pyright: ignore[reportArgumentType]
    one = lazyjax.empirical_ntk(NET.apply, PARAMS, X, outputs=1)
    np.testing.assert_array_equal(kernel, one)
    with pytest.raises(TypeError, match=r"got 1000\.0\. Write `int\(1000\.0\)`"):
        trained(LABELS, num_steps=1e3)
    with pytest.raises(
        ValueError, match=r"at most 2147483647; got an integer of about"
    ):
        trained(LABELS, num_steps=10**400)


def test_keys_of_either_style_give_the_same():
    old, new = jax.random.PRNGKey(7), jax.random.key(7)
    runs = [trained(LABELS, batch_size=2, key=key) for key in (old, new)]
    np.testing.assert_array_equal(runs[0].loss, runs[1].loss)
    kernels = [
        lazyjax.monte_carlo_ntk(NET.apply, NET.init, X, key=key, num_seeds=2).mean
        for key in (old, new)
    ]
    np.testing.assert_array_equal(kernels[0], kernels[1])


@pytest.mark.parametrize("key", [0, None, "seed", np.zeros(2), jax.random.PRNGKey])
def test_what_is_no_key_is_told_how_to_make_one(key):
    message = r"`key` must be a random key; got .*`jax\.random\.key\(0\)`"
    with pytest.raises(TypeError, match=message):
        NET.init(key, X)
    with pytest.raises(TypeError, match=message):
        lazyjax.monte_carlo_ntk(NET.apply, NET.init, X, key=key, num_seeds=2)


def test_several_keys_are_not_one():
    for keys in (jax.random.split(jax.random.key(0)), jnp.zeros((3, 2), jnp.uint32)):
        with pytest.raises(ValueError, match=r"`key` must be one random key"):
            NET.init(keys, X)


def test_options_are_told_apart_from_what_they_are_not():
    with pytest.raises(
        TypeError, match=r"`check_rows` must be True or False; got 'no'"
    ):
        lazyjax.empirical_ntk(NET.apply, PARAMS, X, check_rows="no")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"`precision` must be 'highest'.*got 'exact'"):
        lazyjax.empirical_ntk(NET.apply, PARAMS, X, precision="exact")
    with pytest.raises(TypeError, match=r"`filter` must be a function of a .*got 'ker"):
        lazyjax.empirical_ntk(NET.apply, PARAMS, X, filter="kernel")  # pyright: ignore[reportArgumentType]
    with pytest.raises(
        TypeError, match=r"`solver` must be a solver of diffrax.*got 'e"
    ):
        lazyjax.gradient_flow(NET.apply, PARAMS, X, ROWS, [1.0], solver="euler")
    with pytest.raises(TypeError, match=r"`optax\.sgd\(0\.1\)`; got 0\.1"):
        trained(LABELS, optimizer=0.1)
    with pytest.raises(ValueError, match=r"`target_loss` must be a number"):
        trained(LABELS, target_loss=float("nan"))


def test_one_observer_and_losses_of_each_example_are_told_what_is_missing():
    with pytest.raises(TypeError, match=r"got <function ntk>\. Put it in a list\."):
        trained(LABELS, observe=lazyjax.dynamics.observers.ntk)
    each = lambda f, y: jnp.sum((f - y) ** 2, axis=1)
    with pytest.raises(
        TypeError, match=r"scalar; got float32\[5\]\. Sum it over examp"
    ):
        trained(ROWS, loss_fn=each)


# Values in a few words ----------------------------------------------------------------


def test_values_are_shown_by_shape_and_cut_short():
    assert brief({"w": jnp.ones((2, 3)), "n": 3}) == "{'w': float32[2,3], 'n': 3}"
    assert brief(np.float32(0.5)) == "np.float32(0.5)"
    assert brief(jnp.array(2.5)) == "2.5"
    assert brief(10**400) == "an integer of about 10^400"
    assert brief(NNX) == "<Linear>"
    assert brief("x" * 500).startswith("'xxx")
    for large in ([[[1.0] * 50] * 50] * 50, {"a" * 100: {"b" * 100: "c" * 100}}):
        assert len(brief(large)) <= 160
        assert "\n" not in brief(large)
    jax.jit(lambda x: brief(x) == "float32[3]" or pytest.fail(brief(x)))(jnp.ones(3))
