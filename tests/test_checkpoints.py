"""Checkpoints are of one run: another one is refused with what differs, never returned."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lazyjax
from lazyjax.dynamics import (
    _checkpoint,
    _fingerprint,
    observers,
    square_loss,
    sweep_work,
    train,
)
from lazyjax.dynamics._program_digest import content_digest, program_digest
from tests.helpers import two_layer
from tests.helpers.compare import assert_close

pytestmark = pytest.mark.once

ROOT = Path(__file__).parent.parent
PARAMS, X, Y = two_layer.problem(np.float32)
SHIFT = np.zeros(X.shape[1], np.float32)


@pytest.fixture(autouse=True)
def dtype_promotion():
    """As optax needs it, which raises floats to integers."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def shifted(shift):
    """A network that captures an array."""
    return lambda params, x: two_layer.apply(params, x + shift[None])


@jax.custom_vjp
def once(f):
    return f


once.defvjp(lambda f: (f, None), lambda _, cotangent: (cotangent,))


@jax.custom_vjp
def twice(f):
    return f


twice.defvjp(lambda f: (f, None), lambda _, cotangent: (2 * cotangent,))


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
        {"apply_fn": lambda p, x: twice(two_layer.apply(p, x))},
        {"apply_fn": lambda p, x: once(two_layer.apply(p, x))},
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
def test_another_run_is_refused_with_what_differs(tmp_path, monkeypatch, name):
    changes, before, message = CHANGES[name]
    # Nothing needs to be trained for that: the run is kept as if it were.
    monkeypatch.setattr(_checkpoint, "run_segment", _untrained)
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
    monkeypatch.setattr(_checkpoint, "run_segment", _untrained)
    kept_run(tmp_path, apply_fn=shifted(SHIFT), optimizer=optax.sgd(0.05))
    kept_run(tmp_path, apply_fn=shifted(SHIFT.copy()), optimizer=optax.sgd(0.05))


def test_another_version_of_jax_is_said_to_be_that(tmp_path, monkeypatch):
    monkeypatch.setattr(_checkpoint, "run_segment", _untrained)
    kept_run(tmp_path)
    now = _fingerprint.versions()
    later = now | {"JAX": "99.0"}
    monkeypatch.setattr(_checkpoint, "versions", lambda: later)
    # A later version traces other equations of the same functions.
    monkeypatch.setattr(
        _checkpoint,
        "functions_of",
        lambda *_: {"apply_fn": "other", "loss_fn": "other"},
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
        {"network": functools.partial(two_networks, "erf"), "buckets": [[2, 4]]},
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
    return folder, kept_sweep(folder, buckets=[[2, 4]])


@pytest.mark.parametrize("name", SWEPT)
def test_records_of_another_sweep_are_refused_with_what_differs(swept, name):
    changes, differing = SWEPT[name]
    folder, _ = swept
    if "widths" in changes:
        changes |= {"buckets": [changes["widths"]]}
    with pytest.raises(ValueError, match="`checkpoint` holds another sweep") as caught:
        kept_sweep(folder, resume=True, **({"buckets": [[2, 4]]} | changes))
    assert f"was made with another {differing}." in str(caught.value)


def test_every_file_of_a_sweep_says_what_it_is_of(swept, tmp_path):
    """There is no index to lose: each file alone is enough to refuse another sweep."""
    folder, result = swept
    assert all(path.name.startswith("call-") for path in folder.iterdir())
    (record, *_) = folder.iterdir()
    (tmp_path / record.name).write_bytes(record.read_bytes())
    with pytest.raises(ValueError, match="with another `network`"):
        kept_sweep(
            tmp_path,
            lazyjax.Architecture(activation="relu"),
            buckets=[[2, 4]],
            resume=True,
        )
    again = kept_sweep(tmp_path, buckets=[[2, 4]], resume=True)
    assert_close(again.loss, result.loss, "exact")


def test_results_that_lie_in_the_folder_are_not_taken_for_records(swept, tmp_path):
    _, result = swept
    result.save(tmp_path / "sweep.npz")
    assert_close(kept_sweep(tmp_path, buckets=[[2, 4]]).loss, result.loss, "exact")


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


# --- digests of programs ------------------------------------------------------------


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
    monkeypatch.setattr(sweep_work, "check_folder", refuse)
    folder, result = swept
    again = kept_sweep(folder, buckets=[[2, 4]], resume=True)
    assert_close(again.loss, result.loss, "exact")
    with pytest.raises(ValueError, match="read-only"):
        kept_run(tmp_path / "new")


def every_digest():
    """Digests of programs with nested functions, control flow, callbacks and sets."""

    def host(f):
        return np.asarray(f)

    def net(params, x):
        f = two_layer.apply(params, once(x))
        f = jax.lax.cond(jnp.sum(f) > 0, jnp.sin, jnp.cos, f)
        f = jax.lax.scan(lambda c, _: (jax.nn.relu(c) + 0.1, None), f, None, length=2)[
            0
        ]
        return jax.pure_callback(host, jax.ShapeDtypeStruct(f.shape, f.dtype), f)

    return [
        program_digest(net, PARAMS, X),
        content_digest({"a", "b", "c"}, {"d": jax.random.key(0)}, X, 0.1, None),
        *_fingerprint.functions_of(
            shifted(jnp.asarray(SHIFT)),
            square_loss,
            lambda: NOISY,
            {"ntk": observers.ntk, "drift": observers.ntk_drift},
            PARAMS,
            X,
            Y,
        ).values(),
    ]


def test_digests_are_the_same_in_every_process():
    code = (
        "import json\n"
        "from tests.test_checkpoints import every_digest\n"
        "print(json.dumps(every_digest()))"
    )
    here = every_digest()
    assert every_digest() == here
    assert len(set(here)) == len(here)
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            check=True,
            cwd=ROOT,
            env=os.environ | {"PYTHONHASHSEED": seed},
            text=True,
        )
        assert json.loads(done.stdout) == here


@pytest.mark.parametrize(
    ("fn", "other"),
    [
        (lambda x: x + 1, lambda x: x + 2),
        (lambda x: x + 1, lambda x: x - 1),
        (lambda x: (x, x + 1), lambda x: (x + 1, x)),
        (lambda x: [x], lambda x: (x,)),
        (lambda x: jnp.sum(x, axis=0), lambda x: jnp.sum(x, axis=1)),
        (lambda x: jax.lax.cond(x[0, 0] > 0, jnp.sin, jnp.cos, x), jnp.sin),
        (
            lambda x: jax.lax.fori_loop(0, 3, lambda i, c: c * 2.0, x),
            lambda x: jax.lax.fori_loop(0, 3, lambda i, c: c * 3.0, x),
        ),
        (
            lambda x: jax.jit(lambda x: x * np.array([[1, 2, 3]], np.float32))(x),
            lambda x: jax.jit(lambda x: x * np.array([[1, 2, 4]], np.float32))(x),
        ),
        (
            lambda x: jax.pure_callback(lambda x: x + np.float32(1), x, x),
            lambda x: jax.pure_callback(lambda x: x + np.float32(2), x, x),
        ),
        (lambda x: x.astype(jnp.bfloat16), lambda x: x.astype(jnp.float16)),
    ],
)
def test_digests_of_other_programs_differ(fn, other):
    x = jnp.ones((3, 3), jnp.float32)
    assert program_digest(fn, x) == program_digest(lambda x: fn(x), x)
    assert program_digest(fn, x) != program_digest(other, x)
    assert program_digest(fn, x) != program_digest(fn, x[:, :2].repeat(3, 1)[:2, :3])
