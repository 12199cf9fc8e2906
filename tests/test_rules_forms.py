"""Each rule's form, contracted by its labels, is the gradient that JAX computes."""

import string

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from lazyjax.ntk.trace.rules import form_of
from tests.helpers.compare import assert_close


def draw(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).normal(size=shape)


def conv(lhs_shape, rhs_shape, **options):
    options = {"window_strides": (1, 1), "padding": "SAME"} | options
    numbers = options.pop("layout", ("NHWC", "HWIO", "NHWC"))

    def apply(a, w):
        return lax.conv_general_dilated(a, w, dimension_numbers=numbers, **options)

    return apply, draw(*lhs_shape), draw(*rhs_shape)


CASES = {
    "matrix product": (lambda a, w: a @ w, draw(2, 3), draw(3, 4)),
    "weight on the left": (
        lambda a, w: lax.dot_general(w, a, (((1,), (0,)), ((), ()))),
        draw(3, 4),
        draw(5, 3),
    ),
    "two contracted axes": (
        lambda a, w: lax.dot_general(a, w, (((1, 2), (1, 0)), ((), ()))),
        draw(2, 3, 4),
        draw(4, 3, 5),
    ),
    "batched": (
        lambda a, w: lax.dot_general(a, w, (((2,), (1,)), ((0,), (2,)))),
        draw(4, 2, 3),
        draw(5, 3, 4),
    ),
    "sum": (lambda a, w: lax.add(a, w), draw(2, 3), draw(2, 3)),
    "difference": (lambda a, w: lax.sub(a, w), draw(2, 3), draw(2, 3)),
    "scale": (lambda a, w: lax.mul(w, a), draw(2, 3), draw(2, 3)),
    "quotient": (lambda a, w: lax.div(w, a), draw(2, 3), draw(2, 3)),
    "convolution": conv((1, 5, 6, 2), (3, 3, 2, 4)),
    "strided convolution": conv((1, 7, 6, 2), (3, 2, 2, 4), window_strides=(2, 3)),
    "valid convolution": conv((1, 5, 6, 2), (2, 3, 2, 4), padding="VALID"),
    "dilated convolution": conv((1, 7, 7, 2), (2, 3, 2, 4), rhs_dilation=(2, 1)),
    "transposed convolution": conv(
        (1, 4, 4, 2), (3, 3, 2, 4), lhs_dilation=(2, 2), padding=((1, 2), (2, 2))
    ),
    "grouped convolution": conv((1, 5, 5, 4), (3, 3, 2, 6), feature_group_count=2),
    "depthwise convolution": conv((1, 5, 5, 4), (3, 3, 1, 4), feature_group_count=4),
    "channels first": conv((2, 2, 5, 5), (4, 2, 3, 3), layout=("NCHW", "OIHW", "NCHW")),
    "cropping padding": conv((1, 6, 6, 2), (3, 3, 2, 4), padding=((-1, 0), (2, -1))),
}


def contracted(eqn, position, delta, act):
    """The gradient, by the labels of the form alone."""
    form = form_of(eqn, position)
    assert form is not None
    letters = {}
    name = lambda labels: "".join(
        letters.setdefault(label, string.ascii_letters[len(letters)])
        for label in labels
    )
    delta = np.asarray(delta).reshape(form.delta_shape or delta.shape)
    terms, arrays = [name(form.delta)], [delta]
    if form.act is not None:
        prepare_operand = (
            act if form.prepare is None else form.prepare(jnp.asarray(act))
        )
        terms.append(name(form.act))
        arrays.append(np.asarray(prepare_operand))
    flat = [label for labels in form.weight for label in labels]
    gradient = np.einsum(f"{','.join(terms)}->{name(flat)}", *arrays)
    shape = eqn.invars[position].aval.shape
    return form.sign * gradient.reshape(shape)


@pytest.mark.parametrize("case", CASES)
def test_form_of_each_rule_is_the_gradient_of_the_equation(case, x64):
    fn, a, w = CASES[case]
    (eqn,) = jax.make_jaxpr(fn)(a, w).eqns
    position = 0 if eqn.invars[0].aval.shape == w.shape else 1
    if a.shape == w.shape:
        position = 0 if case in ("scale", "quotient") else 1
    out, pullback = jax.vjp(lambda w: fn(jnp.asarray(a), w), jnp.asarray(w))
    delta = draw(*out.shape, seed=1)
    (expected,) = pullback(jnp.asarray(delta))
    assert_close(contracted(eqn, position, delta, a), expected)


def test_rules_decline_what_is_not_linear_in_the_operand():
    a = w = jnp.ones((2, 3))
    for fn in (lax.max, lax.pow, lax.div):
        (eqn,) = jax.make_jaxpr(fn)(a, w).eqns
        assert form_of(eqn, 1) is None


@pytest.mark.parametrize("mode", ["fill", "clip"])
def test_gather_form_points_out_of_range_rows_where_their_gradient_goes(mode):
    table, tokens = jnp.ones((5, 2)), jnp.array([0, 4, 5, 9])

    def rows(table, tokens):
        dims = lax.GatherDimensionNumbers((1,), (0,), (0,))
        return lax.gather(table, tokens[:, None], dims, (1, 2), mode=mode)

    eqn = jax.make_jaxpr(rows)(table, tokens).eqns[-1]
    form = form_of(eqn, 0)
    assert form is not None
    assert form.prepare is not None
    index = form.prepare(tokens[:, None])
    assert index.tolist() == [0, 4, *([4, 4] if mode == "clip" else [-1, -1])]


def test_gather_of_anything_but_whole_rows_is_declined():
    table = jnp.ones((5, 4))
    dims = lax.GatherDimensionNumbers((1,), (0,), (0,))
    part = lambda table, i: lax.gather(table, i, dims, (1, 3))
    eqn = jax.make_jaxpr(part)(table, jnp.array([[1]])).eqns[-1]
    assert form_of(eqn, 0) is None
