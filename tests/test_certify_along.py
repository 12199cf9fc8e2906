"""Certificates along training: the earliest step is certified, the one before is not."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from typer.testing import CliRunner

import lazyjax
from lazyjax import certify
from lazyjax.certify import Assumption, Certificate, TrainingCertificates
from lazyjax.cli.app import app
from lazyjax.data import sphere
from lazyjax.dynamics import observers
from lazyjax.nets import mlp

pytestmark = pytest.mark.once

DATA = sphere(4, 32, key=jax.random.key(0))


@pytest.fixture(scope="module")
def problem():
    """A network that is not certified at its start, in float32."""
    network = mlp(width=32, depth=2, activation="tanh")
    params = network.init(jax.random.key(1), DATA.x_train)
    return network, params, DATA.x_train, DATA.y_train


# How steps are chosen, by a network whose weight is the number of steps.


def counting(is_certified, **options):
    """Certificates along a run, where `is_certified` decides of steps; those tried."""
    tried = []

    def certify_fn(network, params, x, y, *, rigor):
        step = round(float(params[0, 0]))
        tried.append(step)
        holds = is_certified(step)
        return Certificate(
            theorem="counting",
            conclusion="it is late",
            assumptions=(Assumption(name="late", statement="is late", holds=holds),),
            margin=1.0 if holds else -1.0,
            rigor=rigor,
        )

    found = certify.along(
        lambda w, x: x @ w,
        jnp.zeros((1, 1)),
        jnp.ones((1, 1)),
        jnp.ones((1, 1)),
        optimizer=optax.sgd(1.0),
        loss_fn=lambda f, y: -jnp.sum(f),
        certify_fn=certify_fn,
        **options,
    )
    assert sorted(tried) == found.steps.tolist()
    assert np.array_equal(found.loss, -found.steps)
    return found, tried


def test_steps_double_and_are_bisected():
    found, tried = counting(lambda step: step >= 13, num_steps=100)
    assert tried == [0, 1, 2, 4, 8, 16, 12, 14, 13]
    assert (found.earliest, found.earliest_loss) == (13, -13.0)
    assert found.params == np.array([[13.0]])
    assert found.certificate is found.certificates[found.steps.tolist().index(13)]
    assert np.array_equal(found.margin > 0, found.steps >= 13)


def test_training_to_the_end_tries_the_steps_after():
    options = {"num_steps": 40, "until": "end", "observe_at": [3, 10, 20, 30]}
    found, tried = counting(lambda step: 12 <= step < 25, **options)
    assert tried == [3, 10, 20, 15, 12, 11, 30]
    assert found.earliest == 12
    assert found.params == np.array([[12.0]])


def test_what_holds_between_steps_that_do_not_goes_unnoticed():
    found, _ = counting(lambda step: step in (5, 6) or step >= 13, num_steps=16)
    assert found.earliest == 13


def test_nothing_is_bisected_where_nothing_or_the_first_is_certified():
    never, tried = counting(lambda step: False, num_steps=5)
    assert tried == [0, 1, 2, 4, 5]
    assert (never.earliest, never.certificate, never.params) == (None, None, None)
    assert "No step that was tried is certified" in never.explain()
    _, tried = counting(lambda step: True, num_steps=9, observe_at=[7])
    assert tried == [7]
    _, tried = counting(lambda step: True, num_steps=0)
    assert tried == [0]


# On networks.


def test_the_step_before_is_not_certified(problem):
    """The parameters are those of `train`, whatever state the optimizer has."""
    optimizer = optax.sgd(0.1, momentum=0.9)
    found = certify.along(*problem, optimizer=optimizer, num_steps=2000)
    assert found.earliest is not None
    assert found.earliest > 2
    verdicts = []
    for num_steps in (found.earliest - 1, found.earliest):
        network, *rest = problem
        run = lazyjax.train(
            network.apply, *rest, optimizer=optimizer, num_steps=num_steps
        )
        verdicts.append(
            certify.gradient_flow(network, run.params, *rest[1:]).is_certified
        )
    assert verdicts == [False, True]
    assert found.earliest_loss == pytest.approx(float(run.loss[-1]), rel=1e-3)
    for one, other in zip(
        jax.tree.leaves(found.params), jax.tree.leaves(run.params), strict=True
    ):
        assert one.dtype == np.float32
        assert np.allclose(one, other, atol=1e-5)


def test_the_certificate_is_that_of_the_parameters_returned(problem):
    network, _, x, y = problem
    found = certify.along(*problem, optimizer=optax.sgd(0.5), num_steps=2000)
    again = certify.gradient_flow(network, found.params, x, y)
    assert found.certificate is not None
    assert again.to_json() == found.certificate.to_json()


def test_zero_error_is_provable_before_zero_loss_is(problem):
    train = functools.partial(
        certify.along, *problem, optimizer=optax.sgd(0.5), num_steps=2000
    )
    error, loss = train(certify_fn=certify.zero_training_error), train()
    assert error.earliest is not None
    assert loss.earliest is not None
    assert error.earliest < loss.earliest


def test_a_run_that_diverges_ends_there(problem):
    found = certify.along(
        *problem, optimizer=optax.sgd(1e4), num_steps=4096, until="end"
    )
    assert found.diverged_at > 0
    assert found.steps[-1] < found.diverged_at
    assert found.earliest is None
    assert f"diverged at step {found.diverged_at}" in found.explain()


def test_a_loss_of_nan_is_no_step():
    found = certify.along(
        lambda w, x: x @ w,
        jnp.zeros((2, 1)),
        jnp.eye(2),
        jnp.ones((2, 1)),
        optimizer=optax.sgd(0.1),
        num_steps=4,
        loss_fn=lambda f, y: jnp.sum(f) * jnp.nan,
    )
    assert (found.diverged_at, found.steps.size, found.earliest) == (0, 0, None)


def test_errors_tell_of_the_step():
    """What bounds do not cover is refused, and not passed over."""
    with pytest.raises(ValueError, match="`apply_fn`") as caught:
        certify.along(
            lambda w, x: jax.lax.stop_gradient(w[:1]) + x @ w,
            jnp.zeros((2, 1)),
            jnp.eye(2),
            jnp.ones((2, 1)),
            optimizer=optax.sgd(0.1),
            num_steps=4,
        )
    assert "parameters of step 0" in caught.value.__notes__[-1]


# Of a run.


def test_a_run_on_minibatches_is_certified_where_it_was_observed(problem):
    network, *rest = problem
    run = lazyjax.train(
        network.apply,
        *rest,
        optimizer=optax.sgd(0.5),
        num_steps=600,
        batch_size=2,
        key=jax.random.key(0),
        observe=[observers.parameters],
        observe_at=[0, 3, 600],
    )
    found = certify.along_run(network, run, *rest[1:])
    assert found.steps.tolist() == [0, 3, 600]
    assert np.array_equal(found.loss, np.asarray(run.loss)[[0, 3, 600]])
    last = certify.gradient_flow(network, run.params, *rest[1:])
    assert last.is_certified
    assert found.certificates[-1].to_json() == last.to_json()
    assert not found.certificates[0].is_certified
    assert found.earliest == (3 if found.certificates[1].is_certified else 600)


def test_a_run_that_diverged_is_certified_up_to_there(problem):
    network, *rest = problem
    run = lazyjax.train(
        network.apply,
        *rest,
        optimizer=optax.sgd(1e4),
        num_steps=600,
        observe=[observers.parameters],
        observe_at=[0, 1, 600],
    )
    assert certify.along_run(network, run, *rest[1:]).steps.tolist() == [0, 1]


def test_runs_without_parameters_and_mapped_runs_are_refused(problem):
    network, params, x, y = problem
    train = functools.partial(
        lazyjax.train, network.apply, optimizer=optax.sgd(0.5), num_steps=1
    )
    with pytest.raises(ValueError, match=r"observe=\[observers.parameters\]"):
        certify.along_run(network, train(params, x, y), x, y)
    two = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), params)
    runs = jax.vmap(lambda p: train(p, x, y, observe=[observers.parameters]))(two)
    with pytest.raises(ValueError, match="must be one run"):
        certify.along_run(network, runs, x, y)


# What is shown.


def test_it_is_written_read_and_a_table(tmp_path):
    found, _ = counting(lambda step: step >= 2, num_steps=8)
    for name in ("a.npz", "a.json"):
        again = TrainingCertificates.load(found.save(tmp_path / name))
        assert again.to_json() == found.to_json()
        assert again.earliest == 2
    table = found.to_pandas()
    assert table.index.tolist() == [0, 1, 2]
    assert table["certified"].tolist() == [False, False, True]
    assert table["margin"].tolist() == [-1, -1, 1]


def call(*arguments):
    return CliRunner().invoke(app, ["certify", *map(str, arguments)])


def test_the_command_says_when_training_becomes_provable(tmp_path):
    data = tmp_path / "data.npz"
    np.savez(data, X=np.asarray(DATA.x_train), y=np.array([1, -1, 1, -1]))
    options = ("--data", data, "--width", 12, "--depth", 2, "--activation", "tanh")
    result = call(*options, "--along", "--out", tmp_path / "a.png")
    assert result.exit_code == 0, result.output
    assert re.search(r"Step \d+ is the earliest found", result.stdout)
    assert (tmp_path / "a.png").stat().st_size > 1000
    result = call(*options, "--along", "--num-steps", 1, "--json")
    assert result.exit_code == 1, result.output
    assert TrainingCertificates.from_json(result.stdout).steps.tolist() == [0, 1]
    for wrong in (["--out", "a.png"], ["--along", "--start", "trained"]):
        assert call(*options, *wrong).exit_code == 2
    assert call(*options, "--along", "--learning-rate", -1).exit_code == 2
