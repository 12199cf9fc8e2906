"""What depends on parameters is told as JAX's own gradients have it."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from lazyjax.jaxpr.dependence import depends
from tests.helpers.zoo_base import ZOO

W, X = jnp.ones((3, 2)), jnp.ones((1, 3))


@jax.custom_jvp
def _blocked(h):
    return 2.0 * h


_blocked.defjvp(lambda primals, _: (_blocked(*primals), jnp.zeros_like(primals[0])))


@jax.custom_jvp
def _smoothed(h):
    return jnp.sign(h)


_smoothed.defjvp(lambda primals, tangents: (_smoothed(*primals), 3.0 * tangents[0]))


@jax.custom_vjp
def _straight_through(h):
    return jnp.round(h)


_straight_through.defvjp(lambda h: (jnp.round(h), None), lambda _, g: (g,))


@jax.custom_vjp
def _cut_off(h):
    return 2.0 * h


_cut_off.defvjp(lambda h: (2.0 * h, None), lambda _, g: (jnp.zeros_like(g),))


def _scanned(step):
    return lambda w, x: lax.scan(lambda h, _: (step(h), None), x @ w, None, length=2)[0]


DEPENDENT = {
    "product": lambda w, x: x @ w,
    "smoothed": lambda w, x: _smoothed(x @ w),
    "straight through": lambda w, x: _straight_through(x @ w),
    "inside a loop": _scanned(jnp.tanh),
    "smoothed inside a loop": _scanned(_smoothed),
    "one way of two": lambda w, x: lax.stop_gradient(x @ w) + jnp.sin(x @ w),
    "solved": lambda w, x: x @ jnp.linalg.solve(w.T @ w + jnp.eye(2), w.T).T,
    "chosen": lambda w, x: lax.cond(x[0, 0] > 0, jnp.sin, jnp.sign, x @ w),
}
INDEPENDENT = {
    "constant": lambda w, x: x,
    "stopped": lambda w, x: lax.stop_gradient(x @ w),
    "signs": lambda w, x: jnp.sign(x @ w),
    "rounded": lambda w, x: jnp.floor(x @ w) + jnp.ceil(x @ w) + jnp.round(x @ w),
    "compared": lambda w, x: jnp.where(x @ w > 0, 1.0, 0.0),
    "of whole numbers": lambda w, x: (x @ w).astype(jnp.int32).astype(jnp.float32),
    "blocked": lambda w, x: _blocked(x @ w),
    "cut off": lambda w, x: _cut_off(x @ w),
    "blocked inside jit": jax.jit(lambda w, x: _blocked(x @ w)),
    "chosen among signs": lambda w, x: lax.cond(
        x[0, 0] > 0, jnp.floor, jnp.sign, x @ w
    ),
}


@pytest.mark.parametrize("apply_fn", DEPENDENT.values(), ids=DEPENDENT)
def test_dependence_is_found(apply_fn):
    assert depends(jax.make_jaxpr(apply_fn)(W, X), [True, False])


@pytest.mark.parametrize("apply_fn", INDEPENDENT.values(), ids=INDEPENDENT)
def test_what_only_its_values_depend_on_is_not_dependence(apply_fn):
    assert not depends(jax.make_jaxpr(apply_fn)(W, X), [True, False])


def test_every_network_of_the_zoo_depends_on_its_parameters_only():
    for net in ZOO.values():
        params, x = net.params(), net.x(1)
        jaxpr = jax.make_jaxpr(net.apply_fn)(params, x)
        met = [True] * len(jax.tree.leaves(params))
        assert depends(jaxpr, [*met, False]), net.name
        assert not depends(jaxpr, [*(False for _ in met), False]), net.name
