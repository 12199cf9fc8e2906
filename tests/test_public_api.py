"""The names that users may import: a name leaves or comes on purpose only."""

import inspect
import pydoc
import subprocess
import sys

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
MODULES = [
    "certify",
    "data",
    "dynamics",
    "infinite",
    "laziness",
    "linalg",
    "nets",
    "sweeps",
]


def test_public_names_are_these():
    public = {name for name in dir(lazyjax) if not name.startswith("_")}
    modules = {name for name in public if inspect.ismodule(getattr(lazyjax, name))}
    assert sorted(public - modules) == sorted(VERBS + TYPES)
    assert modules >= set(MODULES)


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


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_says_what_it_returns_and_shows_an_example(name):
    doc = inspect.getdoc(getattr(lazyjax, name))
    assert doc is not None
    for section in ("Args:", "Returns:", "Raises:", "Example:"):
        assert section in doc, f"{name} lacks {section}"


def test_version_is_that_of_the_installed_package():
    assert lazyjax.__version__.count(".") == 2
