"""A theorem and a requirement of one's own, used through every verb that takes them."""

import json

import jax
import numpy as np
import pytest
from typer.testing import CliRunner

from lazyjax import certify, nets
from lazyjax.cli.app import app

pytestmark = [pytest.mark.once, pytest.mark.usefixtures("x64")]
X, Y = np.eye(3, 4), np.array([[1.0], [-1.0], [1.0]])


def surjective(start):
    sigma = start.local.blocks[0].sigma_min
    return certify.Certificate(
        theorem="Own (2030)",
        conclusion="steps of Newton's method exist",
        assumptions=(certify.assume_less("surjective", "0 < sigma", 0.0, sigma),),
        margin=min(sigma, 1.0),
    )


def widths(x, y, *, depth, failure):
    known = {"theorem": "Own (2030)", "formula": "n/delta", "is_explicit": True}
    return (certify.RequiredWidth(width=len(x) / failure, depth=depth, **known),)


@pytest.fixture(autouse=True)
def registered():
    theorem = certify.Theorem(name="own", source="Own", certify=surjective)
    certify.register_theorem(theorem)
    requirement = certify.Requirement(name="own", source="Own", widths=widths)
    certify.register_requirement(requirement)
    with pytest.raises(ValueError, match="must be new"):
        certify.register_theorem(theorem)
    yield
    del certify.theorems.THEOREMS["own"], certify.widths.REQUIREMENTS["own"]


def test_verbs_take_both():
    params = (net := nets.mlp(width=8, activation="tanh")).init(jax.random.key(0), X)
    zero = jax.tree.map(np.zeros_like, params)
    for start, verdict in ((params, "CERTIFIED"), (zero, "INCONCLUSIVE")):
        found = certify.compare(net, start, X, Y)
        assert f"{verdict:<12} Own (2030)" in found.explain()
    assert certify.widths.theorem_requirements(X, Y, failure=0.5)[-1].width == 6.0


def test_the_command_line_lists_both(tmp_path):
    np.savez(tmp_path / "data.npz", X=X, y=Y)
    options = ["--data", str(tmp_path / "data.npz"), "--json"]
    run = lambda *words: CliRunner().invoke(app, ["certify", *words, *options])
    found = json.loads(run("compare").stdout)["certificates"]
    assert found["own"]["verdict"] == "CERTIFIED"
    table = json.loads(run("bounds", "--max-width", "2", "--num-steps", "1").stdout)
    assert table["theorems"][-1]["width"] == 30.0
