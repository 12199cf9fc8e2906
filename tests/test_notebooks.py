"""Each notebook is the same text twice: the .py that is edited, the .ipynb that is read."""

from pathlib import Path

import jupytext
import pytest

pytestmark = pytest.mark.once

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
SOURCES = sorted(NOTEBOOKS.glob("*.py"))


def cells(path):
    return [(cell.cell_type, cell.source.strip()) for cell in jupytext.read(path).cells]


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_notebook_and_its_source_are_paired(source):
    assert cells(source.with_suffix(".ipynb")) == cells(source)


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_notebook_is_small(source):
    assert source.with_suffix(".ipynb").stat().st_size <= 500_000


def test_there_are_notebooks_and_none_without_a_source():
    assert SOURCES
    assert {path.stem for path in NOTEBOOKS.glob("*.ipynb")} == {
        path.stem for path in SOURCES
    }
