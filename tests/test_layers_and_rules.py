"""Layers whose names contain slashes, and rules that are registered later."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import Primitive

import lazyjax
from lazyjax.jaxpr.registry import describe, primitive_of, register_primitive
from lazyjax.ntk.trace import rules
from lazyjax.trees import leaf_paths
from tests.helpers.compare import assert_close

pytestmark = pytest.mark.once

X = np.array([[1.0, -1.0], [2.0, 1.0], [3.0, 0.5]], np.float32)
GRAM = X @ X.T
ONE = np.ones((2, 1), np.float32)


def of_three(p, x):
    first = x @ p["a/b"]["w"]
    return first + 2 * (x @ p["a"]["b"]["w"]) + 3 * (x @ p["a"]["b"]["v"])


TREE = {"a/b": {"w": ONE}, "a": {"b": {"w": ONE, "v": ONE}}}


@pytest.mark.parametrize("method", ["auto", "jacobian", "vjp"])
def test_layers_of_names_with_slashes_are_kept_apart(method):
    found = lazyjax.layerwise_ntk(of_three, TREE, X, outputs="trace", method=method)
    assert list(found) == ["['a']['b']", "['a/b']"]
    assert_close(found["['a']['b']"], (4 + 9) * GRAM)
    assert_close(found["['a/b']"], GRAM)


def test_names_with_slashes_that_no_other_reads_like_are_left_alone():
    """Haiku's layers are named so."""
    params = {"mlp/~/linear_0": {"w": ONE}, "mlp/~/linear_1": {"w": ONE}}
    apply_fn = lambda p, x: functools.reduce(
        jnp.add, (x @ layer["w"] for layer in p.values())
    )
    assert leaf_paths(params) == ["mlp/~/linear_0/w", "mlp/~/linear_1/w"]
    assert list(lazyjax.layerwise_ntk(apply_fn, params, X)) == list(params)


def test_no_two_leaves_have_the_same_path():
    assert leaf_paths(TREE) == ["a/b/v", "['a']['b']['w']", "['a/b']['w']"]
    chosen = lambda path: path == "['a/b']['w']"
    kernel = lazyjax.empirical_ntk(of_three, TREE, X, outputs="trace", filter=chosen)
    assert_close(kernel, GRAM)


@pytest.fixture
def doubled_products():
    """A rule, wrong on purpose: the kernel of a matrix product becomes four times it."""
    right = rules._dot_general

    def wrong(eqn, position):
        form = right(eqn, position)
        assert form is not None
        prepare = form.prepare or (lambda act: act)
        return dataclasses.replace(form, prepare=lambda act: 2 * prepare(act))

    yield lambda: rules.register_rule("dot_general")(wrong)
    rules.register_rule("dot_general")(right)


VERBS = {
    "empirical_ntk": lambda f, x: lazyjax.empirical_ntk(
        f, ONE, x, outputs="trace", method="structured"
    ),
    "layerwise_ntk": lambda f, x: lazyjax.layerwise_ntk(f, ONE, x, outputs="trace")[""],
}


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
def test_a_rule_takes_effect_at_the_next_call(verb, doubled_products):
    apply_fn = lambda w, x: x @ w
    assert_close(verb(apply_fn, X), GRAM)
    doubled_products()
    assert_close(verb(apply_fn, X), 4 * GRAM)


def test_a_rule_that_is_taken_back_takes_effect_too(doubled_products):
    apply_fn = lambda w, x: x @ w
    doubled_products()
    verb = VERBS["empirical_ntk"]
    assert_close(verb(apply_fn, X), 4 * GRAM)
    rules.register_rule("dot_general")(rules._dot_general)
    assert_close(verb(apply_fn, X), GRAM)


def test_what_is_registered_is_kept_when_lazyjax_describes_the_primitive_later():
    primitive = Primitive("of_a_test")
    primitive.def_abstract_eval(lambda x: x)
    eqn, sine = jax.make_jaxpr(lambda x: jnp.sin(primitive.bind(x)))(1.0).eqns
    register_primitive(primitive, dependence="zero")
    describe("of_a_test", dependence="every", call="jaxpr")
    record = primitive_of(eqn)
    assert (record.dependence, record.call, record.rows) == ("zero", "jaxpr", None)
    register_primitive(primitive, dependence="every", elementwise=True)
    record = primitive_of(eqn)
    assert record.dependence == "every"
    assert record.rows is primitive_of(sine).rows


def test_rules_do_not_make_programs_anew_unless_registered():
    calls = []

    def apply_fn(w, x):
        calls.append(None)
        return x @ w

    lazyjax.empirical_ntk(apply_fn, jnp.asarray(ONE), X)
    num_calls = len(calls)
    lazyjax.empirical_ntk(apply_fn, jnp.asarray(ONE), X)
    assert len(calls) == num_calls
