"""Runs that are killed go on to the same bits, whenever it happens, whatever they train."""

import pathlib
import random
import signal
import subprocess
import sys
import textwrap
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lazyjax import nets
from lazyjax.dynamics import observers, train
from lazyjax.files import archive
from tests.helpers.compare import assert_trees_close

pytestmark = pytest.mark.once

NETWORKS = {
    "convolutional": (nets.cnn(width=3, depth=2, num_outputs=2), (12, 5, 5, 1)),
    "dense": (nets.mlp(width=16, depth=2, num_outputs=2), (12, 4)),
}
NUM_STEPS, EVERY = 400, 10


def run_of(kind, folder):
    network, shape = NETWORKS[kind]
    x = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
    return train(
        network.apply,
        network.init(jax.random.key(0), x),
        x,
        jnp.sin(jnp.arange(24.0).reshape(12, 2)),
        optimizer=optax.sgd(1e-4, momentum=0.9),
        num_steps=NUM_STEPS,
        batch_size=5,
        key=jax.random.key(1),
        observe=[observers.ntk_eig_min],
        observe_at=[0, 95, NUM_STEPS],
        checkpoint=folder,
        checkpoint_every=EVERY,
    )


def started(kind, folder, before=""):
    """A process that trains; `before` is code that it runs first."""
    code = f"""
        from tests import test_train_killed
        {before}
        print("started", flush=True)
        test_train_killed.run_of({kind!r}, {str(folder)!r})
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=pathlib.Path(__file__).parent.parent,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    return process


def steps_kept(folder):
    """The step of the last checkpoint, or `None` if there is none."""
    file = folder / "run.npz"
    if not file.exists():
        return None
    return archive.read_npz(file, "training run", advice="")[0]["step"]


def test_a_run_killed_while_it_writes_goes_on_to_the_same_bits(tmp_path):
    dies = """
        import itertools, os, signal
        count, replace = itertools.count(1), os.replace
        def die_at_third(source, target):
            if next(count) == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            replace(source, target)
        os.replace = die_at_third
    """
    indented = textwrap.dedent(dies).strip().replace("\n", "\n        ")
    with started("convolutional", tmp_path / "cut", indented) as process:
        assert process.wait(60) == -signal.SIGKILL
    assert steps_kept(tmp_path / "cut") == 2 * EVERY
    found = run_of("convolutional", tmp_path / "cut")
    assert_trees_close(found, run_of("convolutional", tmp_path / "whole"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", NETWORKS)
def test_runs_killed_at_any_moment_go_on_to_the_same_bits(kind, tmp_path):
    with started(kind, tmp_path / "first") as process:
        begin = time.monotonic()
        assert process.wait(120) == 0
        seconds = time.monotonic() - begin
    expected = run_of(kind, tmp_path / "whole")
    moments, kept = random.Random(0), []
    for trial in range(10):
        folder = tmp_path / f"{trial}"
        with started(kind, folder) as process:
            time.sleep(moments.uniform(0, seconds))
            process.kill()
        kept.append(steps_kept(folder))
        assert_trees_close(run_of(kind, folder), expected)
    # Some were killed before the first checkpoint, or after the last, but not most.
    assert sum(0 < (step or 0) < NUM_STEPS for step in kept) >= 3, kept
