"""A start: which theorems are about it, what is computed for them, and when."""

import dataclasses

import jax
import numpy as np
import pytest

from lazyjax import certify
from lazyjax.certify.bounds import start as start_module
from lazyjax.nets import mlp

pytestmark = pytest.mark.once

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((3, 4)), RNG.standard_normal((3, 1))
# An activation of which no bounds are known, by name or by its program.
DEEP = mlp(width=5, depth=2, activation=jax.lax.digamma)
PARAMS = {
    f"layer_{i}": {"kernel": RNG.standard_normal(shape)}
    for i, shape in enumerate([(4, 5), (5, 5), (5, 1)], start=1)
}
VERBS = (certify.gradient_flow, certify.gradient_descent, certify.existence)


def test_compare_lists_the_theorems_that_are_about_the_network():
    shallow = mlp(width=5, activation="relu", trained="first")
    params = {"layer_1": PARAMS["layer_1"], "layer_2": PARAMS["layer_3"]}
    found = certify.compare(shallow, params, X, Y)
    assert list(found.certificates) == ["relu"]
    flow = certify.gradient_flow(shallow, params, X, Y)
    assert found.relu.to_json() == flow.to_json()
    with pytest.raises(AttributeError, match="there are: relu"):
        _ = found.flow
    with pytest.raises(
        ValueError, match=r"`network` must be one that a theorem.*digamma"
    ):
        certify.compare(DEEP, PARAMS, X, Y)


@pytest.mark.parametrize("verb", VERBS)
def test_nothing_is_computed_of_a_network_that_no_theorem_is_about(verb, monkeypatch):
    monkeypatch.setattr(start_module, "evaluations_of", None)
    found = verb(DEEP, PARAMS, X, Y)
    assert found.verdict is certify.Verdict.INCONCLUSIVE
    assert "no theorem for this network" in found.theorem


@pytest.mark.parametrize("verb", VERBS)
def test_a_conflict_refutes_only_what_the_network_computes(verb):
    x, y = np.concatenate([X, X[:1]]), np.concatenate([Y, Y[:1] + 1])
    assert verb(DEEP, PARAMS, x, y).verdict is certify.Verdict.REFUTED
    smooth = mlp(width=5, depth=2, activation="tanh")
    other = dataclasses.replace(smooth, apply=lambda p, x: 2 * smooth.apply(p, x))
    with pytest.raises(ValueError, match=r"`network.apply` must compute"):
        verb(other, PARAMS, x, y)


def test_bounds_of_a_start_are_computed_once(monkeypatch):
    net = mlp(width=5, depth=2, activation="tanh")
    calls = []
    evaluate = start_module.evaluations_of
    monkeypatch.setattr(
        start_module, "evaluations_of", lambda *a: calls.append(a) or evaluate(*a)
    )
    start = certify.bounds_at(net, PARAMS, X, Y)
    assert calls == []
    assert start.local is start.local
    assert start.conflict is None
    assert len(calls) == 1


MOVED = [
    ("lazyjax.certify", "Block", "JacobianBlock"),
    ("lazyjax.certify", "Comparison", "TheoremComparison"),
    ("lazyjax.certify", "below", "assume_less"),
    ("lazyjax.certify.du2019", "measure", "measured.du2019:measure"),
    ("lazyjax.certify.du2019", "Step", "measured.du2019:Step"),
    ("lazyjax.certify.du2019b", "Network", "NetworkKind"),
    ("lazyjax.certify.zou2018", "LOGISTIC", "measured.zou2018:LOGISTIC"),
    ("lazyjax.certify.allen_zhu2019", "Measurement", "MeasuredSmoothness"),
    ("lazyjax.certify.positive_start", "requirements", "chatterjee2022:requirements"),
]


@pytest.mark.parametrize(("module", "name", "new"), MOVED)
def test_names_that_moved_are_found_with_a_warning(module, name, new):
    owner = certify
    for part in module.split(".")[2:]:
        owner = getattr(owner, part)
    with pytest.warns(
        DeprecationWarning, match=f"{name}` is now .*{new.split(':')[-1]}"
    ):
        found = getattr(owner, name)
    assert found is not None
    with pytest.raises(AttributeError, match="has no attribute 'never'"):
        _ = owner.never
