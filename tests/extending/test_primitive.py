"""Two new primitives, each made known to all of lazyjax by one call."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

import lazyjax
from lazyjax.jaxpr import FIXED, register_primitive
from lazyjax.ntk.requests.row_check import rows_are_proven
from lazyjax.ntk.trace.rules import Form
from tests.helpers.compare import assert_close

WAVE, TWOFOLD = Primitive("wave"), Primitive("twofold")  # sin(u), and 2 x @ w
WAVE.def_abstract_eval(lambda u: u)
TWOFOLD.def_abstract_eval(lambda x, w: x.update(shape=(x.shape[0], w.shape[1])))
for _primitive, _fn in ((WAVE, jnp.sin), (TWOFOLD, lambda x, w: 2 * x @ w)):
    mlir.register_lowering(_primitive, mlir.lower_fun(_fn, multiple_results=False))
    batching.primitive_batchers[_primitive] = lambda values, axes, fn=_fn: (
        jax.vmap(fn, axes)(*values),
        0,
    )
ad.defjvp(WAVE, lambda tangent, u: tangent * jnp.cos(u))
ad.defbilinear(TWOFOLD, lambda g, x, w: 2 * g @ w.T, lambda g, x, w: 2 * x.T @ g)

X = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)), jnp.float32)
W, V = X[:3], X[:3, :1]
wide = lambda w, x: TWOFOLD.bind(x, w)
deep = lambda p, x: WAVE.bind(x @ p[0]) @ p[1]


def test_a_bilinear_primitive_is_proven_structured_and_right():
    sites = lambda: lazyjax.ntk_plan(wide, W, X).rows[0].sites
    assert not rows_are_proven(wide, W, X)
    assert sites() == ("any twofold",)

    def gradient(eqn, position):
        labels = {"delta": ("row", "out"), "weight": (("in",), ("out",))}
        act = {"act": ("row", "in"), "act_position": 0, "prepare": lambda x: 2 * x}
        return Form(**labels, **act) if position == 1 else None

    rows = lambda pair: pair.labels[0] if pair.labels[1] is FIXED else None
    register_primitive(TWOFOLD, rows=rows, gradient=gradient)
    assert rows_are_proven(wide, W, X)
    assert sites() == ("twofold",)
    for method in ("structured", "auto", "jacobian"):
        ntk = lazyjax.empirical_ntk(wide, W, X, outputs="trace", method=method)
        assert_close(ntk, 4 * 3 * X @ X.T)


def test_an_elementwise_primitive_is_an_activation():
    limit = lambda fn: lazyjax.infinite_ntk_of(fn, (W, V), X, variances=0.5)
    with pytest.raises(ValueError, match="`wave`"):
        limit(deep)
    assert not rows_are_proven(deep, (W, V), X)
    register_primitive(WAVE, elementwise=True)
    assert rows_are_proven(deep, (W, V), X)
    assert_close(limit(deep), limit(lambda p, x: jnp.sin(x @ p[0]) @ p[1]))
