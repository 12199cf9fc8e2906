"""Functions that change between calls: the program of what they were is not reused."""

import dataclasses
import functools
import itertools
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lazyjax
from lazyjax.callables.state import state_of
from lazyjax.callables.static import HashableCallable, forget_programs
from lazyjax.laziness import kappa
from tests.helpers.compare import assert_close

pytestmark = pytest.mark.once

X = np.array([[1.0, -1.0], [2.0, 1.0], [3.0, 0.5]], np.float32)
W = np.array([[1.0], [2.0]], np.float32)
GRAM = (X @ X.T)[:, :, None, None]

SCALE = 1.0


def by_global(w, x):
    return SCALE * (x @ w)


def helper(x):
    return SCALE * x


def by_global_of_a_helper(w, x):
    return helper(x @ w)


def by_helper_inside(w, x):
    return sum(helper(row) for row in (x @ w,))


class Scaled:
    def __init__(self, scale):
        self.scale = scale

    def __call__(self, w, x):
        return self.scale * (x @ w)

    def apply(self, w, x):
        return self.scale * (x @ w)


class Slotted:
    __slots__ = ("scale",)

    def __call__(self, w, x):
        return self.scale * (x @ w)


class AlwaysEqual(Scaled):
    def __eq__(self, other):
        return isinstance(other, AlwaysEqual)

    def __hash__(self):
        return 0


@dataclasses.dataclass(frozen=True)
class NotCompared:
    scale: float = dataclasses.field(compare=False)

    def __call__(self, w, x):
        return self.scale * (x @ w)


class Outer:
    def __init__(self, scale):
        self.inner = Scaled(scale)
        self.layers = [self.inner]

    def __call__(self, w, x):
        return self.layers[0](w, x)


class Config(dict):
    """A dictionary by inheritance."""


# Each gives a function that multiplies by 1, and what makes it multiply by 2.


def closure_of_a_dictionary():
    config = {"net": {"scale": 1.0}}
    change = lambda: config["net"].update(scale=2.0)
    return lambda w, x: config["net"]["scale"] * (x @ w), change


def closure_of_a_dictionary_by_inheritance():
    config = Config(scale=1.0)
    return lambda w, x: config["scale"] * (x @ w), lambda: config.update(scale=2.0)


def closure_of_a_list():
    factors = [1.0]
    return lambda w, x: float(np.prod(factors)) * (x @ w), lambda: factors.append(2.0)


def closure_of_a_set():
    flags = set()
    return lambda w, x: (2.0 if flags else 1.0) * (x @ w), lambda: flags.add("double")


def closure_of_a_variable():
    scale = 1.0

    def change():
        nonlocal scale
        scale = 2.0

    return lambda w, x: scale * (x @ w), change


def closure_of_an_equal_number_of_another_type():
    scale: Any = 1

    def change():
        nonlocal scale
        scale = True

    return lambda w, x: (2.0 if scale is True else 1.0) * (x @ w), change


def closure_of_a_jax_array():
    held = [jnp.ones(())]
    return lambda w, x: held[0] * (x @ w), lambda: held.insert(0, 2 * jnp.ones(()))


def closure_of_a_numpy_array():
    scale = np.ones((), np.float32)
    return lambda w, x: scale * (x @ w), lambda: np.copyto(scale, 2)


def closure_of_a_large_numpy_array():
    scale = np.ones(2**20, np.float32)
    return lambda w, x: scale[-1] * (x @ w), lambda: np.copyto(scale, 2)


def closure_of_an_array_of_objects():
    scale = np.array([1.0], object)
    return lambda w, x: scale[0] * (x @ w), lambda: scale.__setitem__(0, 2.0)


def closure_of_a_closure():
    config = {"scale": 1.0}
    inner = lambda w, x: config["scale"] * (x @ w)
    return lambda w, x: inner(w, x), lambda: config.update(scale=2.0)


def closure_of_itself():
    config = {"scale": 1.0}

    def apply_fn(w, x, depth=1):
        return config["scale"] * (x @ w) if depth == 0 else apply_fn(w, x, depth - 1)

    return apply_fn, lambda: config.update(scale=2.0)


def attribute():
    model = Scaled(1.0)
    return model, lambda: setattr(model, "scale", 2.0)


def attribute_of_an_attribute():
    model = Outer(1.0)
    return model, lambda: setattr(model.inner, "scale", 2.0)


def slot():
    model = Slotted()
    model.scale = 1.0
    return model, lambda: setattr(model, "scale", 2.0)


def attribute_of_what_equals_everything():
    model = AlwaysEqual(1.0)
    return model, lambda: setattr(model, "scale", 2.0)


def object_of_a_bound_method():
    model = Scaled(1.0)
    return model.apply, lambda: setattr(model, "scale", 2.0)


def namespace():
    config = types.SimpleNamespace(scale=1.0)
    return lambda w, x: config.scale * (x @ w), lambda: setattr(config, "scale", 2.0)


def keyword_of_a_partial():
    part = functools.partial(lambda w, x, *, config: config["scale"] * (x @ w))
    config = {"scale": 1.0}
    return functools.partial(part, config=config), lambda: config.update(scale=2.0)


def default():
    def apply_fn(w, x, config={"scale": 1.0}):  # noqa: B006
        return config["scale"] * (x @ w)

    config = (apply_fn.__defaults__ or ({},))[0]
    return apply_fn, lambda: config.update(scale=2.0)


def keyword_default():
    def apply_fn(w, x, *, scale=1.0):
        return scale * (x @ w)

    keywords: Any = apply_fn.__kwdefaults__
    return apply_fn, lambda: keywords.update(scale=2.0)


def attribute_of_a_function():
    def apply_fn(w, x):
        return vars(apply_fn)["scale"] * (x @ w)

    vars(apply_fn)["scale"] = 1.0
    return apply_fn, lambda: vars(apply_fn).update(scale=2.0)


class Configuration:
    scale = 1.0


def class_that_is_named():
    Configuration.scale = 1.0
    change = lambda: setattr(Configuration, "scale", 2.0)
    return lambda w, x: Configuration.scale * (x @ w), change


def attribute_of_the_class():
    class Model:
        scale = 1.0

        def __call__(self, w, x):
            return self.scale * (x @ w)

    return Model(), lambda: setattr(Model, "scale", 2.0)


def method_of_a_base_class():
    class Base:
        def multiplied(self, x):
            return x

    class Model(Base):
        def __call__(self, w, x):
            return self.multiplied(x @ w)

    return Model(), lambda: setattr(Base, "multiplied", lambda self, x: 2 * x)


def code():
    def apply_fn(w, x):
        return x @ w

    other = lambda w, x: 2 * (x @ w)
    return apply_fn, lambda: setattr(apply_fn, "__code__", other.__code__)


CHANGES = [
    attribute,
    attribute_of_a_function,
    attribute_of_an_attribute,
    attribute_of_the_class,
    class_that_is_named,
    attribute_of_what_equals_everything,
    closure_of_a_closure,
    closure_of_a_dictionary,
    closure_of_a_dictionary_by_inheritance,
    closure_of_a_jax_array,
    closure_of_a_large_numpy_array,
    closure_of_a_list,
    closure_of_a_numpy_array,
    closure_of_a_set,
    closure_of_a_variable,
    closure_of_an_array_of_objects,
    closure_of_an_equal_number_of_another_type,
    closure_of_itself,
    code,
    default,
    keyword_default,
    keyword_of_a_partial,
    method_of_a_base_class,
    namespace,
    object_of_a_bound_method,
    slot,
]


@functools.partial(jax.jit, static_argnums=0)
def _outputs(apply_fn, w, x):
    return apply_fn(w, x)


def outputs(apply_fn):
    return _outputs(HashableCallable(apply_fn), W, X)


@pytest.mark.parametrize("case", CHANGES)
def test_a_change_is_seen(case):
    apply_fn, change = case()
    before = HashableCallable(apply_fn)
    assert HashableCallable(apply_fn) == before
    assert hash(HashableCallable(apply_fn)) == hash(before)
    assert_close(outputs(apply_fn), X @ W)
    assert HashableCallable(apply_fn) == before
    change()
    assert HashableCallable(apply_fn) != before
    assert_close(outputs(apply_fn), 2 * X @ W)


@pytest.mark.parametrize(
    "apply_fn", [by_global, by_global_of_a_helper, by_helper_inside]
)
def test_a_change_of_a_global_is_seen(apply_fn, monkeypatch):
    assert_close(outputs(apply_fn), X @ W)
    monkeypatch.setitem(globals(), "SCALE", 2.0)
    assert_close(outputs(apply_fn), 2 * X @ W)


def test_another_helper_of_the_same_name_is_seen(monkeypatch):
    assert_close(outputs(by_global_of_a_helper), X @ W)
    monkeypatch.setitem(globals(), "helper", lambda x: 2 * x)
    assert_close(outputs(by_global_of_a_helper), 2 * X @ W)


@pytest.mark.parametrize("kind", [AlwaysEqual, NotCompared])
def test_objects_that_compare_equal_but_differ_are_told_apart(kind):
    one, two = kind(1.0), kind(2.0)
    assert one == two
    assert_close(lazyjax.empirical_ntk(one, W, X), GRAM)
    assert_close(lazyjax.empirical_ntk(two, W, X), 4 * GRAM)


VERBS = {
    "empirical_ntk": lambda f: lazyjax.empirical_ntk(f, W, X),
    "empirical_nngp": lambda f: lazyjax.empirical_nngp(f, W, X),
    "layerwise_ntk": lambda f: lazyjax.layerwise_ntk(f, W, X)[""],
    "ntk_diagonal": lambda f: lazyjax.ntk_diagonal(f, W, X),
    "ntk_operator": lambda f: lazyjax.ntk_operator(f, W, X)(np.ones_like(X[:, :1])),
    "monte_carlo_ntk": lambda f: (
        lazyjax.monte_carlo_ntk(
            f, lambda key, x: jnp.asarray(W), X, key=jax.random.key(0), num_seeds=2
        ).mean
    ),
    "kappa": lambda f: (
        kappa(
            f, W, X, X[:, :1], key=jax.random.key(0), num_rounds=1, num_starts=1
        ).jacobian_norm
    ),
    "train": lambda f: (
        lazyjax.train(f, W, X, X[:, :1], optimizer=optax.sgd(0.1), num_steps=1).loss
    ),
    "gradient_flow": lambda f: (
        lazyjax.gradient_flow(f, W, X, X[:, :1], np.array([0.0, 0.1], np.float32)).loss
    ),
    "infinite_ntk_of": lambda f: lazyjax.infinite_ntk_of(f, W, X, variances=1.0),
}


_SLOW = ("gradient_flow", "monte_carlo_ntk", "train")


@pytest.mark.parametrize(
    "verb",
    [
        pytest.param(verb, id=name, marks=[pytest.mark.slow] * (name in _SLOW))
        for name, verb in VERBS.items()
    ],
)
@pytest.mark.sampled(2)
def test_every_verb_sees_a_change(verb):
    apply_fn, change = closure_of_a_dictionary()
    before = np.asarray(verb(apply_fn))
    change()
    after = verb(apply_fn)
    fresh = verb(lambda w, x: 2.0 * (x @ w))
    assert_close(after, fresh)
    assert not np.allclose(before, fresh, rtol=1e-3)


def test_an_operator_follows_its_network():
    apply_fn, change = closure_of_a_dictionary()
    operator, ones = lazyjax.ntk_operator(apply_fn, W, X), np.ones_like(X[:, :1])
    assert_close(operator(ones), GRAM[..., 0, 0] @ ones)
    change()
    assert_close(operator(ones), 4 * GRAM[..., 0, 0] @ ones)


# --- and nothing else -----------------------------------------------------------------


def counted(apply_fn):
    """The function, and how often it has been run or traced."""
    calls = []

    def counting(w, x):
        calls.append(None)
        return apply_fn(w, x)

    return counting, calls


@pytest.mark.parametrize("verb", ["empirical_ntk", "ntk_diagonal", "layerwise_ntk"])
def test_what_tracing_changes_does_not_count(verb):
    apply_fn, calls = counted(lambda w, x: x @ w)
    ntk = functools.partial(getattr(lazyjax, verb), apply_fn)
    ntk(W, X)
    before = len(calls)
    ntk(W, X)
    second = len(calls)
    ntk(W + 1, X)
    assert len(calls) - second == second - before < before


def test_a_function_that_is_as_it_was_runs_its_old_program():
    config = {"scale": 1.0}
    traced = []
    calls = itertools.count()  # what it counts cannot be seen

    @dataclasses.dataclass(frozen=True)
    class Counted:
        config: dict

        def __call__(self, w, x):
            next(calls)
            return self.config["scale"] * (x @ w)

    for scale in (1.0, 2.0, 1.0, 2.0):
        config["scale"] = scale
        kernel = lazyjax.empirical_ntk(Counted(config), W, X)
        assert_close(kernel, scale**2 * GRAM)
        traced.append(repr(calls))
    assert traced[0] != traced[1] == traced[2] == traced[3]


class Cached(Scaled):
    @functools.cached_property
    def doubled(self):
        return 2 * self.scale


def test_what_is_computed_once_is_no_change():
    model = Cached(1.0)
    before = state_of(model)
    assert model.doubled == 2
    assert state_of(model) == before


@pytest.mark.parametrize(
    "held",
    [
        float("nan"),
        1 + 2j,
        slice(1, 2),
        frozenset({1, 2}),
        np.float32(1.5),
        np.array(["a", None], object),
        jax.random.key(0),
        {"a": [1, (2, b"c")]},
        np.random.default_rng(0),
        lambda: None,
    ],
    ids=lambda held: type(held).__name__,
)
def test_what_is_held_has_a_state(held):
    model = Scaled(held)
    assert state_of(model) == state_of(model)
    assert hash(state_of(model)) == hash(state_of(model))


def test_what_holds_itself_has_a_state():
    model = Scaled([])
    model.scale.append(model)
    assert state_of(model) == state_of(model)


def test_what_is_gone_equals_nothing():
    model = Scaled(jnp.ones(2))
    before = state_of(model)
    model.scale = jnp.ones(2)
    assert state_of(model) != before


def test_what_holds_very_much_is_not_read_to_its_end():
    much = list(range(10**6))
    model = Scaled(much)
    before = state_of(model)
    assert len(str(before)) < 10**6
    much.append(0)
    assert state_of(model) != before


def test_a_function_keeps_its_name():
    assert HashableCallable(by_global).__name__ == "by_global"
    assert HashableCallable(HashableCallable(by_global)) == HashableCallable(by_global)


def test_networks_of_this_package_are_told_apart_without_opening_it():
    first, second = (lazyjax.nets.mlp(width=4, depth=depth).apply for depth in (1, 2))
    assert HashableCallable(first) != HashableCallable(second)
    # Only what a network holds is read, not the functions of the package.
    assert str(state_of(first)).count("<class 'function'>") < 10


def test_programs_once_forgotten_stay_so_though_their_function_runs_again():
    apply_fn = lambda w, x: x @ w
    before = HashableCallable(apply_fn)
    forget_programs()
    before(W, X)
    assert HashableCallable(apply_fn) != before
