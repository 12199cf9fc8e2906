"""An experiment of one's own: no file of the library changes."""

import dataclasses
import json
from typing import Any

import jax.numpy as jnp
import pytest
from rich.table import Table
from typer.testing import CliRunner

import lazyjax
from lazyjax.cli.app import app
from lazyjax.experiments import (
    EXPERIMENTS,
    Check,
    Control,
    Experiment,
    Judgement,
    Size,
    register,
    run,
)

pytestmark = pytest.mark.once


@dataclasses.dataclass(frozen=True)
class Losses:
    runs: lazyjax.sweeps.Sweep

    @property
    def last(self):
        return self.runs.loss[0, :, 0, 0, -1]


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnesSize(Size):
    widths: tuple[int, ...]
    num_seeds: int = 3
    rate: float = 0.1


def measure(size, conditions):
    settings = {"learning_rates": [size.rate], "num_steps": 20}
    settings |= {"widths": size.widths, "num_seeds": size.num_seeds}
    settings |= {"key": conditions.key, "progress": conditions.progress}
    x, y = jnp.eye(2), jnp.ones((2, 1))
    return Losses(lazyjax.sweep(lazyjax.Architecture(), x, y, **settings))


def verdict(found):
    largest = float(found.last.max() / found.runs.loss[..., 0].min())
    return Judgement.of(
        [Check(statement="loss", measured=largest, sense="at most", threshold=0.5)]
    )


def figure(found):
    figure = lazyjax.plot.figure()
    figure.subplots().plot(found.last)
    return figure


EXPERIMENT = Experiment(
    name="two-ones",
    title="Two ones",
    source="None",
    claim="The loss falls.",
    sizes={"small": OnesSize(widths=(2,)), "large": OnesSize(widths=(4,))},
    measure=measure,
    verdict=verdict,
    tables=lambda found: [Table("loss", title=str(found.last))],
    figure=figure,
    control=Control(
        what="nothing is learnt", change=lambda s: dataclasses.replace(s, rate=1e-9)
    ),
    numbers=lambda found: {"losses": found.last.tolist()},
)


def test_it_is_listed_run_saved_and_loaded(tmp_path):
    assert register(EXPERIMENT) is EXPERIMENTS["two-ones"]
    result: Any = run("two-ones", size="large", seed=1)
    path = result.measured.runs.save(tmp_path / "runs.npz")
    loaded = Losses(lazyjax.sweeps.Sweep.load(path))
    assert loaded.last.tolist() == result.measured.last.tolist()
    call = lambda *args: CliRunner().invoke(app, ["reproduce", *args])
    assert "two-ones: Two ones. None." in call().stdout
    for name in ("two-ones", f"{__name__}:EXPERIMENT"):
        done = call(name, "--size=large", "--seed=1", f"--out={tmp_path / name}")
        assert done.exit_code == 0, done.output
        written = json.loads((tmp_path / name / "two-ones.json").read_text())
        losses = written["measured"]["losses"]
        assert losses == pytest.approx(result.measured.last.tolist(), rel=1e-6)
    controlled = call("two-ones", "--size=large", "--control", f"--out={tmp_path}")
    assert "not reproduced: loss is 5" in controlled.stdout
    assert call("two-onse").exit_code == call("two-ones", "--size=none").exit_code == 2
