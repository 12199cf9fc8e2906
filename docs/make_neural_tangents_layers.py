"""Write the table of neural-tangents' layers: python docs/make_neural_tangents_layers.py.

It takes some ten minutes, and needs what the tests need.
"""

import sys
from collections import Counter
from pathlib import Path

import jax

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.helpers.stax_cases import ROWS  # noqa: E402
from tests.helpers.stax_rows import AGREES, READINGS, outcome  # noqa: E402

HEAD = """# Layers of neural-tangents, one by one

Every public layer, option and activation of neural-tangents 0.6.5 in a small network, and how its
two kernels (NNGP and NTK, float64) are found here: described by an `Architecture`, read by
`infinite_nngp_of` and `infinite_ntk_of` from the network's own `apply_fn` in JAX, and from the
same layers of Flax. Numbers are the larger relative difference from neural-tangents' kernels;
"refused" names the operation that has no rule here. Where a column is empty there is no such
network. The table is made by `docs/make_neural_tangents_layers.py`, and
`pytest tests/test_stax_table.py -m ''` holds it to what is found.

Two things to know of the kernels that are compared with: theirs of `ImageResize` are right after an
even number of convolutions alone, and those by numerical integration (`ElementwiseNumerical`) are
as exact as their number of points.
"""


def main() -> None:
    """Write the page."""
    counts: Counter[tuple[str, str]] = Counter()
    lines = []
    for row in ROWS:
        with jax.enable_x64(True):
            cells = [outcome(row, reading) for reading in READINGS]
        for reading, cell in zip(READINGS, cells, strict=True):
            agrees = cell[:1].isdigit() and float(cell) <= AGREES
            kind = "agree" if agrees else "refused" if cell[:1] == "r" else "differ"
            counts[reading, kind if cell else "none"] += 1
        lines.append("| " + " | ".join([f"`{row.layer}`", row.option, *cells]) + " |")
    tried = {
        reading: sum(counts[reading, kind] for kind in ("agree", "refused", "differ"))
        for reading in READINGS
    }
    summary = ", ".join(
        f"{counts[reading, 'agree']} of {tried[reading]} ({reading})"
        for reading in READINGS
    )
    table = [
        "| layer | option | " + " | ".join(READINGS) + " |",
        "|---|---|---|---|---|",
    ]
    text = "\n".join([HEAD, f"Kernels agree to {AGREES:.0e}: {summary}.", "", *table])
    path = ROOT / "docs" / "neural_tangents_layers.md"
    path.write_text(text + "\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
