"""`lazyjax certify` and the table of widths: exit codes, streams, bad files."""

import json

import jax
import numpy as np
import pytest
from typer.testing import CliRunner

from lazyjax.certify import Certificate
from lazyjax.certify.widths import table as widths
from lazyjax.cli.app import app

pytestmark = pytest.mark.once


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def unit_rows(n, d, seed=0):
    x = np.random.default_rng(seed).standard_normal((n, d))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.fixture
def file(tmp_path):
    """Writes arrays to an .npz file."""

    def write(**arrays):
        path = tmp_path / "data.npz"
        np.savez(path, **arrays)
        return path

    return write


@pytest.fixture
def easy(file):
    return file(X=unit_rows(4, 32), y=np.array([1, -1, 1, -1]))


def words(result):
    return " ".join(result.stderr.replace("│", " ").split())


def test_a_wide_network_is_certified_and_exits_with_0(easy):
    result = call("certify", "--data", easy, "--width", 512)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("CERTIFIED: gradient flow")
    assert result.stderr == ""
    assert not jax.config.read("jax_enable_x64")


def test_a_narrow_network_is_not_and_exits_with_1(easy):
    result = call("certify", "--data", easy, "--width", 2, "--json")
    assert result.exit_code == 1, result.output
    assert json.loads(result.stdout)["verdict"] == "INCONCLUSIVE"


def test_json_is_the_certificate(easy):
    arguments = ("--dynamics", "descent", "--rigor", "float", "--json")
    result = call("certify", "--data", easy, "--width", 512, *arguments)
    assert result.exit_code == 0, result.output
    assert len(result.stdout.splitlines()) == 1
    found = Certificate.from_json(result.stdout)
    assert found.is_certified
    assert (found.dynamics, found.rigor) == ("descent", "float")


def test_training_certifies_what_the_start_does_not(easy):
    arguments = ("--data", easy, "--width", 12, "--depth", 2, "--activation", "tanh")
    start = call("certify", *arguments)
    trained = call("certify", *arguments, "--start", "trained")
    assert (start.exit_code, trained.exit_code) == (1, 0), trained.output


def test_equal_inputs_with_two_labels_are_refuted_and_exit_with_1(file):
    path = file(X=np.ones((2, 3)), y=np.array([1.0, -1.0]))
    result = call("certify", "--data", path, "--width", 8)
    assert result.exit_code == 1
    assert result.stdout.startswith("REFUTED")


def test_digits_are_the_default():
    result = call("certify", "--num-train", 4, "--width", 64, "--json")
    assert result.exit_code in (0, 1), result.output
    assert json.loads(result.stdout)["theorem"]


BAD_ARRAYS = {
    "missing y": ({"X": np.ones((2, 3))}, "lacks y and has X"),
    "missing both": ({"a": np.ones(2)}, "lacks X and y and has a"),
    "one axis": ({"X": np.ones(3), "y": np.ones(3)}, "X must have shape (n, d)"),
    "no rows": ({"X": np.ones((0, 3)), "y": np.ones(0)}, "X must have shape (n, d)"),
    "short y": ({"X": np.ones((3, 2)), "y": np.ones(2)}, "y must have shape (3,)"),
    "cube y": ({"X": np.ones((3, 2)), "y": np.ones((3, 1, 1))}, "y must have shape"),
    "wide y": ({"X": np.ones((3, 2)), "y": np.ones((3, 2))}, "one column"),
    "nan": ({"X": np.full((2, 2), np.nan), "y": np.ones(2)}, "X must be finite"),
    "infinite": ({"X": np.eye(2), "y": np.array([1, np.inf])}, "y must be finite"),
    "text": ({"X": np.eye(2), "y": np.array(["a", "b"])}, "y must hold real numbers"),
    "complex": ({"X": np.eye(2) * 1j, "y": np.ones(2)}, "X must hold real numbers"),
    "objects": (
        {"X": np.eye(2), "y": np.array([None, {}], dtype=object)},
        "cannot be read",
    ),
}


@pytest.mark.parametrize("name", BAD_ARRAYS)
@pytest.mark.parametrize("command", [("certify",), ("certify", "bounds")])
def test_bad_files_are_bad_usage_in_words(file, name, command):
    arrays, message = BAD_ARRAYS[name]
    result = call(*command, "--data", file(**arrays))
    assert result.exit_code == 2, result.output
    assert message in words(result)
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "none.npz"], "none.npz cannot be read"),
        (["--data", "text.npz"], "text.npz cannot be read"),
        (["--data", "one.npy"], "must be an .npz file"),
        (["--data", "."], "cannot be read"),
        (["--architecture", "cnn"], "--architecture"),
        (["--activation", "ralu"], "Did you mean 'relu'?"),
        (["--width", "0"], "--width"),
        (["--depth", "0"], "--depth"),
        (["--w-std", "-1"], "w_std"),
        (["--start", "warm"], "--start"),
        (["--num-train", "0"], "--num-train"),
        (["--num-train", "99999"], "--num-train"),
        (["--width", "8", "bounds"], "unexpected extra argument"),
        (["bounds", "--failure", "2"], "`failure` must be between 0 and 1"),
    ],
)
def test_bad_usage_exits_with_2(tmp_path, monkeypatch, arguments, message):
    (tmp_path / "text.npz").write_text("no archive")
    np.save(tmp_path / "one.npy", np.ones(3))
    monkeypatch.chdir(tmp_path)
    result = call("certify", *arguments)
    assert result.exit_code == 2, result.output
    assert message in words(result)
    assert result.stdout == ""


def test_bounds_prints_a_table_and_exits_with_0(easy):
    result = call("certify", "bounds", "--data", easy, "--max-width", 64)
    assert result.exit_code == 0, result.output
    for heading in (
        "Du et al. (2019b), residual",
        "Allen-Zhu et al. (2019)",
        "poly(n, 1/phi, L, 1/eps)",
        "smallest certified start",
        "smallest seen to converge",
    ):
        assert heading in result.stdout
    assert "training width 1" in result.stderr


# The table


@pytest.fixture(scope="module")
def table():
    with jax.enable_x64(True):
        x, y = unit_rows(4, 32), np.array([[1.0], [-1.0], [1.0], [-1.0]])
        return widths.width_table(x, y, key=jax.random.key(0), max_width=256)


def test_theorems_ask_for_far_more_than_what_does(table):
    assert table.certificate.is_certified
    assert 1 <= table.converged <= table.certified <= 256
    random_starts = [
        needed
        for needed in table.requirements
        if needed.width is not None and "positive" not in needed.theorem
    ]
    orders = [needed.width for needed in random_starts if "step" not in needed.theorem]
    assert min(orders) > 100 * table.certified
    assert all(needed.applies for needed in table.requirements)


def test_rows_mark_what_has_no_constant(table):
    rows = {row[0]: row for row in table.rows()}
    assert rows["Du et al. (2019), two-layer ReLU"][1].startswith("~")
    explicit = rows["Du et al. (2019) for gradient flow, with constants"]
    assert explicit[1][0].isdigit()
    assert explicit[-1] == "met"
    assert all(len(row) == 5 for row in rows.values())


def test_table_survives_json(table):
    from lazyjax import report

    parsed = json.loads(report.json_bytes(table.summary()))
    assert parsed["certified"]["width"] == table.certified
    assert parsed["certified"]["parameters"] == 33 * table.certified
    assert parsed["certified"]["bytes"] == 4 * 33 * table.certified
    assert {entry["is_explicit"] for entry in parsed["theorems"]} == {True, False}


@pytest.mark.parametrize("least", [1, 2, 37, 64, 100])
def test_smallest_width_is_found_to_an_eighth(least):
    tried = []

    def holds(width):
        tried.append(width)
        return width >= least

    found = widths.smallest_width(holds, 100, is_fine=True)
    assert least <= found <= max(least * 9 / 8, least + 1)
    assert max(tried) <= 100
    assert widths.smallest_width(lambda width: False, 100, is_fine=True) is None
    coarse = widths.smallest_width(holds, 100, is_fine=False)
    assert coarse == min(2 ** int(np.ceil(np.log2(least))), 100)


def test_numbers_without_bound_are_said_to_be_so():
    assert widths.order_of_magnitude(float("inf")) == "infinite"
    assert widths.order_of_magnitude(99999.0) == "99999"
    assert widths.order_of_magnitude(1e5) == "1e+05"
