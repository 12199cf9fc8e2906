"""JSON that any parser takes, files that are whole or absent, tables that fit."""

import dataclasses
import io
import json
import math
import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from rich.console import Console

from lazyjax.files.writing import write_files
from lazyjax.report import json_bytes, table, to_json, with_error

pytestmark = pytest.mark.once


def strict(text):
    def refuse(token):
        raise AssertionError(f"{token} is not JSON")

    return json.loads(text, parse_constant=refuse)


@dataclasses.dataclass
class Point:
    x: float
    name: str


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (math.nan, None),
        (-math.inf, None),
        (np.float64("nan"), None),
        (jnp.array([1.0, jnp.nan], jnp.float32), [1.0, None]),
        (np.arange(4).reshape(2, 2), [[0, 1], [2, 3]]),
        (np.float32(0.1), 0.1),
        (np.float64(0.1), 0.1),
        (jnp.float32(1) / 3, 0.33333334),
        (np.True_, True),
        (jnp.array(3), 3),
        ((1, "a", None, True), [1, "a", None, True]),
        ({"a": {"b": ()}}, {"a": {"b": []}}),
        (Point(math.inf, "ü"), {"x": None, "name": "ü"}),
    ],
)
def test_values_survive_strict_json(value, expected):
    parsed = strict(json_bytes(value))
    assert parsed == expected
    assert to_json(value) == expected
    assert type(to_json(value)) is type(expected)


def test_standard_json_would_have_written_nan():
    with pytest.raises(AssertionError, match="NaN is not JSON"):
        strict(json.dumps(math.nan))


@pytest.mark.parametrize("bad", [{1: 2}, object(), {1, 2}, [lambda: 0]])
def test_what_is_not_data_is_refused(bad):
    with pytest.raises(TypeError, match="`value` must"):
        json_bytes(bad)


def test_files_are_written_and_replaced(tmp_path):
    paths = [tmp_path / "a", tmp_path / "b"]
    write_files(dict.fromkeys(paths, b"old"))
    write_files(dict(zip(paths, (b"1", b"2"), strict=True)))
    assert [path.read_bytes() for path in paths] == [b"1", b"2"]
    assert sorted(tmp_path.iterdir()) == paths


def test_nothing_is_written_if_one_of_the_files_cannot_be(tmp_path):
    good, bad = tmp_path / "good", tmp_path / "missing" / "bad"
    good.write_bytes(b"old")
    with pytest.raises(FileNotFoundError):
        write_files({good: b"new", bad: b"new"})
    assert good.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [good]


def test_interruption_leaves_no_trace(tmp_path, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_files({tmp_path / "a": b"new", tmp_path / "b": b"new"})
    assert list(tmp_path.iterdir()) == []


def test_written_files_have_usual_permissions(tmp_path):
    (tmp_path / "usual").write_bytes(b"")
    write_files({tmp_path / "ours": b""})
    modes = {Path(path).stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) == 1


def test_table_holds_every_cell():
    shown = table("Title", ["name", "value"], [["a", "1"], ["b", "2"]], caption="why")
    console = Console(width=60, record=True, file=io.StringIO())
    console.print(shown)
    text = console.export_text()
    for word in ("Title", "name", "value", "a", "1", "b", "2", "why"):
        assert word in text


def test_ragged_rows_are_refused():
    with pytest.raises(ValueError, match="`rows` must have 2 cells each; got 1"):
        table("Title", ["name", "value"], [["a"]])


@settings(derandomize=True, deadline=None, max_examples=200)
@given(
    mean=st.floats(-1e8, 1e8, allow_nan=False).filter(
        lambda m: m == 0 or abs(m) > 1e-9
    ),
    ratio=st.floats(1e-6, 0.5),
)
def test_mean_and_error_read_back_to_two_digits_of_the_error(mean, ratio):
    sem = ratio * (abs(mean) or 1.0)
    pattern = r"(-?\d+)(?:\.(\d+))?\((\d+)\)(?:e([+-]\d+))?"
    match = re.fullmatch(pattern, with_error(mean, sem))
    assert match, with_error(mean, sem)
    whole, decimals, digits, exponent = match.groups()
    scale = 10.0 ** int(exponent or 0)
    unit = 10.0 ** -len(decimals or "") * scale
    shown = float(f"{whole}.{decimals or 0}") * scale
    assert abs(shown - mean) <= 0.51 * unit
    assert abs(int(digits) * unit - sem) <= 0.51 * unit
    assert int(digits) >= 10
    assert int(digits) < 100 or unit >= 1


@pytest.mark.parametrize(
    ("mean", "sem", "text"),
    [
        (math.nan, 0.1, "not finite"),
        (math.inf, 0.1, "not finite"),
        (0.5, math.nan, "0.5"),
        (0.5, 0.0, "0.5"),
        (0.1234, 0.00996, "0.123(10)"),
        (-0.5, 0.049, "-0.500(49)"),
        (0.0, 0.01, "0.000(10)"),
    ],
)
def test_mean_and_error_at_the_edges(mean, sem, text):
    assert with_error(mean, sem) == text
