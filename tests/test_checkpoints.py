"""Checkpoints are of one run: another one is refused with what differs, never returned."""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lazyjax
from lazyjax.dynamics import observers, square_loss, train
from lazyjax.dynamics.training import (
    checkpoint as _checkpoint,
    fingerprint as _fingerprint,
    segments as _segments,
)
from lazyjax.sweeps import run as sweep_run
from tests.helpers import two_layer
from tests.helpers.compare import assert_close
from tests.helpers.derivatives import identity_with_derivative

pytestmark = pytest.mark.once

ROOT = Path(__file__).parent.parent
PARAMS, X, Y = two_layer.problem(np.float32)
ONCE, TWICE = (identity_with_derivative(factor) for factor in (1.0, 2.0))
SHIFT = np.zeros(X.shape[1], np.float32)


@pytest.fixture(autouse=True)
def dtype_promotion():
    """As optax needs it, which raises floats to integers."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def shifted(shift):
    """A network that captures an array."""
    return lambda params, x: two_layer.apply(params, x + shift[None])


def kept_run(path, **changes):
    problem = {"apply_fn": two_layer.apply, "params": PARAMS, "x": X, "y": Y}
    settings = {
        "optimizer": optax.sgd(0.05),
        "num_steps": 4,
        "observe": {"seen": observers.loss},
        "checkpoint_every": 2,
    }
    return train(**(problem | settings | changes), checkpoint=path)


NOISY = optax.chain(optax.add_noise(0.1, 0.5, jax.random.key(1)), optax.sgd(0.05))

# What is changed of a run, what it is changed from, and what is said to differ.
CHANGES = {
    "learning rate": ({"optimizer": optax.sgd(0.06)}, {}, "another `optimizer`."),
    "last bit of the learning rate": (
        {"optimizer": optax.sgd(float(np.nextafter(np.float32(0.05), 1)))},
        {"optimizer": optax.sgd(float(np.float32(0.05)))},
        "another `optimizer`.",
    ),
    "Adam": ({"optimizer": optax.adam(0.05)}, {}, "another `optimizer`."),
    "momentum": ({"optimizer": optax.sgd(0.05, 0.9)}, {}, "another `optimizer`."),
    "schedule": (
        {"optimizer": optax.sgd(optax.linear_schedule(0.05, 0.01, 9))},
        {"optimizer": optax.sgd(optax.linear_schedule(0.05, 0.02, 9))},
        "another `optimizer`.",
    ),
    "start of the optimizer's state": (
        {"optimizer": optax.inject_hyperparams(optax.sgd)(0.05)},
        {"optimizer": optax.inject_hyperparams(optax.sgd)(0.06)},
        "another `optimizer`.",
    ),
    "loss": (
        {"loss_fn": lambda f, y: 2 * square_loss(f, y)},
        {},
        "another `loss_fn`.",
    ),
    "network": (
        {"apply_fn": lambda p, x: two_layer.apply(p, -x)},
        {},
        "another `apply_fn`.",
    ),
    "network and loss": (
        {
            "apply_fn": lambda p, x: two_layer.apply(p, -x),
            "loss_fn": lambda f, y: 2 * square_loss(f, y),
        },
        {},
        "another `apply_fn` and another `loss_fn`.",
    ),
    "array that the network captures": (
        {"apply_fn": shifted(SHIFT + np.eye(1, SHIFT.size, dtype=np.float32)[0])},
        {"apply_fn": shifted(SHIFT)},
        "another `apply_fn`.",
    ),
    "array of JAX's that it captures": (
        {"apply_fn": shifted(jnp.asarray(SHIFT) + 1e-6)},
        {"apply_fn": shifted(jnp.asarray(SHIFT))},
        "another `apply_fn`.",
    ),
    "derivative alone": (
        {"apply_fn": lambda p, x: TWICE(two_layer.apply(p, x))},
        {"apply_fn": lambda p, x: ONCE(two_layer.apply(p, x))},
        "another `apply_fn`.",
    ),
    "observer of that name": (
        {"observe": {"seen": observers.residual_norm}},
        {},
        "another `observe`.",
    ),
    "name of an observer": ({"observe": [observers.loss]}, {}, "another `observe`."),
    "inputs": ({"x": X + 1}, {}, "another `x`."),
    "targets and inputs": ({"x": X + 1, "y": -Y}, {}, "another `x` and another `y`."),
    "parameters": (
        {"params": jax.tree.map(lambda w: -w, PARAMS)},
        {},
        "another `params`.",
    ),
    "names of parameters": (
        {"params": {"U": PARAMS["V"]}, "apply_fn": lambda p, x: x @ p["U"][:, :2]},
        {"params": {"V": PARAMS["V"]}, "apply_fn": lambda p, x: x @ p["V"][:, :2]},
        "another `params`.",
    ),
    "another example": ({"x": X[:-1], "y": Y[:-1]}, {}, "`x` and another `y`."),
    "target of the loss": ({"target_loss": 0.1}, {}, "another `target_loss`."),
    "steps": ({"num_steps": 6, "observe_at": [0]}, {"observe_at": [0]}, "`num_steps`."),
    "kind of the key": (
        {"key": jax.random.key(0, impl="unsafe_rbg"), "batch_size": 2},
        {"key": jax.random.key(0, impl="rbg"), "batch_size": 2},
        "another `key`.",
    ),
    "draws": (
        {"key": jax.random.key(0), "batch_size": 2, "sampling": "replacement"},
        {"key": jax.random.key(0), "batch_size": 2},
        "another `sampling`.",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.sampled(4)
def test_another_run_is_refused_with_what_differs(tmp_path, monkeypatch, name):
    changes, before, message = CHANGES[name]
    # Nothing needs to be trained for that: the run is kept as if it were.
    monkeypatch.setattr(_segments, "run_segment", _untrained)
    kept_run(tmp_path, **before)
    content = (tmp_path / "run.npz").read_bytes()
    with pytest.raises(ValueError, match="must be a folder of the same run") as caught:
        kept_run(tmp_path, **(before | changes))
    assert message in str(caught.value)
    assert str(tmp_path / "run.npz") in str(caught.value)
    assert (tmp_path / "run.npz").read_bytes() == content
    kept_run(tmp_path, **before)


def _untrained(problem, state, start, observed_at, *, settings, **_):
    losses = jnp.zeros(settings.num_steps + 1)
    seen = {name: jnp.zeros(observed_at.size) for name, _ in settings.observers}
    return _checkpoint.Segment(state, losses, seen)


def test_the_same_functions_written_anew_are_the_same_run(tmp_path, monkeypatch):
    monkeypatch.setattr(_segments, "run_segment", _untrained)
    kept_run(tmp_path, apply_fn=shifted(SHIFT), optimizer=optax.sgd(0.05))
    kept_run(tmp_path, apply_fn=shifted(SHIFT.copy()), optimizer=optax.sgd(0.05))


def test_observers_see_all_examples_while_minibatches_train(tmp_path):
    """An observer that only takes all of them is traced with no other number."""
    whole = jnp.asarray(X)
    observe = {"inputs": lambda snapshot: jnp.sum(snapshot.x * whole)}
    batches = {"batch_size": 2, "key": jax.random.key(0)}
    run = kept_run(tmp_path, observe=observe, **batches)
    again = kept_run(tmp_path, observe=observe, **batches)
    assert_close(again.loss, run.loss, "exact")


def test_another_version_of_jax_is_said_to_be_that(tmp_path, monkeypatch):
    monkeypatch.setattr(_segments, "run_segment", _untrained)
    kept_run(tmp_path)
    now = _fingerprint.versions()
    later = now | {"JAX": "99.0"}
    monkeypatch.setattr(_checkpoint, "versions", lambda: later)
    # A later version traces other equations of the same functions.
    monkeypatch.setattr(
        _checkpoint,
        "functions_of",
        lambda *_, **__: {"apply_fn": "other", "loss_fn": "other"},
    )
    with pytest.raises(ValueError, match="version of JAX") as caught:
        kept_run(tmp_path)
    expected = f"with another version of JAX ({now['JAX']}; this is 99.0)."
    assert expected in str(caught.value)
    with pytest.raises(ValueError, match=r"this is 99.0\) and another `x`\."):
        kept_run(tmp_path, x=X + 1)


def test_state_of_every_kind_is_kept_to_the_bit(tmp_path):
    """Keys, half precision and empty arrays, which files of arrays do not know."""
    params = {
        "w": jnp.asarray(PARAMS["V"], jnp.bfloat16),
        "none": jnp.zeros((0,), jnp.bfloat16),
    }
    x, y = jnp.asarray(X, jnp.bfloat16), jnp.asarray(Y[:, :1], jnp.bfloat16)
    go = functools.partial(
        train,
        lambda p, x: jnp.sum(jnp.tanh(x @ p["w"]), axis=1, keepdims=True),
        params,
        x,
        y,
        optimizer=NOISY,
        num_steps=4,
        observe={"w": lambda snapshot: snapshot.params["w"]},
    )
    whole = go(checkpoint=tmp_path, checkpoint_every=2)
    again = go(checkpoint=tmp_path, checkpoint_every=2)
    for leaf1, leaf2 in zip(*map(jax.tree.leaves, (again, whole)), strict=True):
        assert leaf1.dtype == leaf2.dtype
        np.testing.assert_array_equal(np.asarray(leaf1), np.asarray(leaf2))


# --- sweeps -------------------------------------------------------------------------

SPEC = lazyjax.Architecture(activation="tanh")


def kept_sweep(
    folder: Any, network: Any = SPEC, x: Any = X, y: Any = Y[:, :1], **changes: Any
):
    settings = {
        "widths": [2, 4],
        "num_seeds": 1,
        "key": jax.random.key(0),
        "learning_rates": [0.1],
        "num_steps": 3,
    }
    return lazyjax.sweep(network, x, y, checkpoint=folder, **(settings | changes))


def two_networks(activation, *, width):
    """Architectures that differ at width 2 only."""
    return lazyjax.nets.mlp(
        width=width, activation=activation if width == 2 else "tanh"
    )


SWEPT = {
    "architecture": ({"network": lazyjax.Architecture(activation="erf")}, "`network`"),
    "start alone": (
        {"network": lazyjax.Architecture(activation="tanh", w_std=1.001)},
        "`network`",
    ),
    "one of the narrower networks": (
        {"network": functools.partial(two_networks, "erf")},
        "`network`",
    ),
    "optimizer": ({"optimizer": optax.adam}, "`optimizer`"),
    "loss": ({"loss_fn": lambda f, y: 2 * square_loss(f, y)}, "`loss_fn`"),
    "observers": ({"observe": [observers.loss]}, "`observe`"),
    "center": ({"center": True}, "`center`"),
    "inputs": ({"x": X + 1}, "`x`"),
    "key": ({"key": jax.random.key(1)}, "`key`"),
    "steps": ({"num_steps": 4}, "`num_steps`"),
    "widths": ({"widths": [2, 5]}, "`widths`"),
}


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    return folder, kept_sweep(folder)


@pytest.mark.parametrize("name", SWEPT)
@pytest.mark.sampled(5)
def test_records_of_another_sweep_are_refused_with_what_differs(swept, name):
    changes, differing = SWEPT[name]
    folder, _ = swept
    with pytest.raises(ValueError, match="`checkpoint` holds another sweep") as caught:
        kept_sweep(folder, resume=True, **changes)
    assert f"was made with another {differing}." in str(caught.value)


def test_every_file_of_a_sweep_says_what_it_is_of(swept, tmp_path):
    """There is no index to lose: each file alone is enough to refuse another sweep."""
    folder, result = swept
    assert all(path.name.startswith("chunk-") for path in folder.iterdir())
    (record, *_) = folder.iterdir()
    (tmp_path / record.name).write_bytes(record.read_bytes())
    with pytest.raises(ValueError, match="with another `network`"):
        kept_sweep(
            tmp_path,
            lazyjax.Architecture(activation="relu"),
            resume=True,
        )
    again = kept_sweep(tmp_path, resume=True)
    assert_close(again.loss, result.loss, "exact")


def test_targets_that_do_not_fit_are_said_not_to(tmp_path, own_errors):
    with pytest.raises(ValueError, match=r"`y` must have shape \(5, 1\)"):
        kept_sweep(tmp_path, y=Y[:4, :1])
    assert list(tmp_path.iterdir()) == []


def test_results_that_lie_in_the_folder_are_not_taken_for_records(swept, tmp_path):
    _, result = swept
    result.save(tmp_path / "sweep.npz")
    assert_close(kept_sweep(tmp_path).loss, result.loss, "exact")


def test_a_run_of_no_step_has_its_loss(tmp_path):
    once = kept_run(tmp_path, num_steps=0)
    plain = kept_run(None, num_steps=0, checkpoint_every=None)
    assert once.loss.tolist() == plain.loss.tolist() != [0.0]
    assert once.observations["seen"].tolist() == plain.loss.tolist()


def test_losses_keep_their_type_in_64_bit_mode(tmp_path, x64):
    assert kept_run(tmp_path).loss.dtype == np.float32
    assert kept_run(tmp_path).loss.dtype == np.float32


def test_half_precision_goes_on_to_the_same_numbers(tmp_path):
    go = functools.partial(
        kept_sweep,
        tmp_path,
        lambda *, width: lazyjax.Network(
            lambda key, x: {"w": jax.random.normal(key, (x.shape[1], 1), x.dtype)},
            lambda p, x: jnp.tanh(x @ p["w"]),
            SPEC,
            width,
        ),
        jnp.asarray(X, jnp.bfloat16),
        jnp.asarray(Y[:, :1], jnp.bfloat16),
        widths=[2],
    )
    whole, again = go(), go(resume=True)
    assert_close(again.loss, whole.loss, "exact")
    assert np.ptp(whole.loss) > 0


def test_folders_that_cannot_be_made_are_found_before_anything_is_traced(own_errors):
    def refuse(*_):
        raise AssertionError("work was done")

    traced: Any = refuse

    with pytest.raises(ValueError, match="`checkpoint` must name a folder that can"):
        train(
            two_layer.apply,
            PARAMS,
            X,
            Y,
            optimizer=optax.GradientTransformation(traced, traced),
            num_steps=2,
            checkpoint="/proc/x",
            checkpoint_every=1,
        )
    with pytest.raises(ValueError, match="`checkpoint` must name a folder that can"):
        kept_sweep("/proc/x", traced)


def test_a_run_that_is_done_is_read_from_a_folder_that_is_read_only(
    tmp_path, monkeypatch, swept
):
    def refuse(name, folder):
        raise ValueError("read-only")

    run = kept_run(tmp_path)
    monkeypatch.setattr(_checkpoint, "check_folder", refuse)
    assert_close(kept_run(tmp_path).loss, run.loss, "exact")
    monkeypatch.setattr(sweep_run, "check_folder", refuse)
    folder, result = swept
    again = kept_sweep(folder, resume=True)
    assert_close(again.loss, result.loss, "exact")
    with pytest.raises(ValueError, match="read-only"):
        kept_run(tmp_path / "new")
