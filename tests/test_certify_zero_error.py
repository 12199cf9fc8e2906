"""Zero training error: when it is promised, it is there, and before zero loss is."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lazyjax import certify
from lazyjax.certify import Verdict
from lazyjax.data import sphere
from lazyjax.nets import mlp
from tests.helpers.program_problems import KINDS, start

pytestmark = pytest.mark.once

DATA = sphere(4, 32, key=jax.random.key(0))
X, Y = np.asarray(DATA.x_train, np.float64), np.asarray(DATA.y_train, np.float64)


def start_of(width):
    network = mlp(width=width, activation="softplus", trained="first", symmetrized=True)
    return network, network.init(jax.random.key(1), DATA.x_train)


def outputs_after(network, params, time, num_steps=400):
    """Outputs after gradient flow, by the method of Runge and Kutta in float64."""

    def slope(p):
        return jax.grad(lambda p: jnp.sum((network.apply(p, X) - Y) ** 2) / -2)(p)

    def moved(p, k, size):
        return jax.tree.map(lambda a, b: a + size * b, p, k)

    def step(p, _):
        h = time / num_steps
        k1 = slope(p)
        k2 = slope(moved(p, k1, h / 2))
        k3 = slope(moved(p, k2, h / 2))
        k4 = slope(moved(p, k3, h))
        for k, weight in ((k1, 1), (k2, 2), (k3, 2), (k4, 1)):
            p = moved(p, k, h * weight / 6)
        return p, None

    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), params)
        last = jax.jit(lambda p: jax.lax.scan(step, p, None, num_steps)[0])(wide)
        return np.asarray(network.apply(last, X))


def test_no_example_is_wrong_when_it_is_promised():
    network, params = start_of(512)
    found = certify.zero_training_error(network, params, X, Y)
    assert found.is_certified
    f = outputs_after(network, params, found["time"])
    assert np.all(f * Y > 0)
    assert np.linalg.norm(f - Y) < found["least_margin"]


def test_it_needs_less_than_zero_loss():
    widths = range(64, 512, 32)
    least = {
        verb: next(
            width for width in widths if verb(*start_of(width), X, Y).is_certified
        )
        for verb in (certify.gradient_flow, certify.zero_training_error)
    }
    assert least[certify.zero_training_error] < least[certify.gradient_flow]


def test_nothing_needs_to_happen_where_all_are_right():
    x, y = np.eye(2), np.array([[1.0], [-1.0]])
    found = certify.zero_training_error(lambda p, x: x @ p, 0.9 * y, x, y)
    assert found.is_certified
    assert found["time"] == 0


def test_zero_residual_and_constant_outputs_are_no_edge():
    x, y = np.eye(2), np.array([[1.0], [-1.0]])
    there = certify.zero_training_error(lambda p, x: x @ p, y, x, y)
    assert there.is_certified
    assert there["lasts"] > 1e20
    constant = certify.zero_training_error(lambda p, x: 0 * (x @ p), y, x, y)
    assert not constant.is_certified
    still = certify.zero_training_error(lambda p, x: 0 * (x @ p) + 0.5, y, x[:1], y[:1])
    assert still.is_certified


def test_several_outputs_have_the_margin_of_the_two_largest():
    x, y = np.eye(2), np.array([[1.0, 0.0, 0.0], [0.0, 0.5, 3.5]])
    found = certify.zero_training_error(lambda p, x: x @ p, 0 * y, x, y)
    assert found["least_margin"] == pytest.approx(1 / 2**0.5)
    # The flow of a linear model of orthonormal inputs is known.
    expected = np.log(np.linalg.norm(y) * 2**0.5)
    assert found["time"] == pytest.approx(expected, rel=1e-4)
    assert found.verdict is Verdict.CERTIFIED


def test_targets_without_a_class_are_refused():
    x = np.eye(2)
    for y in (np.array([[1.0], [0.0]]), np.ones((2, 2))):
        with pytest.raises(ValueError, match="`y` must say the class"):
            certify.zero_training_error(
                lambda p, x: x @ p, np.ones((2, y.shape[1])), x, y
            )


# Descent.


def test_descent_classifies_all_within_the_steps_promised():
    network, params = start_of(512)
    found: Any = certify.zero_training_error(network, params, X, Y, dynamics="descent")
    assert found.is_certified
    assert 1 < found["num_steps"] < 1e4

    def step(p):
        loss_fn = lambda p: jnp.sum((network.apply(p, jnp.asarray(X)) - Y) ** 2) / 2
        grad = jax.grad(loss_fn)(p)
        return jax.tree.map(lambda a, b: a - found.step_size * b, p, grad)

    with jax.enable_x64(True):
        p = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), params)
        step, norms, f = jax.jit(step), [], np.zeros_like(Y)
        for _ in range(int(found["num_steps"]) + 1):
            f = np.asarray(network.apply(p, jnp.asarray(X)))
            norms.append(np.linalg.norm(f - Y))
            if norms[-1] < found["least_margin"]:
                break
            p = step(p)
    assert np.all(f * Y > 0)
    assert np.all(np.diff(norms) < 0)


def test_descent_of_a_linear_model_takes_the_steps_of_its_closed_form():
    """r is multiplied by 1 - eta at each step, and the bound is exp(-eta (1 - eps))."""
    x, y = np.eye(2), np.array([[1.0], [-3.0]])
    found = certify.zero_training_error(
        lambda p, x: x @ p, 0 * y, x, y, dynamics="descent", learning_rate=0.1
    )
    needed = np.log(10**0.5) / -np.log(0.9)
    assert needed <= found["num_steps"] <= 1.2 * needed + 1
    too_large = certify.zero_training_error(
        lambda p, x: x @ p, 0 * y, x, y, dynamics="descent", learning_rate=2.1
    )
    assert not too_large.is_certified


def test_the_last_step_of_descent_may_go_beyond_the_ball():
    """Steps are bounded by a smoothness that holds where the last one ends, too."""
    network, params = start_of(512)
    flow = certify.zero_training_error(network, params, X, Y)
    found: Any = certify.zero_training_error(network, params, X, Y, dynamics="descent")
    last = 2 * found["epsilon"] * found["residual"] / found["jacobian_norm"]
    assert found.radius >= found["path_length"] + last
    assert found["path_length"] > flow["path_length"]
    reached = found["jacobian_norm"] ** 2 + found["lipschitz"] * found["residual"]
    assert found["smoothness"] > reached
    assert found.step_size <= 2 * found["epsilon"] / found["smoothness"]


# The logistic loss.


def test_logistic_flow_classifies_all_in_the_time_promised():
    x, y = np.eye(2), np.array([[1.0], [-1.0]])
    found = certify.zero_training_error(
        lambda p, x: x @ p, np.array([[-1.0], [-1.0]]), x, y, loss="logistic"
    )
    assert found.is_certified
    # Of each weight v = y w, v' = 1 / (n (1 + e^v)); so v + e^v grows by t / n.
    v = np.array([-1.0, 1.0])
    for _ in range(20_000):
        v = v + found["time"] / 20_000 / 2 / (1 + np.exp(v))
    assert np.all(v > 0)
    assert np.sum(np.log1p(np.exp(-v))) < np.log(2)
    assert found["lasts"] > 1e20


def test_logistic_loss_that_is_small_enough_needs_no_path():
    x, y = np.ones((2, 1)), np.ones((2, 1))  # singular: no path is certain
    right, wrong = np.array([[2.0]]), np.array([[-2.0]])
    verdicts = [
        certify.zero_training_error(lambda p, x: x @ p, w, x, y, loss="logistic")
        for w in (right, wrong)
    ]
    assert verdicts[0].is_certified
    assert verdicts[0]["time"] == 0
    assert not verdicts[1].is_certified


# What must not be promised.


def jumps(p, x):
    return jnp.where(p < 1, p, -p) * x


@pytest.mark.parametrize("y", [2.0, 1.2])
def test_it_lasts_no_longer_than_the_network_is_known_to_be_smooth(y):
    """f = w up to 1, and -w beyond: flow from w to 2 is right until w = 1, for log(1.5)."""
    found = certify.zero_training_error(
        jumps, np.array([[0.5]]), np.ones((1, 1)), np.array([[y]])
    )
    assert found.is_certified
    assert found["time"] == 0
    crosses = np.log((y - 0.5) / (y - 1))
    assert 0 < found["lasts"] <= crosses
    smooth = certify.zero_training_error(
        lambda p, x: p * x, np.array([[0.5]]), np.ones((1, 1)), np.array([[y]])
    )
    assert smooth["lasts"] > 1e20


def test_right_answers_far_from_the_targets_are_not_enough():
    """The flow of the square loss may undo them: 10 becomes 1 and takes 2 to -1."""
    x = np.array([[1.0], [0.2]])
    y = np.array([[1.0], [-0.5]])
    fn = lambda p, x: jnp.concatenate([p[:1] * x[:, :1]], 1)
    found = certify.zero_training_error(fn, np.array([[10.0]]), x, y)
    assert not found.is_certified


@pytest.mark.parametrize("loss", ["square", "logistic"])
def test_equal_inputs_of_two_classes_are_refuted_and_of_one_are_not(loss):
    x, w = np.ones((2, 2)), np.zeros((2, 1))
    fn = lambda p, x: x @ p
    two = certify.zero_training_error(fn, w, x, np.array([[1.0], [-1.0]]), loss=loss)
    assert two.verdict is Verdict.REFUTED
    one = certify.zero_training_error(fn, w, x, np.ones((2, 1)), loss=loss)
    assert one.verdict is Verdict.INCONCLUSIVE


def test_different_targets_of_one_class_are_no_conflict():
    x, y = np.ones((2, 1)), np.array([[1.0], [1.1]])
    found = certify.zero_training_error(lambda p, x: x @ p, np.ones((1, 1)), x, y)
    assert found.is_certified


@pytest.mark.usefixtures("own_errors")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dynamics": "adam"}, "`dynamics` must be"),
        ({"loss": "hinge"}, "`loss` must be"),
        ({"dynamics": "descent", "loss": "logistic"}, "`dynamics` must be 'flow'"),
        ({"learning_rate": 0.1}, "`learning_rate` is of dynamics='descent'"),
        ({"dynamics": "descent", "learning_rate": -0.1}, "`learning_rate`"),
        ({"loss": "logistic"}, "one column of -1 and 1"),
    ],
)
def test_bad_arguments_are_named(options, message):
    x, y = np.eye(2), 2 * np.ones((2, 1))
    with pytest.raises(ValueError, match=message):
        certify.zero_training_error(lambda p, x: x @ p, 1.0 * y, x, y, **options)


# Random problems, run to the time or step that is promised.

LOSSES = {
    "square": lambda f, y: jnp.sum((f - y) ** 2) / 2,
    "logistic": lambda f, y: jnp.mean(jnp.log1p(jnp.exp(-y * f))),
}
NUM_STEPS = 2000


def shifted(kind):
    """The function plus the last feature, by which outputs can be chosen."""
    return lambda p, x: KINDS[kind](p, x[:, :-1]) + x[:, -1:]


@functools.cache
def run_of(kind, loss, is_flow):
    """Outputs along flow by short steps of Runge and Kutta, or along descent."""
    fn = shifted(kind)

    def run(params, x, y, step):
        slope = jax.grad(lambda p: -LOSSES[loss](fn(p, x), y))

        def moved(p, k, size):
            return jax.tree.map(lambda a, b: a + size * b, p, k)

        def advance(p, _):
            k1 = slope(p)
            last = moved(p, k1, step)
            if is_flow:
                k2 = slope(moved(p, k1, step / 2))
                k3 = slope(moved(p, k2, step / 2))
                k4 = slope(moved(p, k3, step))
                last = p
                for k, weight in ((k1, 1), (k2, 2), (k3, 2), (k4, 1)):
                    last = moved(last, k, step * weight / 6)
            return last, fn(p, x)

        last, seen = jax.lax.scan(advance, params, None, NUM_STEPS)
        return jnp.concatenate([seen, fn(last, x)[None]])

    return jax.jit(run)


def is_kept(kind, seed, dynamics, loss):
    """Whether a promise is kept, of a start at which one of two examples is wrong.

    Returns:
        `None` if nothing is promised, or only for too many steps to look.
    """
    params, x = start(kind, seed)
    rng = np.random.default_rng(seed)
    y, off = rng.choice([-1.0, 1.0], (2, 1)), 10.0 ** rng.uniform(-4, -0.5)
    far = 1.0 if loss == "square" else 7.0
    with jax.enable_x64(True):
        shift = y * np.array([[-off], [far]]) - np.asarray(KINDS[kind](params, x))
    x = np.concatenate([x, shift], axis=1)
    found: Any = certify.zero_training_error(
        shifted(kind), params, x, y, dynamics=dynamics, loss=loss
    )
    is_flow = dynamics == "flow"
    bound = found["time" if is_flow else "num_steps"]
    step = bound / NUM_STEPS if is_flow else found.step_size
    is_long = found["jacobian_norm"] ** 2 * step > 1 if is_flow else bound > NUM_STEPS
    if not found.is_certified or is_long:
        return None
    with jax.enable_x64(True):
        tree = jax.tree.map(jnp.asarray, params)
        f = np.asarray(run_of(kind, loss, is_flow)(tree, x, y, step))
    right = np.all(f * y > 0, axis=(1, 2))
    assert not right[0]
    if is_flow and found["lasts"] >= bound:
        return bool(right[-1])
    return bool(np.any(right if is_flow else right[: int(bound) + 1]))


def outcomes(kind, mode, seeds):
    """Which promises were kept, of those that there are."""
    dynamics, loss = mode
    kept = [is_kept(kind, seed, dynamics, loss) for seed in seeds]
    return [each for each in kept if each is not None]


MODES = [("flow", "square"), ("descent", "square"), ("flow", "logistic")]


@pytest.mark.parametrize(
    ("kind", "mode"), list(zip(("relu", "mlp", "gated"), MODES, strict=True))
)
def test_promises_are_kept(kind, mode):
    kept = outcomes(kind, mode, range(5))
    assert all(kept)
    assert len(kept) >= 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", MODES, ids="-".join)
def test_very_many_promises_are_kept(kind, mode):
    kept = outcomes(kind, mode, range(100, 160))
    assert all(kept)
    assert len(kept) >= 10
