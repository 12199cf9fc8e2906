"""The names that users may import: a name leaves or comes on purpose only."""

import inspect

import pytest

import lazyjax

VERBS = [
    "empirical_nngp",
    "empirical_ntk",
    "gradient_flow",
    "infinite_nngp",
    "infinite_nngp_of",
    "infinite_ntk",
    "infinite_ntk_of",
    "layerwise_ntk",
    "linearize",
    "linearized",
    "monte_carlo_ntk",
    "ntk_diagonal",
    "ntk_operator",
    "ntk_plan",
    "sweep",
    "taylor_expand",
    "train",
]
TYPES = ["Architecture", "Network"]
MODULES = ["certify", "data", "dynamics", "infinite", "laziness", "nets"]


def test_public_names_are_these():
    public = {name for name in dir(lazyjax) if not name.startswith("_")}
    modules = {name for name in public if inspect.ismodule(getattr(lazyjax, name))}
    assert sorted(public - modules) == sorted(VERBS + TYPES)
    assert modules >= set(MODULES)


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_says_what_it_returns_and_shows_an_example(name):
    doc = inspect.getdoc(getattr(lazyjax, name))
    assert doc is not None
    for section in ("Args:", "Returns:", "Raises:", "Example:"):
        assert section in doc, f"{name} lacks {section}"


def test_version_is_that_of_the_installed_package():
    assert lazyjax.__version__.count(".") == 2
