"""An experiment of one's own: no file of the library changes."""

import json
from dataclasses import dataclass, replace

import jax.numpy as jnp
import optax
import pytest
from rich.table import Table
from typer.testing import CliRunner

from lazyjax import experiments, nets, plot, train
from lazyjax.cli.app import app
from lazyjax.experiments import Check, Control, Experiment, Judgement, Size

pytestmark = pytest.mark.once


@dataclass(frozen=True, kw_only=True)
class OnesSize(Size):
    width: int
    rate: float = 0.1


def measure(size, conditions):
    x, y, net = jnp.eye(2), jnp.ones((2, 1)), nets.mlp(width=size.width)
    params, sgd = net.init(conditions.key, x), optax.sgd(size.rate)
    return train(net.apply, params, x, y, optimizer=sgd, num_steps=20).loss


def verdict(loss):
    claim = {"statement": "loss", "sense": "at most", "threshold": 0.5}
    return Judgement.of([Check(measured=float(loss[-1] / loss[0]), **claim)])


EXPERIMENT = Experiment(
    name="two-ones",
    title="Two ones",
    source="None",
    claim="The loss falls.",
    sizes={"small": OnesSize(width=2), "large": OnesSize(width=4)},
    measure=measure,
    verdict=verdict,
    tables=lambda loss: [Table("loss", title=str(loss[-1]))],
    figure=lambda _: plot.figure(),
    control=Control(what="no step", change=lambda size: replace(size, rate=0.0)),
    numbers=lambda loss: {"losses": loss.tolist()},
)


def test_it_is_listed_run_and_written(tmp_path):
    assert experiments.register(EXPERIMENT) is experiments.EXPERIMENTS["two-ones"]
    loss = experiments.run("two-ones", size="large", seed=1).measured
    call = lambda *args: CliRunner().invoke(app, ["reproduce", *args])
    assert "two-ones: Two ones. None." in call().stdout
    name, out = f"{__name__}:EXPERIMENT", f"--out={tmp_path}"
    assert call(name, "--size=large", "--seed=1", out).exit_code == 0
    written = json.loads((tmp_path / "two-ones.json").read_text())
    assert written["measured"]["losses"] == pytest.approx(loss.tolist(), rel=1e-6)
    assert "not reproduced: loss is 1" in call("two-ones", "--control", out).stdout
