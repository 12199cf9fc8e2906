"""Verbs of forward mode: the derivatives of reverse mode, whatever rules they pass."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lazyjax
from lazyjax.jaxpr.equations import primitives
from lazyjax.laziness import kappa
from tests.helpers.compare import assert_close

W = np.array([[1.0, 1.0], [2.0, -0.5]])
X = np.array([[1.0, -1.0], [2.0, 1.0], [3.0, 0.5]])
V = np.array([[1.0, -2.0], [0.5, 3.0], [-1.0, 0.25]])


def root_of_relu(w, x):
    """Its derivative is infinite inside where it is zero: at (0, 0)."""
    return jnp.sqrt(jax.nn.relu(x @ w))


def jacobian_by_hand():
    z = X @ W
    slope = np.where(z > 0, 0.5 / np.sqrt(np.where(z > 0, z, 1)), 0)
    return np.einsum("ia,ip,ab->iapb", slope, X, np.eye(2))


def kernel_by_hand():
    jacobian = jacobian_by_hand()
    return np.einsum("iapq,jbpq->ijab", jacobian, jacobian)


@pytest.fixture
def problem(x64):
    return jnp.asarray(W), jnp.asarray(X), jnp.asarray(V)


@pytest.mark.parametrize("method", ["auto", "structured", "jacobian", "vjp"])
def test_every_method_agrees_where_forward_mode_is_undefined(method, problem, mode):
    w, x, _ = problem
    kernel = mode(lambda w: lazyjax.empirical_ntk(root_of_relu, w, x, method=method))
    assert_close(kernel(w), kernel_by_hand())
    assert np.isnan(forward_mode(root_of_relu, w, x)).any()  # else nothing is shown


def forward_mode(apply_fn, w, x):
    return np.asarray(jax.jvp(lambda w: apply_fn(w, x), (w,), (jnp.ones_like(w),))[1])


def test_operator_agrees_where_forward_mode_is_undefined(problem, mode):
    w, x, v = problem
    product = mode(lambda v: lazyjax.ntk_operator(root_of_relu, w, x)(v))
    expected = np.einsum("ijab,jb->ia", kernel_by_hand(), V)
    assert_close(product(v), expected)
    both = jax.vmap(product)(jnp.stack([v, 0 * v]))
    assert_close(both, np.stack([expected, 0 * V]))


def test_operator_of_other_batches_agrees_where_forward_mode_is_undefined(problem):
    w, x, v = problem
    found = lazyjax.ntk_operator(root_of_relu, w, x, x[1:], batch_size=2)(v[1:])
    assert_close(found, np.einsum("ijab,jb->ia", kernel_by_hand()[:, 1:], V[1:]))


@pytest.mark.parametrize("order", [1, 2])
def test_expansions_are_finite_where_forward_mode_is_undefined(order, problem):
    w, x, _ = problem
    step = np.array([[0.5, 0.25], [-1.0, 2.0]])
    expansion = lazyjax.taylor_expand(root_of_relu, w, order=order)
    z, dz = X @ W, X @ step
    safe = np.where(z > 0, z, 1)
    terms = [np.sqrt(safe), dz / (2 * np.sqrt(safe)), -(dz**2) / (8 * safe**1.5)]
    expected = np.where(z > 0, sum(terms[: order + 1]), 0)
    assert_close(expansion(w + step, x), expected)
    gradient = jax.grad(lambda p: jnp.sum(expansion(p, x)))(w + step)
    assert np.isfinite(gradient).all()
    if order == 1:
        assert_close(gradient, jacobian_by_hand().sum((0, 1)))


def test_gradient_through_what_is_made_by_reverse_mode(problem):
    w, x, v = problem

    def total(w):
        return jnp.sum(lazyjax.ntk_operator(root_of_relu, w, x)(v))

    step, size = np.array([[0.3, -0.2], [0.1, 0.4]]), 1e-6
    # The row at the kink is left out of the sum that is differenced.
    inside = lambda w: jnp.sum(
        lazyjax.ntk_operator(root_of_relu, w, x[1:], x)(v.at[0].set(0))
    )
    change = (inside(w + size * step) - inside(w - size * step)) / (2 * size)
    derivative = jnp.vdot(jax.grad(inside)(w), step)
    assert abs(derivative - change) < 1e-6 * abs(change)  # of finite differences
    assert np.isfinite(jax.grad(total)(w)).all()


def test_what_reverse_mode_finds_undefined_stays_so(problem):
    w, x, _ = problem
    root = lambda w, x: jnp.sqrt(x @ w)
    ntk = lambda method: lazyjax.empirical_ntk(root, w, x[1:], x, method=method)
    is_finite = np.isfinite(ntk("jacobian"))
    assert is_finite.any()
    assert not is_finite.all()
    np.testing.assert_array_equal(np.isfinite(ntk("vjp")), is_finite)
    tangents = lazyjax.linearize(root, w)(w + 1, jnp.zeros((1, 2)))
    assert not np.isfinite(tangents).any()


def test_networks_without_infinite_derivatives_compile_no_second_branch(problem):
    w, x, v = problem
    cases = ((_relu_net, False), (_attention, False), (root_of_relu, True))
    for apply_fn, has_branch in cases:
        product = lambda v, f=apply_fn: lazyjax.ntk_operator(f, w, x)(v)
        assert ("cond" in primitives(jax.make_jaxpr(product)(v))) == has_branch


def _relu_net(w, x):
    return jax.nn.gelu(jax.nn.relu(x @ w) @ w) ** 2


def _attention(w, x):
    tokens = x[:, None, :] * jnp.array([1.0, -1.0, 0.5])[None, :, None]
    tokens = jax.nn.standardize(tokens @ w, epsilon=1e-5)
    weights = jax.nn.softmax(tokens @ tokens.transpose(0, 2, 1))
    return jax.nn.silu(weights @ tokens).mean(1)


# --- rules that only reverse mode has -------------------------------------------------


@jax.custom_vjp
def tripled(x):
    return jnp.tanh(x)


tripled.defvjp(lambda x: (jnp.tanh(x), jnp.tanh(x)), lambda t, c: (3 * c * (1 - t**2),))


@jax.custom_vjp
def clipped(x):
    return x


clipped.defvjp(lambda x: (x, None), lambda _, c: (jnp.clip(c, -0.5, 0.5),))


def with_own_rule(w, x):
    return tripled(x @ w)


def test_a_linear_backward_pass_is_followed_by_every_verb(problem):
    w, x, v = problem
    slope = 3 * (1 - np.tanh(X @ W) ** 2)
    jacobian = np.einsum("ia,ip,ab->iapb", slope, X, np.eye(2))
    kernel = np.einsum("iapq,jbpq->ijab", jacobian, jacobian)
    assert_close(lazyjax.empirical_ntk(with_own_rule, w, x, method="vjp"), kernel)
    product = lazyjax.ntk_operator(with_own_rule, w, x)(v)
    assert_close(product, np.einsum("ijab,jb->ia", kernel, V))
    step = np.full((2, 2), 0.5)
    expected = np.tanh(X @ W) + np.einsum("iapq,pq->ia", jacobian, step)
    linear = lazyjax.linearize(with_own_rule, w)
    assert_close(jax.jit(linear)(w + step, x), expected)
    found = kappa(with_own_rule, w, x, v, key=jax.random.key(0), num_rounds=2)
    assert_close(found.jacobian_norm**2, np.linalg.norm(_gram(kernel), 2))


def _gram(kernel):
    return kernel.transpose(0, 2, 1, 3).reshape(6, 6)


VERBS = {
    "empirical_ntk": lambda f, w, x, v: lazyjax.empirical_ntk(f, w, x, method="vjp"),
    "ntk_operator": lambda f, w, x, v: lazyjax.ntk_operator(f, w, x)(v),
    "linearize": lambda f, w, x, v: lazyjax.linearize(f, w)(w, x),
    "taylor_expand": lambda f, w, x, v: lazyjax.taylor_expand(f, w, order=2)(w, x),
    "kappa": lambda f, w, x, v: kappa(f, w, x, v, key=jax.random.key(0)),
}


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
def test_a_backward_pass_that_is_not_linear_is_refused(verb, problem, mode):
    w, x, v = problem
    with pytest.raises(TypeError, match=r"`apply_fn`.*custom_vjp.*not linear"):
        mode(lambda w: verb(lambda w, x: clipped(x @ w), w, x, v))(w)


# --- parameters of the expansion ------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (
            {"w": np.ones((1, 2)), "b": np.ones(2)},
            r"`params\['w'\]`.*\(2, 2\).*\(1, 2\)",
        ),
        ({"w": np.ones((2, 2)), "b": np.ones(1)}, r"`params\['b'\]`.*\(2,\).*\(1,\)"),
        ({"w": np.ones((2, 2))}, r"`params`.*structure"),
        ((np.ones((2, 2)), np.ones(2)), r"`params`.*structure"),
    ],
)
@pytest.mark.usefixtures("own_errors")
@pytest.mark.once
def test_parameters_of_another_shape_are_refused_by_an_expansion(params, message):
    apply_fn = lambda p, x: x @ p["w"] + p["b"][None]
    start = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}
    for expansion in (
        lazyjax.linearize(apply_fn, start),
        lazyjax.taylor_expand(apply_fn, start, order=2),
    ):
        with pytest.raises(ValueError, match=message):
            expansion(params, jnp.ones((3, 2)))
