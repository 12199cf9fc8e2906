"""What all experiments share: sizes, verdicts, files, and the command that runs them."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from typer.testing import CliRunner

from lazyjax import experiments, plot, report
from lazyjax.cli.app import app
from lazyjax.experiments import (
    EXPERIMENTS,
    Check,
    Conditions,
    Control,
    Experiment,
    Judgement,
    Size,
)
from lazyjax.files.archive import FileError

pytestmark = pytest.mark.once


@dataclasses.dataclass(frozen=True, kw_only=True)
class DrawsSize(Size):
    """How many numbers are drawn."""

    num_draws: int = 100
    mean: float = 0.0


@dataclasses.dataclass(frozen=True)
class Draws:
    """Numbers."""

    values: np.ndarray


def drawn(size: DrawsSize, conditions: Conditions) -> Draws:
    generator = np.random.default_rng(conditions.seed)
    return Draws(generator.normal(size.mean, size=size.num_draws))


def near_zero(draws: Draws) -> Judgement:
    mean = abs(float(draws.values.mean()))
    return Judgement.of(
        [Check(statement="|mean|", measured=mean, sense="at most", threshold=0.5)]
    )


def histogram(draws: Draws):
    figure = plot.figure()
    axes = figure.subplots()
    axes.hist(draws.values)
    plot.style_axes(axes, xlabel="value", ylabel="count", title="Draws")
    return figure


def made(name: str, **changes) -> Experiment:
    experiment = Experiment(
        name=name,
        title="Draws <of> & numbers",
        source="A book (1900)",
        claim="The mean is zero, for 1 < 2.",
        sizes={"quick": DrawsSize(), "brief": DrawsSize(num_draws=9)},
        measure=drawn,
        verdict=near_zero,
        tables=lambda draws: [
            report.table("Draws", ["n", "<mean>"], [[str(len(draws.values)), "0"]])
        ],
        figure=histogram,
        control=Control(
            what="the mean is one", change=lambda s: dataclasses.replace(s, mean=1.0)
        ),
    )
    return dataclasses.replace(experiment, **changes)


def check(
    measured,
    sense: Literal["at most", "at least"] = "at most",
    threshold=1.0,
    uncertainty=0.0,
):
    return Check(
        statement="x",
        measured=measured,
        sense=sense,
        threshold=threshold,
        uncertainty=uncertainty,
    )


@pytest.mark.parametrize(
    ("checked", "word"),
    [
        (check(1.0), "reproduced"),
        (check(1.01), "not reproduced"),
        (check(1.0, "at least"), "reproduced"),
        (check(0.99, "at least"), "not reproduced"),
        (check(1.2, uncertainty=0.3), "inconclusive at this size"),
        (check(0.8, uncertainty=0.3), "inconclusive at this size"),
        (check(1.4, uncertainty=0.3), "not reproduced"),
        (check(0.5, uncertainty=0.3), "reproduced"),
        (check(0.5, uncertainty=np.nan), "inconclusive at this size"),
        (check(np.nan), "not reproduced"),
        (check(np.nan, "at least"), "not reproduced"),
        (check(-np.inf), "reproduced"),
        (check(np.inf), "not reproduced"),
    ],
)
def test_a_number_is_judged_by_its_threshold_and_its_uncertainty(checked, word):
    assert checked.word == word


def test_one_failure_decides_whatever_else_is_undecided():
    good, bad, open_ = check(0.0), check(2.0), check(1.0, uncertainty=0.1)
    assert Judgement.of([good, open_, bad]).decisive is bad
    assert Judgement.of([good, open_]).word == experiments.INCONCLUSIVE
    assert Judgement.of([good, good]).word == experiments.REPRODUCED
    unmet = Judgement.of([bad], premises=[open_])
    assert unmet.word == experiments.INCONCLUSIVE
    assert unmet.decisive is open_
    assert Judgement.of([bad], premises=[good]).word == experiments.NOT_REPRODUCED
    with pytest.raises(ValueError, match="`checks`"):
        Judgement.of([])


def test_every_registered_experiment_is_described():
    for name, experiment in EXPERIMENTS.items():
        if not experiment.measure.__module__.startswith("lazyjax."):
            continue  # another test may have registered its own
        assert name == experiment.name
        assert all((experiment.title, experiment.source, experiment.claim))
        assert experiment.control.what
        assert {"quick", "brief", "full"} <= set(experiment.sizes)
        assert next(iter(experiment.sizes)) == "quick"
        for size in experiment.sizes.values():
            assert experiment.control.change(size) != size


def test_widths_and_seeds_replace_those_of_a_size():
    planned = experiments.plan(EXPERIMENTS["du2019"], widths=[4, 8], num_seeds=3)
    assert (planned.size.widths, planned.size.num_seeds) == ((4, 8), 3)
    with pytest.raises(ValueError, match="`widths` must be None"):
        experiments.plan(made("draws"), widths=[4])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"experiment": "du2091"}, ValueError, "Did you mean 'du2019'"),
        ({"size": "quik"}, ValueError, "Did you mean 'quick'"),
        ({"seed": -1}, ValueError, "`seed` must be at least 0"),
        ({"seed": 0.5}, TypeError, "`seed` must be an integer"),
        ({"data_dir": "/nowhere"}, FileNotFoundError, "/nowhere is none"),
    ],
)
def test_bad_arguments_are_refused_by_name(own_errors, arguments, error, message):
    with pytest.raises(error, match=message):
        experiments.run(**({"experiment": "du2019"} | arguments))


@pytest.mark.parametrize("name", ["", "../up", "a b", "a/b", "-a", "a.b", "é"])
def test_names_are_those_of_files(name):
    with pytest.raises(ValueError, match="`name` must be"):
        made(name)


def test_the_same_seed_gives_the_same_file():
    written = [
        report.json_bytes(experiments.run(made("draws"), seed=seed).summary())
        for seed in (0, 0, 1)
    ]
    assert written[0] == written[1] != written[2]


@pytest.fixture
def two(monkeypatch):
    """A registry of two experiments, and how often each has been measured."""
    count = {"first": 0, "second": 0}

    def counted(name):
        def measure(size, conditions):
            count[name] += 1
            return drawn(size, conditions)

        return made(name, measure=measure)

    found = {name: counted(name) for name in count}
    monkeypatch.setattr("lazyjax.experiments.EXPERIMENTS", found)
    return found, count


def reproduce(*arguments):
    return CliRunner().invoke(app, ["reproduce", *map(str, arguments)])


def test_all_goes_on_after_a_failure_and_a_rerun_does_the_rest(two, tmp_path):
    found, count = two
    good = found["first"]

    def fail(size, conditions):
        raise KeyError("broken")

    found["first"] = made("first", measure=fail)
    done = reproduce("--all", "--out", tmp_path)
    assert done.exit_code == 1
    assert "lazyjax: first failed: KeyError: 'broken'" in done.stderr
    assert "second" in done.stdout
    assert sorted(p.name for p in tmp_path.iterdir()) == ["second.json", "second.png"]

    found["first"] = good
    again = reproduce("--all", "--out", tmp_path)
    assert again.exit_code == 0, again.output
    assert count == {"first": 1, "second": 1}
    assert "kept" in again.stdout
    # Another seed, size or control is another result; a damaged file is none.
    for options in (["--seed", 1], ["--seed", 1, "--size=brief"], ["--control"]):
        reproduce("--all", "--out", tmp_path, *options)
    assert count == {"first": 4, "second": 4}
    file = tmp_path / "first.json"
    file.write_bytes(file.read_bytes()[:-10])
    reproduce("--all", "--out", tmp_path, "--control")
    assert count == {"first": 5, "second": 4}


def test_a_page_holds_everything_and_asks_for_nothing(two, tmp_path):
    done = reproduce("--all", "--out", tmp_path, "--report", "--seed", 3)
    assert done.exit_code == 0, done.output
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert not re.search(r"https?://|<script|<link", page)
    for text in (
        "Draws &lt;of&gt; &amp; numbers",
        "1 &lt; 2",
        "&lt;mean&gt;",
        "Python",
    ):
        assert text in page
    assert "num_draws = 100" in page
    assert "reproduced: |mean| is" in page
    for name in ("first", "second"):  # what the overview leads to
        assert f'<a href="#{name}">{name}</a>' in page
        assert f'<h2 id="{name}">' in page


def test_the_verdict_and_the_control_are_shown(two, tmp_path):
    done = reproduce("first", "--out", tmp_path)
    assert "reproduced: |mean| is" in done.stdout
    done = reproduce("first", "--out", tmp_path, "--control", "--quick")
    assert "Negative control: the mean is one" in done.stdout
    assert "not reproduced: |mean| is" in done.stdout
    written = json.loads((tmp_path / "first.json").read_text())
    assert written["settings"]["control"] == "the mean is one"
    assert written["verdict"]["word"] == "not reproduced"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["first", "--data-dir", "/nowhere"], "must be a folder"),
        (["first", "--out", "/proc/x"], "can be made and written to"),
        (["--all", "--out", "/proc/x"], "can be made and written to"),
        (["first", "--all"], "cannot be named too"),
        (["first", "--quick", "--full"], "exclude each other"),
        (["first", "--widths", "4"], "`widths` must be None"),
        (["first", "--widths", "four"], "must be numbers"),
        (["--all", "--seeds", "4"], "not for --all"),
        (["first", "--full"], "`size` must be one of"),
        (["frist"], "Did you mean 'first'"),
    ],
)
def test_misuse_exits_with_2_before_any_work(two, arguments, message, tmp_path):
    done = reproduce("--out", tmp_path, *arguments)
    assert done.exit_code == 2, done.output
    assert message in " ".join(re.sub("[│╭╮╰╯─]", " ", done.stderr).split())
    assert two[1] == {"first": 0, "second": 0}
    assert list(Path(tmp_path).iterdir()) == []


@pytest.mark.parametrize(
    "error", [FileError("a.bin is cut short"), FileNotFoundError("a.bin")]
)
def test_damaged_data_exit_with_2(two, error, tmp_path):
    def fail(size, conditions):
        raise error

    two[0]["first"] = made("first", measure=fail)
    done = reproduce("first", "--out", tmp_path)
    assert done.exit_code == 2
    assert "a.bin" in done.stderr
    assert list(tmp_path.iterdir()) == []
