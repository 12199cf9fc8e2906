"""Sweeps: each member is what training its network alone gives."""

import functools
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lazyjax
from lazyjax.dynamics import observers, square_loss
from lazyjax.sweeps import Sweep
from lazyjax.sweeps.checkpoint import Checkpoint
from lazyjax.sweeps.run import _split
from tests.helpers.compare import assert_close, relative_error

ROOT = Path(__file__).parent.parent
KEY = jax.random.key(5)
SPEC = lazyjax.Architecture(depth=2, activation="cos", b_std=0.3)
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(5, 4)), RNG.normal(size=(5, 1))
STEPS = 8
WATCH = (observers.ntk_eig_max, observers.parameter_distance)
X32, Y32 = X.astype(np.float32), Y.astype(np.float32)

DEFAULTS: dict[str, Any] = {
    "widths": [4],
    "num_seeds": 2,
    "key": KEY,
    "learning_rates": [0.1],
    "num_steps": 5,
}


def sweep32(network: Any = None, x: Any = X32, y: Any = Y32, **changes: Any) -> Sweep:
    """A small sweep in single precision, but for some changes."""
    network = network or lazyjax.Architecture()
    return lazyjax.sweep(network, x, y, **(DEFAULTS | changes))


@pytest.fixture(scope="module")
def swept():
    """All axes, observers and parameters."""
    with jax.enable_x64(True):
        return lazyjax.sweep(
            SPEC,
            X,
            Y,
            widths=[1, 3, 5],
            num_seeds=2,
            key=KEY,
            alphas=[1.0, 10.0],
            learning_rates=[0.05, 0.1],
            num_steps=STEPS,
            center=True,
            observe=WATCH,
            keep_params=True,
        )


@functools.cache
def alone(width, seed, alpha, rate):
    """The member by `lazyjax.train`, of the network built alone."""
    net = lazyjax.nets.build(SPEC, width=width)
    key = jax.random.fold_in(jax.random.fold_in(KEY, width), seed)

    @jax.jit
    def run(key):
        start = net.init(key, X)
        return lazyjax.train(
            lambda p, x: alpha * (net.apply(p, x) - net.apply(start, x)),
            start,
            X,
            Y,
            optimizer=optax.sgd(rate),
            num_steps=STEPS,
            loss_fn=lambda f, y: square_loss(f, y) / alpha**2,
            observe=WATCH,
        )

    return run(key)


MEMBERS = [(1, 0, 10.0, 0.05), (3, 1, 10.0, 0.1), (5, 1, 1.0, 0.05)]


@pytest.mark.parametrize("member", MEMBERS, ids=str)
def test_member_is_the_network_trained_alone(x64, swept, member):
    run = alone(*member)
    labels = dict(zip(swept.axes, member, strict=True))
    found = swept.sel(**labels)
    assert_close(found.loss, np.asarray(run.loss) * member[2] ** 2, 1e-12)
    assert run.loss[-1] < 0.99 * run.loss[0]  # the comparison is of a run that moves
    for name, values in run.observations.items():
        assert_close(found.observations[name], values, 1e-10)
    pairs = zip(
        *map(jax.tree.leaves, (found.params[member[0]], run.params)), strict=True
    )
    for leaf1, leaf2 in pairs:
        assert_close(leaf1, leaf2, 1e-12)
    assert found.diverged_at == run.diverged_at == -1
    assert found.observed_at.tolist() == [0, STEPS]
    other = swept.sel(**labels | {"seed": 1 - member[1]})
    assert relative_error(other.loss, found.loss) > 1e-3


@pytest.mark.compiler
def test_member_does_not_depend_on_what_else_is_in_the_sweep():
    """Not by a bit, where chunks are of one size."""
    go = functools.partial(sweep32, SPEC, alphas=[1.0, 10.0], chunk_size=1)
    swept = go(widths=[1, 3], learning_rates=[0.05, 0.1])
    small = go(widths=[3], num_seeds=1, alphas=[10.0])
    same = swept.sel(width=[3], seed=[0], alpha=[10.0], learning_rate=[0.1])
    assert small.axes == same.axes
    assert_close(small.loss, same.loss, "exact")
    together = go(widths=[3], learning_rates=[0.05, 0.1], chunk_size=None)
    assert_close(together.loss, swept.sel(width=[3]).loss)


def test_centered_network_starts_at_zero(swept):
    expected = np.full(swept.shape, np.square(Y).sum() / 2)
    assert_close(swept.loss[..., 0], expected)


def test_seeds_and_learning_rates_are_told_apart(swept):
    members = swept.loss[..., -1].ravel()
    assert np.unique(members).size == members.size


# --- memory, devices, threads -------------------------------------------------------


def test_sweep_in_little_memory_is_the_same():
    keywords: dict[str, Any] = {"widths": [2, 4], "num_seeds": 7}
    whole, least = sweep32(**keywords), sweep32(**keywords, memory="40KiB")
    assert_close(least.loss, whole.loss)


@pytest.mark.parametrize("num_members", [1, 2, 7, 64, 509])
def test_chunks_hold_each_member_once_and_waste_little(num_members):
    members = np.arange(num_members)
    for size in (1, 3, 64):
        chunks = _split(members, size)
        assert {len(chunk) for chunk in chunks} == {size}
        assert np.unique(chunks).tolist() == members.tolist()
        assert chunks.size < num_members + size


def test_memory_too_small_for_one_member_is_refused():
    with pytest.raises(ValueError, match=r"`memory` must hold one member .* got 100 B"):
        sweep32(memory=100)


FOUR_DEVICES = """
    import jax, numpy as np, lazyjax
    assert jax.device_count() == 4
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(5, 4)).astype("f4"), rng.normal(size=(5, 1)).astype("f4")
    go = lambda devices: lazyjax.sweep(
        lazyjax.Architecture(activation="tanh"), x, y, widths=[2, 4], num_seeds=5,
        key=jax.random.key(0), learning_rates=[0.1], num_steps=6, devices=devices,
    ).loss
    four, one = go(None), go(jax.devices()[:1])
    np.testing.assert_allclose(four, one, rtol=1e-5)
    print(four.shape)
"""


@pytest.mark.slow
def test_members_are_shared_by_several_devices():
    flags = os.environ.get("XLA_FLAGS", "")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FOUR_DEVICES)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=os.environ
        | {"XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count=4"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "(2, 5, 1, 1, 7)"


def test_sweep_leaves_no_threads_behind():
    before = threading.active_count()
    sweep32()
    assert threading.active_count() <= before  # others may end meanwhile


# --- checkpoints --------------------------------------------------------------------


@pytest.mark.compiler
def test_resumed_sweep_repeats_nothing_and_is_the_same_to_the_bit(tmp_path, swept):
    train = functools.partial(sweep32, num_seeds=6, chunk_size=1)
    go = functools.partial(train, checkpoint=tmp_path / "run")
    first = go()
    files = sorted((tmp_path / "run").glob("*.npz"))
    assert len(files) >= 2
    files[0].unlink()
    kept = files[1].stat().st_mtime_ns
    again = go(resume=True)
    assert_close(again.loss, first.loss, "exact")
    assert sorted((tmp_path / "run").glob("*.npz")) == files
    assert files[1].stat().st_mtime_ns == kept
    assert_close(train().loss, first.loss, "exact")


def test_checkpoint_of_another_sweep_is_refused(tmp_path):
    go = functools.partial(sweep32, checkpoint=tmp_path)
    go()
    with pytest.raises(ValueError, match="`checkpoint` holds a sweep already"):
        go()
    for changes, name in (
        ({"num_steps": 4}, "num_steps"),
        ({"key": jax.random.key(6)}, "key"),
        ({"optimizer": lambda rate: optax.sgd(rate, momentum=0.9)}, "optimizer"),
        ({"loss_fn": lambda f, y: 2 * square_loss(f, y)}, "loss_fn"),
    ):
        with pytest.raises(ValueError, match=f"another sweep: .*{name}"):
            go(resume=True, **changes)
    with pytest.raises(ValueError, match="made with another `x`"):
        sweep32(
            lazyjax.Architecture(),
            X32 + 1,
            Y32,
            checkpoint=tmp_path,
            resume=True,
        )


def go_on(folder):
    """Sixteen chunks; those that `folder` holds are not repeated."""
    return lazyjax.sweep(
        lazyjax.Architecture(),
        X32,
        Y32,
        widths=[2, 4],
        num_seeds=4,
        alphas=[1.0, 8.0],
        key=KEY,
        learning_rates=[0.1],
        num_steps=20,
        keep_params=True,
        chunk_size=1,
        checkpoint=folder,
        resume=True,
    )


def go_on_until_killed(folder, num_calls):
    """For a process of its own, which dies once the results of some chunks are kept."""
    write, written = Checkpoint.write, []

    def write_and_die(self, members, records):
        write(self, members, records)
        written.append(members)
        if len(written) == num_calls:
            os.kill(os.getpid(), signal.SIGKILL)

    Checkpoint.write = write_and_die
    go_on(folder)


@pytest.mark.compiler
def test_sweep_that_was_killed_goes_on_to_the_same_bits(tmp_path):
    call = f"go_on_until_killed({str(tmp_path / 'cut')!r}, 5)"
    killed = subprocess.run(
        [sys.executable, "-c", f"from tests.test_sweep import *; {call}"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    kept = list((tmp_path / "cut").glob("*.npz"))
    assert len(kept) == 5
    resumed, whole = go_on(tmp_path / "cut"), go_on(tmp_path / "whole")
    assert len(list((tmp_path / "cut").glob("*.npz"))) == 16
    for leaf1, leaf2 in zip(
        jax.tree.leaves((resumed.loss, resumed.diverged_at, resumed.params)),
        jax.tree.leaves((whole.loss, whole.diverged_at, whole.params)),
        strict=True,
    ):
        assert_close(leaf1, leaf2, "exact")


# --- what may go wrong --------------------------------------------------------------


def test_too_large_a_step_diverges_and_is_named_not_averaged():
    result = sweep32(
        lazyjax.Architecture(activation="softplus"),
        X32,
        Y32,
        learning_rates=[0.01, 1e4],
        num_steps=40,
    )
    wild, calm = result.sel(learning_rate=1e4), result.sel(learning_rate=0.01)
    assert (calm.diverged_at == -1).all()
    for loss, at in zip(
        wild.loss.reshape(-1, 41), wild.diverged_at.ravel(), strict=True
    ):
        assert at == np.flatnonzero(~np.isfinite(loss))[0]
    assert len(result.diverged) == 2
    mean = result.mean()
    assert np.isfinite(mean.mean[..., 0, :]).all()
    assert mean.count[0, 0].tolist() == [2, 0]
    assert "seed 1, alpha 1, learning_rate 10000: diverged at step" in mean.explain()
    assert_close(mean.mean[..., 0, :], calm.loss.mean(1))


def test_one_example_one_unit_and_one_step_will_do():
    result = sweep32(
        lazyjax.Architecture(symmetrized=True),
        X32[:1],
        Y32[:1],
        widths=[1],
        num_seeds=1,
        num_steps=1,
    )
    assert result.shape == (1, 1, 1, 1)
    assert np.isfinite(result.loss).all()
    assert np.isnan(result.mean().standard_error).all()
    assert result.mean().count.tolist() == [[[1]]]


def test_equal_inputs_with_different_targets_keep_the_loss_they_must():
    x = np.repeat(X32[:1], 2, axis=0)
    y = np.array([[1.0], [-1.0]], np.float32)
    result = sweep32(
        lazyjax.Architecture(),
        x,
        y,
        num_steps=50,
    )
    assert (result.loss >= 1 - 1e-6).all()  # half of 1 + 1
    assert (result.diverged_at == -1).all()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"network": "mlp"}, TypeError, "`network` must be an architecture"),
        ({"network": lambda width: 3}, TypeError, "`network` must return"),
        ({"x": X32 * np.nan}, ValueError, "`x` must be finite"),
        ({"y": Y32 * np.nan}, ValueError, "`y` must be finite"),
        ({"y": Y32[:, 0]}, ValueError, r"`y` must have shape \(5, 1\)"),
        ({"widths": [4, 2]}, ValueError, "`widths` must be one or more increasing"),
        ({"widths": []}, ValueError, "`widths` must be one or more increasing"),
        ({"widths": [0]}, ValueError, "`widths` must be at least 1"),
        ({"num_seeds": 0}, ValueError, "`num_seeds` must be at least 1"),
        ({"alphas": [0.0]}, ValueError, "`alphas` must be one or more different"),
        ({"learning_rates": []}, ValueError, "`learning_rates` must be one or more"),
        (
            {"learning_rates": [1, 1]},
            ValueError,
            "`learning_rates` must be one or more",
        ),
        ({"key": 0}, TypeError, "`key` must be a random key"),
        ({"optimizer": optax.sgd(0.1)}, TypeError, "`optimizer` must be a function"),
        ({"num_steps": -1}, ValueError, "`num_steps` must be at least 0"),
        ({"observe": observers.ntk}, TypeError, "`observe` must be a sequence"),
        ({"observe_at": [9]}, ValueError, "`observe_at` must increase strictly"),
        ({"memory": "much"}, ValueError, "`memory` must be a number with a unit"),
        ({"chunk_size": 0}, ValueError, "`chunk_size` must be at least 1"),
        ({"resume": True}, ValueError, "`resume` needs `checkpoint`"),
    ],
)
def test_misuse_is_refused_with_the_name_of_the_argument(
    own_errors, changes, error, message
):
    good = {"network": lazyjax.Architecture(), "x": X32, "y": Y32} | DEFAULTS
    with pytest.raises(error, match=message):
        lazyjax.sweep(**(good | changes))


# --- other networks, optimizers and observers ---------------------------------------


def test_networks_of_other_makers_are_trained():
    def linear(*, width):
        good = lazyjax.nets.mlp(width=width)
        return lazyjax.Network(
            lambda key, x: {"w": jax.random.normal(key, (x.shape[1], width))},
            lambda p, x: jnp.sum(jnp.square(x @ p["w"]), axis=1, keepdims=True),
            good.architecture,
            width,
        )

    result = sweep32(linear, widths=[2, 3], learning_rates=[0.001], keep_params=True)
    assert result.params is not None
    assert result.params[3]["w"].shape == (2, 1, 1, 4, 3)
    assert (result.loss[..., -1] < result.loss[..., 0]).all()


def test_progress_is_quiet_off_a_terminal(capsys):
    sweep32(progress=True)
    assert capsys.readouterr() == ("", "")


def test_progress_is_reported_to_a_function():
    reports: list[tuple[float, str]] = []
    sweep32(widths=[2, 4], progress=lambda *report: reports.append(report))
    shares = [share for share, _ in reports]
    assert shares[0] == 0
    assert shares[-1] == 1
    assert shares == sorted(shares)
    messages = [message for _, message in reports]
    assert messages[0] == "compiling"
    assert "training width 4: 0/4 members" in messages
    assert messages[-1] == "4/4 members"


def test_observers_see_parameters_of_the_width_of_their_member():
    result = sweep32(
        lazyjax.Architecture(),
        X32,
        Y32,
        widths=[2, 3],
        observe={"size": lambda s: jnp.asarray(s.params["layer_1"]["kernel"].size)},
        observe_at=[0],
    )
    assert result.observations["size"][:, 0, 0, 0, 0].tolist() == [8, 12]


def test_json_is_strict(tmp_path, swept):
    result = sweep32(learning_rates=[1e6], num_steps=30)
    content = json.loads(
        result.save(tmp_path / "s.json").read_text(),
        parse_constant=lambda c: pytest.fail(f"{c} is not JSON"),
    )
    assert content["axes"]["width"] == [4]
