"""The command line: exit codes, what goes to which stream, all or no files."""

import dataclasses
import errno
import json
import sys
import tempfile

import jax
import jax.numpy as jnp
import pytest
from typer.testing import CliRunner

import lazyjax
from lazyjax.cli.app import app
from lazyjax.experiments import EXPERIMENTS
from lazyjax.experiments.convergence.du2019 import Du2019Size

TINY = Du2019Size(
    widths=(8, 16), num_seeds=2, num_train=12, num_steps=30, num_observed=4
)


@pytest.fixture
def tiny(monkeypatch):
    experiment = dataclasses.replace(
        EXPERIMENTS["du2019"], sizes={"quick": TINY, "brief": TINY}
    )
    monkeypatch.setattr("lazyjax.experiments.EXPERIMENTS", {"du2019": experiment})


@pytest.fixture
def failing(monkeypatch):
    """Let the experiment raise what the test puts into the list."""
    error = []

    def fail(size, conditions):
        raise error[0]

    experiment = dataclasses.replace(EXPERIMENTS["du2019"], measure=fail)
    monkeypatch.setattr("lazyjax.experiments.EXPERIMENTS", {"du2019": experiment})
    return error


@pytest.fixture(autouse=True)
def precision():
    """Commands choose the precision of their process, which is that of all tests here."""
    before = jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]
    yield
    jax.config.update("jax_enable_x64", before)


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_quickstart_prints_tables_and_writes_both_files(tiny, tmp_path):
    out = tmp_path / "new" / "folder"
    result = call("quickstart", "--quick", "--out", out, "--seed", 1)
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in out.iterdir()) == [
        "quickstart.json",
        "quickstart.png",
    ]
    assert (out / "quickstart.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    parsed = json.loads((out / "quickstart.json").read_text())
    assert parsed["measured"]["widths"] == list(TINY.widths)
    for heading in ("2 seeds, 30 steps", "Powers of the width", "Du et al.'s argument"):
        assert heading in result.stdout
        assert heading not in result.stderr
    for words in ("training width 8: ", "wrote", "quickstart.json"):
        assert words in result.stderr
        assert words not in result.stdout


def test_version_is_that_of_the_package():
    result = call("--version")
    assert result.exit_code == 0
    assert result.stdout == f"lazyjax {lazyjax.__version__}\n"


def test_info_tells_versions_and_devices():
    found = json.loads(call("info", "--json").stdout)
    assert found["lazyjax"] == lazyjax.__version__
    assert found["packages"]["jax"] == jax.__version__
    assert len(found["devices"]) == jax.device_count()
    text = call("info").stdout
    assert "matplotlib, extra plot" in text
    assert ("not installed" in text) == (None in found["beside it"].values())


def test_experiments_are_listed():
    result = call("reproduce", "--list")
    assert result.exit_code == 0
    assert "du2019: " in result.stdout
    assert "arXiv:1810.02054" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seed", "-1"], "--seed"),
        (["--seed", "half"], "--seed"),
        (["--what"], "--what"),
        (["--out", "file"], "not a folder"),
        (["--out", "file/below"], "not a folder"),
        (["--out", "taken"], "is a folder"),
    ],
)
def test_bad_usage_exits_with_2_before_any_work(
    failing, tmp_path, monkeypatch, arguments, message
):
    failing.append(AssertionError("work was done"))
    (tmp_path / "file").write_text("mine")
    (tmp_path / "taken" / "quickstart.png").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    result = call("quickstart", *arguments)
    assert result.exit_code == 2
    assert message in words(result)
    assert result.stdout == ""
    assert sorted(tmp_path.rglob("*")) == before


def words(result):
    """What was written to stderr, without the frame around it."""
    return " ".join(result.stderr.replace("│", " ").split())


def refuse_to_write(monkeypatch):
    """As a read-only folder does, which there is none of for root."""

    def refuse(**_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)


@pytest.mark.parametrize(
    ("command", "option", "place", "message"),
    [
        ("quickstart", "--out", "/proc/x", "can be made and written to"),
        ("quickstart", "--out", "read-only", "can be made and written to"),
        ("sweep", "--out", "/proc/x/s.npz", "can be made and written to"),
        ("sweep", "--out", "read-only/s.npz", "can be made and written to"),
        ("sweep", "--out", "taken.npz", "is a folder"),
        ("sweep", "--out", "file/s.npz", "is not a folder"),
        ("sweep", "--checkpoint", "/proc/x", "can be made and written to"),
        ("sweep", "--checkpoint", "file", "is not a folder"),
        ("sweep", "--checkpoint", "sweep.npz", "cannot be a folder"),
    ],
)
def test_what_cannot_be_written_is_bad_usage_before_any_work(
    failing, tmp_path, monkeypatch, command, option, place, message
):
    failing.append(AssertionError("work was done"))
    monkeypatch.setattr(lazyjax.data, "digits", lambda *_, **__: failing[0])
    (tmp_path / "file").write_text("mine")
    (tmp_path / "taken.npz").mkdir()
    if "read-only" in place:
        refuse_to_write(monkeypatch)
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    result = call(command, option, place)
    assert result.exit_code == 2, result.output
    assert message in words(result)
    assert option in words(result)
    assert result.stdout == ""
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("command", "hidden", "message"),
    [
        (
            "quickstart",
            "sklearn matplotlib",
            "scikit-learn and matplotlib: [data,plot]",
        ),
        ("quickstart", "matplotlib", "matplotlib: [plot]"),
        ("sweep", "sklearn", "scikit-learn: [data]"),
        ("sweep", "matplotlib sklearn", "scikit-learn: [data]"),
        ("certify", "sklearn", "scikit-learn: [data]"),
        ("certify bounds", "sklearn", "scikit-learn: [data]"),
    ],
)
def test_all_missing_packages_are_named_with_one_line_to_install_them(
    failing, tmp_path, monkeypatch, command, hidden, message
):
    failing.append(AssertionError("work was done"))
    for module in hidden.split():
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.chdir(tmp_path)
    result = call(*command.split())
    assert result.exit_code == 1, result.output
    names, extras = message.split(": ")
    assert result.stderr == (
        f'lazyjax: `lazyjax {command}` needs {names}: pip install "lazyjax{extras}".\n'
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ValueError("`x` must be\nfinite."), 1, "lazyjax: `x` must be finite."),
        (ImportError("needs scikit-learn"), 1, "lazyjax: needs scikit-learn"),
        (MemoryError(), 1, "lazyjax: MemoryError"),
        (KeyboardInterrupt(), 130, "lazyjax: interrupted, nothing written"),
    ],
)
def test_failures_are_one_line_and_write_nothing(
    failing, tmp_path, error, code, message
):
    failing.append(error)
    result = call("quickstart", "--out", tmp_path / "out")
    assert result.exit_code == code
    assert result.stderr.splitlines() == [message]
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_our_own_making_keeps_its_traceback(failing, tmp_path):
    failing.append(KeyError("bug"))
    result = call("quickstart", "--out", tmp_path)
    assert isinstance(result.exception, KeyError)


@pytest.mark.parametrize("flag", [[], ["--x64"]])
def test_double_precision_is_on_only_if_asked_for(flag, failing, tmp_path, monkeypatch):
    class Seen(ValueError):
        def __str__(self):
            return str(jnp.result_type(float))

    failing.append(Seen())
    before = bool(jax.config.read("jax_enable_x64"))
    try:
        result = call("quickstart", "--out", tmp_path, *flag)
    finally:
        jax.config.update("jax_enable_x64", before)
    assert result.stderr.strip() == f"lazyjax: {'float64' if flag else 'float32'}"


def test_sweep_prints_means_and_writes_what_can_be_read_again(tmp_path):
    out = tmp_path / "s.csv"
    options = ("--widths", "2,4", "--seeds", 2, "--alphas", "1,10", "--steps", 5)
    result = call("sweep", "--out", out, *options, "--rates", "0.5", "--num-train", 8)
    assert result.exit_code == 0, result.output
    loss = lazyjax.sweeps.Sweep.load(out).loss
    assert loss.shape == (2, 2, 2, 1, 6)
    rows = [line.split() for line in result.stdout.splitlines()[1:]]
    assert [row[:2] for row in rows] == [[w, a] for w in "24" for a in ("1", "10")]
    assert [float(row[3]) for row in rows] == pytest.approx(
        loss[..., 0, -1].mean(1).ravel().tolist(), rel=1e-3
    )
    assert "loss: mean of all 8 members." in result.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--memory", "much"), "`memory` must be a number with a unit"),
        (("--widths", "4,2"), "`widths` must be one or more increasing widths"),
    ],
)
def test_sweep_refuses_misuse_in_one_line(options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = call("sweep", "--num-train", 4, *options)
    assert result.exit_code == 1
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert call("sweep", "--out", "s.parquet").exit_code == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["--widths", "--alphas", "--rates"])
def test_sweep_refuses_what_is_no_list_of_numbers(option, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = call("sweep", option, "1,two")
    assert result.exit_code == 2
    assert f"{option}: must be numbers with commas between them" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_forecasts_and_spectra_are_printed_and_drawn(tmp_path):
    picture = tmp_path / "curve.png"
    result = call("forecast", "--num-train", 60, "--sizes", "10,30", "--out", picture)
    assert result.exit_code == 0, result.output
    rows = [line.split("│")[1:3] for line in result.stdout.splitlines() if "│" in line]
    errors = {int(size): float(error) for size, error in rows}
    assert 0.3 < errors[30] < errors[10] < 1.2
    assert picture.read_bytes().startswith(b"\x89PNG")
    result = call("spectrum", "--num-train", 40)
    assert result.exit_code == 0, result.output
    assert "zero to rounding" in result.stdout
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["forecast", "--num-train", 20, "--sizes", "20"], "from 1 to 19"),
        (["forecast", "--sizes", "many"], "must be numbers"),
        (["forecast", "--out", "curve.jpg"], "must end in .png"),
        (["spectrum", "--data", "nowhere.npz"], "cannot be read"),
        (["spectrum", "--out", "no/folder/a.jpg"], "must end in .png"),
    ],
)
def test_forecasts_and_spectra_refuse_misuse(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = call(*arguments)
    assert result.exit_code == 2
    assert message in words(result)
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == []
