"""Training: against hand-written descent, closed forms and explicit loops."""

import collections
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.typing import DTypeLike

from lazyjax.dynamics import (
    Snapshot,
    linear_dynamics,
    observers,
    square_loss,
    train,
)
from tests.helpers import two_layer
from tests.helpers.compare import assert_close, relative_error

pytestmark = pytest.mark.once

SGD = optax.sgd(0.1)
SMALL_STEPS = optax.sgd(0.02)


def linear(params, x):
    return x @ params["w"]


def squared_entries(params, x):
    return x @ jnp.square(params["w"])


def seen_step(snapshot):
    return jnp.asarray(snapshot.step)


def linear_problem(dtype: DTypeLike = np.float64, n: int = 4, d: int = 6, k: int = 2):
    rng = np.random.default_rng([n, d, k])
    x, y, w = rng.normal(size=(n, d)), rng.normal(size=(n, k)), rng.normal(size=(d, k))
    return {"w": w.astype(dtype)}, x.astype(dtype), y.astype(dtype)


def assert_same_run(actual, expected):
    for leaf1, leaf2 in zip(*map(jax.tree.leaves, (actual, expected)), strict=True):
        is_real = jnp.issubdtype(leaf2.dtype, jnp.floating)
        assert_close(leaf1, leaf2, "same_algebra" if is_real else "exact")


# --- oracles and closed forms -------------------------------------------------------


@pytest.mark.parametrize(("n", "k"), [(5, 2), (1, 1), (4, 3)])
def test_gradient_descent_equals_hand_written_descent(dtype, n, k):
    params, x, y = two_layer.problem(n=n, k=k)
    trajectory = two_layer.oracle_descent(params, x, y, 0.1, 25)
    losses = [two_layer.oracle_loss(p, x, y) for p in trajectory]
    run = train(
        two_layer.apply,
        *two_layer.problem(dtype, n=n, k=k),
        optimizer=SGD,
        num_steps=25,
    )
    assert run.loss.dtype == run.params["V"].dtype == dtype
    assert_close(run.loss, np.asarray(losses, dtype), "other_algorithm")
    for name, leaf in run.params.items():
        assert_close(leaf, trajectory[-1][name].astype(dtype), "other_algorithm")
    assert losses[-1] < 0.5 * losses[0]  # the comparison is of a run that moves


@pytest.mark.sampled(1)
def test_linear_model_follows_its_closed_form_at_every_step(dtype):
    params, x, y = linear_problem(dtype)
    steps = np.arange(31)
    run = train(
        linear,
        params,
        x,
        y,
        optimizer=SMALL_STEPS,
        num_steps=30,
        observe=[observers.outputs],
        observe_at=steps,
    )
    flow = linear_dynamics(x @ x.T, y, x @ params["w"])
    expected = flow.gradient_descent(steps, 0.02)
    assert_close(run.observations["outputs"], expected)
    assert_close(run.loss, flow.gradient_descent_loss(steps, 0.02))
    # A learning rate 1 % off is told apart.
    assert relative_error(expected, flow.gradient_descent(steps, 0.0202)) > 1e-4


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.sgd(0.05, momentum=0.9),
        optax.adam(1e-2),
        optax.polyak_sgd(),  # uses the value of the loss
        optax.sgd(optax.linear_schedule(0.1, 0.0, 10)),
    ],
    ids=["momentum", "adam", "polyak", "schedule"],
)
@pytest.mark.sampled(2)
def test_optimizers_equal_an_explicit_loop(x64, optimizer):
    params, x, y = jax.tree.map(jnp.asarray, two_layer.problem())
    loss_at = lambda p: square_loss(two_layer.apply(p, x), y)
    expected, losses = params, []
    with jax.numpy_dtype_promotion("standard"):  # optax raises floats to integers
        run = train(two_layer.apply, params, x, y, optimizer=optimizer, num_steps=12)
        loop = optax.with_extra_args_support(optimizer)
        state = loop.init(expected)
        for _ in range(12):
            loss, grads = jax.value_and_grad(loss_at)(expected)
            updates, state = loop.update(grads, state, expected, value=loss)
            expected = optax.apply_updates(expected, updates)
            losses.append(loss)
    losses.append(loss_at(expected))
    assert_close(run.loss, jnp.stack(losses), "other_algorithm")
    for leaf1, leaf2 in zip(*map(jax.tree.leaves, (run.params, expected)), strict=True):
        assert_close(leaf1, leaf2, "other_algorithm")


def test_scaled_loss_has_the_same_run_at_the_scaled_learning_rate(x64):
    params, x, y = two_layer.problem()
    run = train(two_layer.apply, params, x, y, optimizer=SGD, num_steps=10)
    mean = train(
        two_layer.apply,
        params,
        x,
        y,
        optimizer=optax.sgd(0.1 * y.size),
        num_steps=10,
        loss_fn=lambda f, y: jnp.mean(jnp.square(f - y)) / 2,
    )
    assert_close(mean.loss * y.size, run.loss)
    assert_close(mean.params["V"], run.params["V"])


# --- divergence ---------------------------------------------------------------------


def test_descent_diverges_just_beyond_twice_the_inverse_of_the_top_eigenvalue(x64):
    params, x, y = linear_problem()
    limit = 2 / np.linalg.eigvalsh(x @ x.T)[-1]
    short, long = (
        train(linear, params, x, y, optimizer=optax.sgd(c * limit), num_steps=400)
        for c in (0.98, 1.02)
    )
    assert short.loss[-1] < short.loss[0]
    assert long.loss[-1] > 1e4 * long.loss[0]


def test_divergence_is_a_result_with_its_first_step():
    params, x, y = linear_problem(np.float32)
    run = train(
        linear,
        params,
        x,
        y,
        optimizer=optax.sgd(1e4),
        num_steps=40,
        observe=[observers.ntk_eig_min, observers.residual_norm],
        observe_at=[0, 1, 40],
    )
    first_bad = np.flatnonzero(~np.isfinite(np.asarray(run.loss)))[0]
    assert 0 < first_bad < 40
    assert run.diverged_at == first_bad
    assert np.isfinite(run.observations["residual_norm"][:2]).all()
    assert not np.isfinite(run.observations["residual_norm"][2])
    calm = train(linear, params, x, y, optimizer=optax.sgd(1e-3), num_steps=40)
    assert calm.diverged_at == -1


def test_one_diverging_seed_leaves_the_others_alone():
    _, x, y = linear_problem(np.float32)
    w = jnp.stack([jnp.full((6, 2), 0.1), jnp.full((6, 2), 30.0)])
    run = jax.vmap(
        lambda w: train(
            squared_entries, {"w": w}, x, y, optimizer=optax.sgd(1e-3), num_steps=30
        )
    )(w)
    assert run.diverged_at.tolist()[0] == -1
    assert run.diverged_at.tolist()[1] > 0
    assert jnp.isfinite(run.loss[0]).all()


# --- observation --------------------------------------------------------------------


@pytest.mark.parametrize(
    "steps", [[0], [9], [4], [0, 4, 5], [3, 9], list(range(10))], ids=str
)
def test_observers_look_at_the_chosen_steps_and_change_nothing(x64, steps):
    params, x, y = linear_problem()
    settings = {"optimizer": SMALL_STEPS, "num_steps": 9}
    plain = train(linear, params, x, y, **settings)
    run = train(
        linear,
        params,
        x,
        y,
        **settings,
        observe={"step": seen_step, "outputs": observers.outputs},
        observe_at=steps,
    )
    assert run.observed_at.tolist() == steps
    assert run.observations["step"].tolist() == steps
    assert_close(run.loss, plain.loss)
    assert_close(run.params["w"], plain.params["w"])
    errors = np.asarray(run.observations["outputs"]) - y
    assert_close((errors**2).sum((1, 2)) / 2, plain.loss[jnp.array(steps)])


def test_first_and_last_step_are_observed_unless_told_otherwise():
    params, x, y = linear_problem(np.float32)
    observe = {"step": seen_step}
    run = train(linear, params, x, y, optimizer=SGD, num_steps=7, observe=observe)
    assert run.observations["step"].tolist() == run.observed_at.tolist() == [0, 7]


def test_no_steps_at_all_return_the_start():
    params, x, y = linear_problem(np.float32)
    run = train(
        linear,
        params,
        x,
        y,
        optimizer=SGD,
        num_steps=0,
        observe=[observers.outputs, observers.parameter_distance],
    )
    assert_close(run.params["w"], params["w"], "exact")
    assert_close(run.observations["outputs"], (x @ params["w"])[None])
    assert run.observations["parameter_distance"].tolist() == [0.0]
    assert run.loss.shape == (1,)


def test_observations_may_be_pytrees_and_see_targets():
    params, x, y = linear_problem(np.float32)

    def several(snapshot: Snapshot):
        return {"y": snapshot.y, "norms": (jnp.linalg.norm(snapshot.params["w"]), 1)}

    run = train(linear, params, x, y, optimizer=SGD, num_steps=2, observe=[several])
    seen = run.observations["several"]
    assert_close(seen["y"], np.stack([y, y]), "exact")
    assert seen["norms"][0].shape == (2,)
    assert seen["norms"][1].tolist() == [1, 1]


# --- contract -----------------------------------------------------------------------


def observed_run(params, x, y, learning_rate=0.1):
    return train(
        two_layer.apply,
        params,
        x,
        y,
        optimizer=optax.sgd(learning_rate),
        num_steps=6,
        observe=[observers.ntk_drift, observers.parameter_distance],
        observe_at=[0, 3],
    )


@pytest.mark.compiler
def test_vmap_over_seeds_equals_a_loop(x64):
    params, x, y = two_layer.problem()
    seeds = [jax.tree.map(lambda w, c=c: c * w, params) for c in (0.5, 1.0, 2.0)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *seeds)
    together = jax.vmap(lambda p: observed_run(p, x, y))(stacked)
    alone = [observed_run(p, x, y) for p in seeds]
    for index, run in enumerate(alone):
        member = jax.tree.map(lambda leaf, i=index: leaf[i], together)
        assert_same_run(member, run)
    assert relative_error(alone[0].loss, alone[1].loss) > 1e-2


@pytest.mark.compiler
def test_jit_equals_eager_and_the_result_is_a_pytree(mode):
    problem = two_layer.problem(np.float32)
    run = mode(observed_run)(*problem)
    assert_same_run(run, observed_run(*problem))
    assert jax.tree.structure(run) == jax.tree.structure(jax.tree.map(jnp.copy, run))
    with pytest.raises(dataclasses.FrozenInstanceError):
        run.loss = None


def test_a_mapped_constant_may_be_closed_over():
    params, x, y = two_layer.problem(np.float32)

    def final_loss(alpha):
        scaled = lambda p, x: alpha * two_layer.apply(p, x)
        run = train(
            scaled,
            params,
            x,
            y,
            optimizer=SGD,
            num_steps=5,
            observe=[observers.ntk_eig_max],
        )
        return run.loss[-1], run.observations["ntk_eig_max"]

    alphas = jnp.array([0.5, 1.0])
    together = jax.vmap(final_loss)(alphas)
    alone = [final_loss(alpha) for alpha in (0.5, 1.0)]
    assert_close(together[0], jnp.stack([loss for loss, _ in alone]))
    assert_close(together[1], jnp.stack([eig_max for _, eig_max in alone]))


def test_gradients_are_taken_through_a_run(x64):
    params, x, y = linear_problem(n=3, d=3, k=1)

    def final_loss(rate):
        optimizer = optax.inject_hyperparams(optax.sgd)(rate)
        run = train(linear, params, x, y, optimizer=optimizer, num_steps=5)
        return run.loss[-1]

    slope = jax.grad(final_loss)(0.05)
    numeric = (final_loss(0.05 + 1e-6) - final_loss(0.05 - 1e-6)) / 2e-6
    assert_close(slope, numeric, 1e-6)  # as central differences allow
    assert slope < 0


def test_parameters_of_the_caller_are_left_alone():
    params, x, y = jax.tree.map(jnp.asarray, linear_problem(np.float32))
    before = np.array(params["w"])
    train(linear, params, x, y, optimizer=SGD, num_steps=3)
    assert_close(params["w"], before, "exact")


def counting(calls):
    def apply_fn(params, x):
        calls.append("apply")
        return x @ params["w"]

    def loss_fn(f, y):
        calls.append("loss")
        return square_loss(f, y)

    def observer(snapshot):
        calls.append("observe")
        return snapshot.outputs

    return apply_fn, loss_fn, observer


def test_second_call_does_not_retrace():
    # Not a list: what it holds would be part of what the functions are.
    calls = collections.deque()
    apply_fn, loss_fn, observer = counting(calls)
    params, x, y = linear_problem(np.float32)
    go = functools.partial(
        train,
        apply_fn,
        optimizer=SGD,
        num_steps=5,
        loss_fn=loss_fn,
        observe=[observer],
    )
    go(params, x, y, observe_at=[0, 2, 4])
    assert {"apply", "loss", "observe"} <= set(calls)
    calls.clear()
    go({"w": params["w"] + 1}, -x, y + 1, observe_at=[0, 1, 3])
    assert not calls
    # Another function, although it does the same, is traced anew.
    go(params, x, y, observe=[lambda s: observer(s)], observe_at=[0, 2, 4])
    assert "observe" in calls


class Scaled:
    """A callable that compares by value and hence has no hash."""

    def __init__(self, scale):
        self.scale = scale

    def __eq__(self, other):
        return isinstance(other, Scaled) and self.scale == other.scale

    def __call__(self, params, x):
        return self.scale * (x @ params["w"])


def test_functions_without_a_hash_work_and_their_changes_are_seen():
    params, x, y = linear_problem(np.float32)
    model = Scaled(1.0)
    go = lambda fn: train(
        fn,
        params,
        x,
        y,
        optimizer=SMALL_STEPS,
        num_steps=3,
        observe=[observers.ntk_eig_max],
    )
    plain = go(linear)
    assert_same_run(go(model), plain)
    model.scale = 2.0
    changed = go(model).observations["ntk_eig_max"]
    assert_close(changed, 4 * plain.observations["ntk_eig_max"])


# --- misuse -------------------------------------------------------------------------

PARAMS, X, Y = linear_problem(np.float32)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"apply_fn": "mlp"}, TypeError, "`apply_fn` must be callable"),
        ({"loss_fn": None}, TypeError, "`loss_fn` must be callable"),
        ({"optimizer": 0.1}, TypeError, "`optimizer` must be an optax"),
        ({"num_steps": -1}, ValueError, "`num_steps` must be at least 0"),
        ({"num_steps": 2.0}, TypeError, "`num_steps` must be an integer"),
        ({"params": {"w": 1.0}}, TypeError, r"`params\['w'\]`"),
        ({"params": {}}, ValueError, "`params`"),
        ({"x": X * np.nan}, ValueError, "`x` must be finite"),
        ({"x": X[:0]}, ValueError, "`x` must hold at least one"),
        ({"y": Y[:, 0]}, ValueError, r"`y` must have shape \(4, 2\)"),
        ({"y": Y[:3]}, ValueError, r"`y` must have shape \(4, 2\)"),
        ({"y": Y.astype(np.int32)}, TypeError, "`y` must be a real floating-point"),
        ({"y": Y * np.inf}, ValueError, "`y` must be finite"),
        ({"y": Y.astype(np.float16)}, TypeError, "`y` must have the dtype"),
        ({"apply_fn": lambda p, x: (x @ p["w"])[0]}, ValueError, r"shape \(n, k\)"),
        ({"apply_fn": lambda p, x: (x @ p["w"],)}, TypeError, r"shape \(n, k\)"),
        (
            {"apply_fn": lambda p, x: (x @ p["w"]).astype(jnp.int32)},
            TypeError,
            "`apply_fn` must return real floating-point",
        ),
        ({"loss_fn": lambda f, y: f - y}, TypeError, "`loss_fn` must return"),
        ({"observe": seen_step}, TypeError, "`observe` must be a sequence"),
        ({"observe": ["ntk"]}, TypeError, "`observe` must hold functions"),
        ({"observe": [seen_step, seen_step]}, ValueError, "'seen_step' twice"),
        (
            {"observe": [functools.partial(seen_step)]},
            TypeError,
            "`observe` must name every observer",
        ),
        ({"observe_at": []}, ValueError, "`observe_at` must be one or more integer"),
        ({"observe_at": [0.5]}, ValueError, "`observe_at` must be one or more integer"),
        ({"observe_at": [[0, 1]]}, ValueError, "in one dimension"),
        ({"observe_at": [2, 1]}, ValueError, "`observe_at` must increase strictly"),
        ({"observe_at": [1, 1]}, ValueError, "`observe_at` must increase strictly"),
        ({"observe_at": [-1, 1]}, ValueError, "`observe_at` must increase strictly"),
        ({"observe_at": [0, 4]}, ValueError, "`num_steps` = 3"),
    ],
)
def test_misuse_is_refused_with_the_name_of_the_argument(
    own_errors, changes, error, message
):
    good = {
        "apply_fn": linear,
        "params": PARAMS,
        "x": X,
        "y": Y,
        "optimizer": SGD,
        "num_steps": 3,
    }
    with pytest.raises(error, match=message):
        train(**(good | changes))
