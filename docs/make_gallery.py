"""Writes `gallery.md` and its pictures from what `lazyjax reproduce --all` has written.

Usage: `uv run lazyjax reproduce --all --quick --out DIR`, then
`uv run python docs/make_gallery.py DIR [MNIST]`, where MNIST is a folder of outcomes of the
same with `--data-dir`, of a folder that holds MNIST.
"""

import json
import sys
from pathlib import Path

from PIL import Image

from lazyjax.experiments import EXPERIMENTS

DOCS = Path(__file__).parent
PICTURES = DOCS / "images" / "gallery"
WIDTH, COLORS = 1000, 64  # pixels, and colours of a palette: enough, and small

HEAD = """# Gallery

Each of these was made by one command, `lazyjax reproduce NAME --quick`, on two processor cores
in ten seconds to a minute and a half. A verdict follows from numbers beside thresholds; `lazyjax
reproduce NAME --control` breaks a premise of the claim, and must not reproduce it. Written by
`docs/make_gallery.py`.
"""


def main(folder: Path, mnist: Path | None = None) -> None:
    """Write the page for all experiments, of which `folder` has the outcomes."""
    parts = [HEAD]
    rows, sections = [], []
    PICTURES.mkdir(parents=True, exist_ok=True)
    for name in EXPERIMENTS:
        found = json.loads((folder / f"{name}.json").read_text())
        verdict = found["verdict"]
        rows.append(f"| [{name}](#{name}) | {found['title']} | {verdict['word']} |")
        sections += [
            f"## {name}",
            f"**{found['title']}.** {found['source']}.",
            f"*Claim:* {found['claim']}",
            f"*Verdict:* {verdict['line']}",
            *on_mnist(name, mnist),
            f"![{found['title']}](images/gallery/{name}.png)",
        ]
        shrink(folder / f"{name}.png", PICTURES / f"{name}.png")
    table = ["| name | what | verdict |", "|---|---|---|", *rows]
    parts += ["\n".join(table), *sections]
    (DOCS / "gallery.md").write_text("\n\n".join(part.strip() for part in parts) + "\n")


def on_mnist(name: str, folder: Path | None) -> list[str]:
    """The verdict on the digits of MNIST, where it is known."""
    if folder is None or not (folder / f"{name}.json").exists():
        return []
    verdict = json.loads((folder / f"{name}.json").read_text())["verdict"]
    return [f"*With MNIST in `--data-dir`:* {verdict['line']}"]


def shrink(source: Path, target: Path) -> None:
    """Write a picture in fewer pixels and colours."""
    picture = Image.open(source).convert("RGB")
    height = round(picture.height * WIDTH / picture.width)
    small = picture.resize((WIDTH, height), Image.Resampling.LANCZOS)
    small.quantize(COLORS).save(target, optimize=True)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
