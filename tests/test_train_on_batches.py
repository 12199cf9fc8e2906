"""Training on batches from an iterator: the run of `train`, batch by batch."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lazyjax.dynamics import losses, observers, train, train_on_batches
from tests.helpers import two_layer
from tests.helpers.compare import assert_close, assert_trees_close

PARAMS, X, Y = two_layer.problem(np.float32)
OPTIMIZER = optax.sgd(0.05, momentum=0.9)


def on_batches(batches, num_steps, **options):
    given: dict[str, Any] = {"optimizer": OPTIMIZER, **options}
    return train_on_batches(
        two_layer.apply, PARAMS, batches, num_steps=num_steps, **given
    )


def on_all(num_steps, **options):
    given: dict[str, Any] = {"optimizer": OPTIMIZER, **options}
    return train(two_layer.apply, PARAMS, X, Y, num_steps=num_steps, **given)


def endless():
    return itertools.repeat((X, Y))


def counted(batches, taken):
    for batch in batches:
        taken.append(batch)
        yield batch


def test_the_same_batch_again_and_again_is_the_run_of_train():
    options = {
        "observe": [observers.ntk_drift, observers.loss, observers.parameter_distance],
        "observe_at": [0, 3, 7],
    }
    found = on_batches(endless(), 7, **options)
    assert_trees_close(found, on_all(7, **options), "same_algebra")
    # The caller's parameters are still there.
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(PARAMS))


def test_each_batch_takes_one_step_in_order():
    rng = np.random.default_rng(0)
    weights = np.zeros((3, 1))
    pairs = [
        (rng.normal(size=(size, 3)), rng.normal(size=(size, 1)))
        for size in (4, 4, 2, 5)
    ]
    expected, current = [], weights
    for x, y in pairs:
        residual = x @ current - y
        expected.append((residual**2).sum() / 2)
        current = current - 0.1 * x.T @ residual
    x, y = pairs[-1]
    expected.append(((x @ current - y) ** 2).sum() / 2)
    taken = []
    single = [tuple(part.astype("float32") for part in pair) for pair in pairs]
    run = train_on_batches(
        lambda w, x: x @ w,
        jnp.zeros((3, 1)),
        counted([*single, None], taken),
        optimizer=optax.sgd(0.1),
        num_steps=4,
        observe=[observers.on_inputs(observers.outputs, X[:, :3])],
        observe_at=[4],
    )
    assert len(taken) == 4
    assert_close(run.loss, np.asarray(expected))
    assert_close(run.params, current)
    seen = run.observations["outputs_on_inputs"][0]
    assert_close(seen, np.asarray(X[:, :3], np.float64) @ current)


def test_the_run_stops_as_train_does_and_takes_no_further_batch():
    options = {
        "optimizer": optax.sgd(0.05),
        "observe": [observers.outputs],
        "observe_at": [0, 5, 40],
    }
    target = float(on_all(10, optimizer=options["optimizer"]).loss[6])
    taken = []
    found = on_batches(counted(endless(), taken), 40, target_loss=target, **options)
    expected = on_all(40, target_loss=target, **options)
    assert found.stopped_at == expected.stopped_at > 0
    assert len(taken) == found.stopped_at + 1
    assert_trees_close(found, expected, "same_algebra")


def test_divergence_is_a_result():
    options = {"optimizer": optax.sgd(1e4)}
    found, expected = on_batches(endless(), 12, **options), on_all(12, **options)
    assert found.diverged_at == expected.diverged_at > 0
    assert found.status == 2
    np.testing.assert_array_equal(np.isfinite(found.loss), np.isfinite(expected.loss))
    limited = on_batches(endless(), 12, max_loss=1e3, **options)
    assert limited.diverged_at == on_all(12, max_loss=1e3, **options).diverged_at


def test_no_step_is_the_loss_of_the_first_batch():
    assert_trees_close(on_batches(endless(), 0), on_all(0), "same_algebra")


def test_observers_may_return_parameters():
    run = on_batches(
        endless(), 3, observe={"params": lambda at: at.params}, observe_at=[0, 1, 2, 3]
    )
    first = jax.tree.map(lambda leaf: leaf[0], run.observations["params"])
    last = jax.tree.map(lambda leaf: leaf[3], run.observations["params"])
    assert_trees_close(first, PARAMS, "same_algebra")
    assert_trees_close(last, run.params, "same_algebra")


def test_labels_become_one_hot():
    labels = np.arange(len(X)) % 2
    hot = np.eye(2, dtype="float32")[labels]
    loss_fn = losses.cross_entropy_loss
    found = on_batches(itertools.repeat((X, labels)), 3, loss_fn=loss_fn)
    assert_trees_close(
        found,
        on_batches(itertools.repeat([X, hot]), 3, loss_fn=loss_fn),
        "same_algebra",
    )


def test_progress_and_callback_are_those_of_train():
    told, heard = ([], []), ([], [])
    for run, shares, calls in zip(
        (lambda **o: on_batches(endless(), 4, **o), lambda **o: on_all(4, **o)),
        told,
        heard,
        strict=True,
    ):
        run(
            progress=lambda share, _, shares=shares: shares.append(share),
            callback=lambda step, metrics, calls=calls: calls.append((step, metrics)),
            observe=[observers.residual_norm],
            observe_at=[0, 1, 4],
        )
    assert told[0] == told[1]
    assert [step for step, _ in heard[0]] == [0, 1, 4]
    for (_, found), (_, expected) in zip(*heard, strict=True):
        assert found == pytest.approx(expected, rel=1e-5)


def test_an_iterator_that_ends_is_refused():
    with pytest.raises(ValueError, match=r"`batches` .* it ended after 2"):
        on_batches([(X, Y)] * 2, 3)


@pytest.mark.parametrize("batch", [X, (X,), (X, Y, Y), {"x": X, "y": Y}, ([1.0], Y)])
def test_batches_that_are_no_pairs_are_refused(batch, own_errors):
    with pytest.raises(TypeError, match="`batches` must yield pairs"):
        on_batches([batch], 1)


def test_what_is_no_iterable_is_refused(own_errors):
    with pytest.raises(TypeError, match="`batches` must be an iterable"):
        on_batches(3, 1)


@pytest.mark.parametrize("name", ["x", "y"])
def test_each_batch_is_checked_and_named(name):
    bad = {"x": np.asarray(X), "y": np.asarray(Y)}
    bad[name] = np.full_like(bad[name], np.nan)
    with pytest.raises(ValueError, match=f"`{name}`") as caught:
        on_batches([(X, Y), (X, Y), (bad["x"], bad["y"])], 3)
    assert caught.value.__notes__ == ["It was raised by the batch of step 2."]


# Kept on disk -------------------------------------------------------------------------


def numbered(count=12, taken=None):
    """Batches that all differ, in size too; those that are taken are written down."""
    for step in range(count):
        if taken is not None:
            taken.append(step)
        size = 3 + step % 2
        yield X[:size] + 0.1 * step, Y[:size]


def kept_run(folder, batches=None, **options):
    given: dict[str, Any] = {
        "observe": {"loss": observers.loss, "params": lambda at: at.params},
        "observe_at": [0, 3, 4, 9, 12],
        "checkpoint": folder,
        "checkpoint_every": 4,
    }
    batches = numbered() if batches is None else batches
    return on_batches(batches, 12, **(given | options))


class Killed(Exception):
    pass


def dies_after(count):
    yield from itertools.islice(numbered(), count)
    raise Killed


@pytest.mark.parametrize(
    "count", [5, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 4, 9, 11))]
)
def test_a_run_that_was_killed_goes_on_to_the_same_bits(tmp_path, count):
    expected = kept_run(None, checkpoint_every=None)
    with pytest.raises(Killed):
        kept_run(tmp_path, dies_after(count))
    assert (tmp_path / "run.npz").exists() == (count > 3)
    calls, taken = [], []
    found = kept_run(
        tmp_path, numbered(taken=taken), callback=lambda step, _: calls.append(step)
    )
    assert_trees_close(found, expected, "exact")
    assert taken == list(range(12))
    kept = count // 4 * 4
    assert calls == [step for step in (0, 3, 4, 9, 12) if step >= kept]
    # What is whole is only read.
    assert_trees_close(kept_run(tmp_path, numbered(1)), expected, "exact")


def test_a_run_that_has_stopped_is_kept_whole(tmp_path):
    target = float(kept_run(None, checkpoint_every=None).loss[6])
    expected = kept_run(None, checkpoint_every=None, target_loss=target)
    assert 0 < expected.stopped_at < 12
    for batches in (numbered(), numbered(1)):
        found = kept_run(tmp_path, batches, target_loss=target)
        assert_trees_close(found, expected, "exact")


def test_other_batches_or_another_run_are_refused(tmp_path):
    with pytest.raises(Killed):
        kept_run(tmp_path, dies_after(9))
    before = (tmp_path / "run.npz").read_bytes()
    other = [(x, y + (step == 5)) for step, (x, y) in enumerate(numbered())]
    with pytest.raises(ValueError, match="among the first 8 there is another"):
        kept_run(tmp_path, other)
    with pytest.raises(ValueError, match="holds one with another `batches`"):
        kept_run(tmp_path, itertools.islice(numbered(), 1, None))
    with pytest.raises(ValueError, match="holds one with another `optimizer`"):
        kept_run(tmp_path, optimizer=optax.sgd(0.04, momentum=0.9))
    with pytest.raises(ValueError, match="it ended after 3"):
        kept_run(tmp_path, numbered(3))
    with pytest.raises(ValueError, match="it is no file of a training run,"):
        on_all(12, checkpoint=tmp_path, checkpoint_every=4)
    assert (tmp_path / "run.npz").read_bytes() == before
    with pytest.raises(ValueError, match="`checkpoint_every` must divide"):
        kept_run(tmp_path, checkpoint_every=5)
    # Batches beyond those taken may be others.
    later = [(x, y + (step > 8)) for step, (x, y) in enumerate(numbered())]
    kept_run(tmp_path, later)
