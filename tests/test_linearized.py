"""The linear model's closed forms: against matrix exponentials and iterations."""

import decimal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings, strategies as st

from lazyjax.dynamics import linear_dynamics, square_loss
from lazyjax.linalg import SingularKernelWarning, gram_matrix
from tests.helpers.compare import assert_close, relative_error

pytestmark = pytest.mark.once

SHARED = [False, True]


def problem(shared, n=4, k=2, n_test=3, seed=0, rank=None):
    """Kernels of training and test points, targets and outputs, in float64."""
    rng = np.random.default_rng([n, k, seed])
    outputs = 1 if shared else k
    rank = rank or n * outputs + 2
    features = rng.normal(size=((n + n_test) * outputs, rank)) / rank**0.5
    gram = features @ features.T
    ntk = gram.reshape(n + n_test, outputs, n + n_test, outputs).transpose(0, 2, 1, 3)
    if shared:
        ntk = ntk[:, :, 0, 0]
    y, f0 = rng.normal(size=(2, n, k))
    f0_test = rng.normal(size=(n_test, k))
    return ntk[:n, :n], y, f0, ntk[n:, :n], f0_test


def matrix(ntk, k):
    """`(n1 k, n2 k)` matrix of a kernel of either form, entry by entry."""
    n1, n2 = ntk.shape[:2]
    result = np.zeros((n1 * k, n2 * k))
    for i in range(n1):
        for j in range(n2):
            block = ntk[i, j] if ntk.ndim == 4 else ntk[i, j] * np.eye(k)
            result[i * k : (i + 1) * k, j * k : (j + 1) * k] = block
    return result


def oracle_flow(ntk, y, f0, test_train, f0_test, time):
    """Train and test outputs by one exponential of the joint linear system."""
    k = y.shape[1]
    gram, cross = matrix(ntk, k), matrix(test_train, k)
    size, size_test = len(gram), len(cross)
    generator = np.zeros((size + size_test,) * 2)
    generator[:size, :size] = -gram
    generator[size:, :size] = -cross
    state = np.concatenate([(f0 - y).ravel(), f0_test.ravel()])
    state = scipy.linalg.expm(generator * time) @ state
    return state[:size].reshape(y.shape) + y, state[size:].reshape(f0_test.shape)


def oracle_descent(ntk, y, f0, test_train, f0_test, num_steps, learning_rate):
    """Train and test outputs by the iteration itself."""
    k = y.shape[1]
    gram, cross = matrix(ntk, k), matrix(test_train, k)
    f, f_test, goal = f0.ravel(), f0_test.ravel(), y.ravel()
    for _ in range(num_steps):
        error = f - goal
        f, f_test = (
            f - learning_rate * gram @ error,
            f_test - learning_rate * cross @ error,
        )
    return f.reshape(y.shape), f_test.reshape(f0_test.shape)


def cast(dtype, *arrays):
    return [array.astype(dtype) for array in arrays]


# --- oracles ------------------------------------------------------------------------


@pytest.mark.parametrize("shared", SHARED)
@pytest.mark.parametrize(("n", "k"), [(4, 3), (1, 1)])
def test_flow_equals_the_matrix_exponential(dtype, n, k, shared):
    arrays = problem(shared, n, k)
    ntk, y, f0, test_train, f0_test = cast(dtype, *arrays)
    flow = linear_dynamics(ntk, y, f0)
    times = np.array([0.0, 0.1, 3.0, 40.0])
    expected = [oracle_flow(*arrays, time) for time in times]
    train = flow.gradient_flow(times)
    test = flow.gradient_flow(times, ntk_test_train=test_train, f0_test=f0_test)
    assert train.dtype == test.dtype == dtype
    assert_close(train, np.stack([f for f, _ in expected]), "other_algorithm")
    assert_close(test, np.stack([f for _, f in expected]), "other_algorithm")
    assert_close(flow.gradient_flow(3.0), train[2])


@pytest.mark.parametrize("shared", SHARED)
@pytest.mark.parametrize("share_of_limit", [0.3, 0.5, 0.99, 1.2])
def test_descent_equals_the_iteration_even_where_it_diverges(
    x64, shared, share_of_limit
):
    arrays = problem(shared)
    ntk, y, f0, test_train, f0_test = arrays
    flow = linear_dynamics(ntk, y, f0)
    learning_rate = share_of_limit * float(flow.max_learning_rate)
    steps = np.array([0, 1, 2, 25])
    expected = [oracle_descent(*arrays, step, learning_rate) for step in steps]
    train = flow.gradient_descent(steps, learning_rate)
    test = flow.gradient_descent(
        steps, learning_rate, ntk_test_train=test_train, f0_test=f0_test
    )
    for step in range(len(steps)):
        assert_close(train[step], expected[step][0], 1e-12)
        assert_close(test[step], expected[step][1], 1e-12)


def test_single_precision_descent_equals_the_iteration():
    arrays = problem(shared=False)
    flow = linear_dynamics(*cast(np.float32, *arrays[:3]))
    f = flow.gradient_descent(30, 0.2)
    assert f.dtype == jnp.float32
    assert_close(f, np.float32(oracle_descent(*arrays, 30, 0.2)[0]))


@pytest.mark.parametrize("eigenvalue", [0.0, 1e-310, 1e-20, 1e-9, 1.0, 1e6])
@pytest.mark.parametrize("time", [0.0, 1e-6, 1.0, 1e6])
def test_test_outputs_have_the_right_limit_at_small_eigenvalues(x64, eigenvalue, time):
    flow = linear_dynamics(np.array([[eigenvalue]]), np.ones((1, 1)), np.zeros((1, 1)))
    rate = eigenvalue * time
    expected = time if rate < 1e-300 else -np.expm1(-rate) / eigenvalue
    point = {"ntk_test_train": np.ones((1, 1)), "f0_test": np.zeros((1, 1))}
    assert_close(flow.gradient_flow(time, **point).item(), expected)
    if rate < 1e-3:  # descent in one step of this length is nearly the flow
        step = flow.gradient_descent(1, time, **point).item()
        assert_close(step, expected, 1e-3)


@pytest.mark.parametrize("product", [1e-18, 1e-12, 0.3, 1.0, 1.5, 2 - 1e-12, 2.5])
@pytest.mark.parametrize("step", [0, 1, 2, 1001, 10**9])
def test_powers_keep_their_accuracy_over_many_steps(x64, product, step):
    if product == 2.5 and step > 2:
        pytest.skip("overflows, as the iteration does")
    flow = linear_dynamics(np.ones((1, 1)), np.ones((1, 1)), np.zeros((1, 1)))
    with decimal.localcontext(decimal.Context(prec=60)):
        power = (1 - decimal.Decimal(product)) ** step if step else 1
        share, loss = float(1 - power), float(power**2) / 2
    assert_close(flow.gradient_descent(step, product).item(), share, 1e-12)
    # The exponent of a tiny power carries its own rounding, times the number of steps.
    tolerance = 1e-12 * max(1.0, abs(np.log(loss + 1e-300)))
    assert_close(flow.gradient_descent_loss(step, product).item(), loss, tolerance)


# --- closed forms and limits --------------------------------------------------------


@pytest.mark.compiler
@pytest.mark.parametrize("shared", SHARED)
def test_flow_starts_at_f0_and_ends_at_the_targets(dtype, shared):
    ntk, y, f0, test_train, f0_test = cast(dtype, *problem(shared))
    flow = linear_dynamics(ntk, y, f0)
    assert_close(flow.gradient_flow(0.0), f0, "exact")
    assert_close(flow.gradient_descent(0, 0.1), f0, "exact")
    assert_close(flow.gradient_flow(jnp.inf), y)
    k = y.shape[1]
    gram, cross = matrix(ntk, k), matrix(test_train, k)
    limit = f0_test + (cross @ np.linalg.solve(gram, (y - f0).ravel())).reshape(-1, k)
    test = flow.gradient_flow(jnp.inf, ntk_test_train=test_train, f0_test=f0_test)
    assert_close(test, limit.astype(dtype), "other_algorithm")


def test_flow_is_the_limit_of_descent_with_small_steps(x64):
    flow = linear_dynamics(*problem(shared=False)[:3])
    exact = flow.gradient_flow(1.0)
    errors = [
        relative_error(flow.gradient_descent(steps, 1.0 / steps), exact)
        for steps in (1000, 2000)
    ]
    assert errors[0] < 1e-3
    assert errors[0] / errors[1] == pytest.approx(2.0, rel=0.01)


def test_shared_kernel_equals_its_full_form(dtype):
    ntk, y, f0, test_train, f0_test = cast(dtype, *problem(shared=True))
    eye = np.eye(2, dtype=dtype)
    full = lambda kernel: kernel[:, :, None, None] * eye
    short, long = linear_dynamics(ntk, y, f0), linear_dynamics(full(ntk), y, f0)
    assert_close(short.gradient_flow(2.0), long.gradient_flow(2.0))
    assert_close(short.max_learning_rate, long.max_learning_rate)
    assert_close(
        short.gradient_flow(2.0, ntk_test_train=test_train, f0_test=f0_test),
        long.gradient_flow(2.0, ntk_test_train=full(test_train), f0_test=f0_test),
    )


def test_largest_learning_rate_separates_descent_from_divergence(x64):
    flow = linear_dynamics(*problem(shared=False)[:3])
    limit = float(flow.max_learning_rate)
    start = flow.gradient_descent_loss(0, limit)
    assert flow.gradient_descent_loss(5000, 0.99 * limit) < start
    assert flow.gradient_descent_loss(5000, 1.01 * limit) > 1e10 * start


def test_scaled_loss_has_the_same_trajectory_at_the_scaled_time(x64):
    ntk, y, f0, *_ = problem(shared=False)
    plain, scaled = linear_dynamics(ntk, y, f0), linear_dynamics(3.0 * ntk, y, f0)
    assert_close(scaled.gradient_flow(0.5), plain.gradient_flow(1.5))
    assert_close(scaled.gradient_descent(7, 0.1), plain.gradient_descent(7, 0.3))


@settings(derandomize=True, deadline=None, max_examples=20)
@given(st.integers(0, 10**6), st.floats(0, 50), st.floats(0, 50))
def test_flow_may_be_stopped_and_started_again(seed, time1, time2):
    with jax.enable_x64(True):
        ntk, y, f0, *_ = problem(shared=False, seed=seed)
        flow = linear_dynamics(ntk, y, f0)
        again = linear_dynamics(ntk, y, flow.gradient_flow(time1))
        assert_close(again.gradient_flow(time2), flow.gradient_flow(time1 + time2))
        losses = flow.gradient_flow_loss(np.sort([0.0, time1, time2]))
        assert (np.diff(losses) <= 0).all()


# --- losses -------------------------------------------------------------------------


def test_losses_are_those_of_the_outputs(dtype):
    ntk, y, f0, *_ = cast(dtype, *problem(shared=False))
    flow = linear_dynamics(ntk, y, f0)
    for time in (0.0, 1.0):
        loss = square_loss(flow.gradient_flow(time), jnp.asarray(y))
        assert_close(flow.gradient_flow_loss(time), loss)
    loss = square_loss(flow.gradient_descent(5, 0.1), jnp.asarray(y))
    assert_close(flow.gradient_descent_loss(5, 0.1), loss)
    assert flow.gradient_flow_loss(np.array([0.0, 1.0])).shape == (2,)


def test_tiny_losses_are_accurate_where_those_of_outputs_are_not():
    one = np.ones((1, 1), np.float32)
    flow = linear_dynamics(one, one, 0 * one)
    expected = 0.5 * np.exp(-40.0)
    assert_close(flow.gradient_flow_loss(20.0).item(), expected, 1e-5)
    of_outputs = square_loss(flow.gradient_flow(20.0), jnp.asarray(one)).item()
    assert relative_error(of_outputs, expected) > 0.5


# --- singular and ill-conditioned kernels -------------------------------------------


def test_duplicate_examples_end_at_the_mean_of_their_targets(dtype):
    x = np.array([[1.0, 0.0], [1.0, 0.0], [0.6, 0.8]], dtype)
    y = np.array([[1.0], [0.0], [5.0]], dtype)
    f0 = np.zeros((3, 1), dtype)
    flow = linear_dynamics(x @ x.T, y, f0)
    # Linear regression: the test point (0, 1) gets its second weight.
    w = np.linalg.pinv(x) @ y
    test = np.array([[0.0, 1.0]], dtype)
    with pytest.warns(SingularKernelWarning, match="0\\.019 of the targets"):
        f = flow.gradient_flow(jnp.inf)
    with pytest.warns(SingularKernelWarning, match="1 of its directions"):
        loss = flow.gradient_flow_loss(jnp.inf)
    with pytest.warns(SingularKernelWarning, match="`ntk` is singular"):
        f_test = flow.gradient_flow(
            jnp.inf, ntk_test_train=test @ x.T, f0_test=np.zeros((1, 1), dtype)
        )
    assert_close(f[:, 0], np.array([0.5, 0.5, 5.0], dtype))
    assert_close(loss, np.array(0.25, dtype))
    assert_close(flow.dropped_share, np.array(0.5 / 26, dtype))
    assert_close(f_test, (test @ w).astype(dtype))


@pytest.mark.filterwarnings("ignore::lazyjax.linalg.SingularKernelWarning")
@pytest.mark.parametrize("name", ["zero", "rank one", "hilbert", "low rank"])
@pytest.mark.sampled(1)
def test_ill_conditioned_kernels_never_give_nan(dtype, name):
    n = 12
    rng = np.random.default_rng(0)
    features = rng.normal(size=(n, 3))
    ntk = {
        "zero": np.zeros((n, n)),
        "rank one": np.ones((n, n)),
        "hilbert": scipy.linalg.hilbert(n),
        "low rank": features @ features.T,
    }[name].astype(dtype)
    y, f0 = cast(dtype, *rng.normal(size=(2, n, 2)))
    flow = linear_dynamics(ntk, y, f0)
    times = np.array([0.0, 1e-30, 1.0, 1e10, 1e30, np.inf])
    test = {"ntk_test_train": ntk[:1], "f0_test": f0[:1]}
    steps = np.array([0, 1, 10**6])
    for values in (
        flow.gradient_flow(times),
        flow.gradient_flow_loss(times),
        flow.gradient_flow(times, **test),
        flow.gradient_descent(steps, 0.01),
        flow.gradient_descent(steps, 0.01, **test),
    ):
        assert np.isfinite(values).all()
    if name != "hilbert":  # whose eigenvalues come as close to the cutoff as can be
        # A training point taken for a test point ends where the training point does.
        last = flow.gradient_flow(jnp.inf, **test)
        assert_close(last, flow.gradient_flow(jnp.inf)[:1], "other_algorithm")
    assert (flow.eigenvalues >= 0).all()
    assert flow.eig_min <= flow.eig_cutoff  # all four are singular to rounding


def test_negative_eigenvalues_by_rounding_are_reported_and_do_not_grow():
    gram = np.diag(np.array([1.0, -1e-6], np.float32))
    flow = linear_dynamics(
        gram, np.ones((2, 1), np.float32), np.zeros((2, 1), np.float32)
    )
    assert flow.eig_min < 0
    assert flow.eigenvalues.tolist() == [0.0, 1.0]
    with pytest.warns(SingularKernelWarning, match="1 of its directions"):
        outputs = flow.gradient_flow(1e8)[:, 0]
    assert_close(outputs, np.array([1.0, 0.0], np.float32))


# --- contract -----------------------------------------------------------------------


def evaluate(ntk, y, f0, time, learning_rate):
    flow = linear_dynamics(ntk, y, f0)
    return (
        flow.gradient_flow(time),
        flow.gradient_descent(9, learning_rate),
        flow.gradient_flow_loss(time),
        flow.max_learning_rate,
        flow.eig_min,
    )


@pytest.mark.compiler
def test_jit_equals_eager(mode):
    arrays = [*cast(np.float32, *problem(shared=False)[:3]), 0.7, 0.1]
    for actual, expected in zip(
        mode(evaluate)(*arrays), evaluate(*arrays), strict=True
    ):
        assert_close(actual, expected)


@pytest.mark.compiler
def test_vmap_over_kernels_and_rates_equals_a_loop(x64):
    members = [
        (
            *problem(shared=False, seed=seed)[:3],
            np.float64(seed),
            np.float64(0.1 * seed),
        )
        for seed in range(3)
    ]
    together = jax.vmap(evaluate)(
        *(np.stack(leaves) for leaves in zip(*members, strict=True))
    )
    for index, member in enumerate(members):
        for actual, expected in zip(together, evaluate(*member), strict=True):
            assert_close(actual[index], expected)


def test_batched_result_is_a_pytree_whose_methods_need_vmap(x64):
    kernels = np.stack([problem(shared=True, seed=seed)[0] for seed in range(2)])
    _, y, f0, *_ = problem(shared=True)
    flows = jax.vmap(lambda ntk: linear_dynamics(ntk, y, f0))(kernels)
    assert flows.max_learning_rate.shape == (2,)
    outputs = jax.vmap(lambda flow: flow.gradient_flow(1.0))(flows)
    assert_close(outputs[1], linear_dynamics(kernels[1], y, f0).gradient_flow(1.0))
    with pytest.raises(ValueError, match=r"jax\.vmap"):
        flows.gradient_flow(1.0)


def test_times_of_any_shape_lead_the_result():
    flow = linear_dynamics(*cast(np.float32, *problem(shared=False)[:3]))
    times = np.arange(6.0).reshape(2, 3)
    f = flow.gradient_flow(times)
    assert f.shape == (2, 3, 4, 2)
    assert_close(f[1, 2], flow.gradient_flow(5.0))
    assert flow.gradient_flow(jnp.zeros(0)).shape == (0, 4, 2)
    assert flow.gradient_descent(np.array([[1], [2]]), 0.1).shape == (2, 1, 4, 2)


# --- misuse -------------------------------------------------------------------------

NTK, Y, F0, NTK_TEST, F0_TEST = cast(np.float32, *problem(shared=False))


@pytest.mark.parametrize(
    ("ntk", "y", "f0", "error", "message"),
    [
        (NTK[:2], Y, F0, ValueError, "`ntk` must have shape"),
        (NTK[:, :, 0], Y, F0, ValueError, "`ntk` must have shape"),
        (gram_matrix(NTK), Y, F0, ValueError, r"\(4, 4\) if all outputs share"),
        (NTK, Y[:, 0], F0, ValueError, "`y` must have shape"),
        (NTK, Y, F0[:, :1], ValueError, "`f0` must have shape"),
        (NTK, Y, F0.astype(np.float16), TypeError, "`f0` must have the dtype"),
        (NTK, Y.astype(np.int32), F0, TypeError, "`y` must be a real floating-point"),
        (NTK * np.nan, Y, F0, ValueError, "`ntk` must be finite"),
        (NTK, Y * np.inf, F0, ValueError, "`y` must be finite"),
        (NTK, Y, F0 * np.nan, ValueError, "`f0` must be finite"),
        (np.triu(np.ones((4, 4), np.float32)), Y, F0, ValueError, "symmetric"),
        (-np.eye(4, dtype=np.float32), Y, F0, ValueError, "positive semidefinite"),
        (NTK[:0, :0], Y[:0], F0[:0], ValueError, "`ntk` must hold at least one"),
    ],
)
def test_misfit_of_the_problem_is_refused(own_errors, ntk, y, f0, error, message):
    with pytest.raises(error, match=message):
        linear_dynamics(ntk, y, f0)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda f: f.gradient_flow(-1.0),
            ValueError,
            "`time` must be zero or positive",
        ),
        (lambda f: f.gradient_flow(jnp.nan), ValueError, "`time` must be zero"),
        (lambda f: f.gradient_descent(-1, 0.1), ValueError, "`step` must be zero"),
        (
            lambda f: f.gradient_descent(1.5, 0.1),
            TypeError,
            "`step` must hold integers",
        ),
        (lambda f: f.gradient_descent(1, -0.1), ValueError, "`learning_rate` must be"),
        (lambda f: f.gradient_descent(1, jnp.inf), ValueError, "`learning_rate`"),
        (lambda f: f.gradient_flow(1.0, f0_test=F0_TEST), ValueError, "together"),
        (
            lambda f: f.gradient_flow(
                1.0, ntk_test_train=NTK_TEST[:, :2], f0_test=F0_TEST
            ),
            ValueError,
            r"`ntk_test_train` must have shape \(3, 4, 2, 2\)",
        ),
        (
            lambda f: f.gradient_flow(
                1.0, ntk_test_train=NTK_TEST, f0_test=F0_TEST[:2]
            ),
            ValueError,
            r"`f0_test` must have shape \(3, 2\)",
        ),
    ],
)
def test_misuse_of_the_methods_is_refused(own_errors, call, error, message):
    flow = linear_dynamics(NTK, Y, F0)
    with pytest.raises(error, match=message):
        call(flow)
