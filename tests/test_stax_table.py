"""The table of neural-tangents' layers in the documentation says what is found."""

from pathlib import Path

import pytest

from tests.helpers.stax_cases import ROWS
from tests.helpers.stax_rows import AGREES, READINGS, Row, outcome

pytestmark = [pytest.mark.once, pytest.mark.slow]

TABLE = Path(__file__).parents[1] / "docs" / "neural_tangents_layers.md"


def cells() -> dict[tuple[str, str], list[str]]:
    """Cells of the table in the documentation, by layer and option."""
    lines = [line for line in TABLE.read_text().splitlines() if line.startswith("| `")]
    split = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    return {(layer.strip("`"), option): rest for layer, option, *rest in split}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.layer} {row.option}")
def test_kernels_agree_or_are_refused_as_the_table_says(x64: None, row: Row) -> None:
    written = cells()[row.layer, row.option]
    for reading, cell in zip(READINGS, written, strict=True):
        found = outcome(row, reading)
        if found[:1].isdigit():
            assert float(cell) <= AGREES, (reading, cell)
            assert float(found) <= AGREES, (reading, found)
        else:
            assert found == cell, reading


def test_the_table_holds_every_row_and_no_other() -> None:
    assert set(cells()) == {(row.layer, row.option) for row in ROWS}
