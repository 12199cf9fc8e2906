"""An experiment of one's own: no file of the library changes."""

import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from rich.table import Table
from typer.testing import CliRunner

import lazyjax
from lazyjax.cli.app import app
from lazyjax.experiments import EXPERIMENTS, Experiment, register

pytestmark = pytest.mark.once


@dataclasses.dataclass(frozen=True)
class Losses:
    runs: lazyjax.sweeps.Sweep

    def tables(self):
        return [Table("loss", title=str(self.summary()))]

    def figure(self):
        figure = lazyjax.plot.figure()
        figure.subplots().plot(self.summary()["losses"])
        return figure

    def summary(self):
        return {"losses": self.runs.loss[0, :, 0, 0, -1].tolist()}


def run(*, size, seed, progress=False):
    settings = {"learning_rates": [0.1], "num_steps": 20, "progress": progress}
    x, y, widths = jnp.eye(2), jnp.ones((2, 1)), [{"small": 2, "large": 4}[size]]
    settings |= {"widths": widths, "num_seeds": 3, "key": jax.random.key(seed)}
    return Losses(lazyjax.sweep(lazyjax.Architecture(), x, y, **settings))


EXPERIMENT = Experiment(
    name="ones", title="Two ones", source="None", run=run, sizes=("small", "large")
)


def test_it_is_listed_run_saved_and_loaded(tmp_path):
    assert register(EXPERIMENT) is EXPERIMENTS["ones"]
    result: Any = EXPERIMENTS["ones"].run(size="large", seed=1)
    path = result.runs.save(tmp_path / "runs.npz")
    assert Losses(lazyjax.sweeps.Sweep.load(path)).summary() == result.summary()
    call = lambda *args: CliRunner().invoke(app, ["reproduce", *args])
    assert "ones: Two ones. None." in call().stdout
    for name in ("ones", f"{__name__}:EXPERIMENT"):
        done = call(name, "--size=large", "--seed=1", f"--out={tmp_path / name}")
        assert done.exit_code == 0, done.output
        written = json.loads((tmp_path / name / "ones.json").read_text())
        assert written["losses"] == pytest.approx(result.summary()["losses"], rel=1e-6)
    assert call("onse").exit_code == call("ones", "--size=none").exit_code == 2
