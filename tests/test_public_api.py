"""The names that users may import: a name leaves or comes on purpose only."""

import inspect
import operator
import pydoc
import subprocess
import sys

import pytest

import lazyjax

VERBS = [
    "empirical_nngp",
    "empirical_ntk",
    "empirical_ntk_of_loss",
    "gradient_flow",
    "gram",
    "infinite_nngp",
    "infinite_nngp_of",
    "infinite_ntk",
    "infinite_ntk_of",
    "layerwise_ntk",
    "linear_dynamics",
    "linearize",
    "monte_carlo_ntk",
    "ntk_blocks",
    "ntk_diagonal",
    "ntk_operator",
    "ntk_plan",
    "ntk_trace_estimate",
    "sweep",
    "taylor_expand",
    "train",
]
# Functions of `lazyjax.forecast`.
FORECASTS = [
    "forecast.calibration",
    "forecast.early_stopping",
    "forecast.learnabilities",
    "forecast.learning_curve",
    "forecast.optimal_ridge",
    "forecast.score",
    "forecast.training_time",
]
TYPES = ["Architecture", "Network"]
MODULES = [
    "certify",
    "data",
    "dynamics",
    "forecast",
    "grams",
    "infinite",
    "laziness",
    "linalg",
    "nets",
    "spectrum",
    "sweeps",
]


def test_public_names_are_these():
    public = {name for name in dir(lazyjax) if not name.startswith("_")}
    modules = {name for name in public if inspect.ismodule(getattr(lazyjax, name))}
    assert sorted(public - modules) == sorted(VERBS + TYPES)
    assert modules >= set(MODULES)


@pytest.mark.once
def test_forecasts_are_those_listed():
    members = inspect.getmembers(lazyjax.forecast, inspect.isfunction)
    assert [f"forecast.{name}" for name, _ in members] == FORECASTS


@pytest.mark.once
def test_a_star_brings_all_of_them_in_a_fresh_process():
    program = "from lazyjax import *; print(*sorted(globals()))"
    names = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()
    public = [name for name in names if not name.startswith("_")]
    assert public == sorted(VERBS + TYPES + MODULES)


@pytest.mark.once
def test_help_tells_of_every_verb():
    text = pydoc.plain(pydoc.render_doc(lazyjax))
    assert [name for name in VERBS if f"    {name}(" not in text] == []


@pytest.mark.parametrize("name", VERBS + FORECASTS)
def test_every_verb_says_what_it_returns_and_shows_an_example(name):
    doc = inspect.getdoc(operator.attrgetter(name)(lazyjax))
    assert doc is not None
    for section in ("Args:", "Returns:", "Raises:", "Example:"):
        assert section in doc, f"{name} lacks {section}"


def test_version_is_that_of_the_installed_package():
    assert lazyjax.__version__.count(".") == 2


# Every former name, and what it stands for.
RENAMED = {
    "lazyjax.linearized": "lazyjax.linear_dynamics",
    "lazyjax.dynamics.linearized": "lazyjax.dynamics.linear_dynamics",
    "lazyjax.dynamics.Sweep": "lazyjax.sweeps.Sweep",
    "lazyjax.dynamics.sweep": "lazyjax.sweeps.sweep",
    "lazyjax.laziness.Prediction": "lazyjax.laziness.PredictedExponent",
    "lazyjax.certify.chizat2019.Kappa": "lazyjax.laziness.Kappa",
    "lazyjax.certify.chizat2019.estimate_kappa": "lazyjax.laziness.kappa",
}


@pytest.mark.once
@pytest.mark.parametrize("old", RENAMED)
def test_former_names_still_work_and_warn_their_user(old):
    module, _, name = old.rpartition(".")
    with pytest.warns(DeprecationWarning, match=f"`{RENAMED[old]}`"):
        found = getattr(pydoc.locate(module), name)
    assert found is pydoc.locate(RENAMED[old])


def test_a_name_that_never_was_is_an_error():
    for module in (lazyjax, lazyjax.dynamics):
        with pytest.raises(AttributeError, match="has no attribute 'linearised'"):
            module.linearised  # noqa: B018
