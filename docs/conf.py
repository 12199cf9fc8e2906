"""Sphinx: `uv run --group docs sphinx-build -W docs docs/_build/html`."""

import re
import shutil
import sys
from pathlib import Path

from sphinx.application import Sphinx

import lazyjax

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS))

from api_pages import write_api_pages  # noqa: E402

project = "lazyjax"
author = "The lazyjax authors"
copyright = author  # noqa: A001 (the name Sphinx reads)
version = release = lazyjax.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "**/.ipynb_checkpoints", "notebooks/*.py"]

html_theme = "furo"
html_title = "lazyjax"
html_theme_options = {
    "source_repository": "https://github.com/lazyjax/lazyjax",
    "source_branch": "main",
    "source_directory": "docs/",
}

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_dmath_double_inline = True
myst_heading_anchors = 3
nb_execution_mode = "off"  # notebooks keep the outputs that their tests stored
suppress_warnings = ["mystnb.unknown_mime_type"]

autosummary_generate = True
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # signatures are long enough; docstrings give shapes
autodoc_default_options = {"members": True, "show-inheritance": False}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_attr_annotations = False  # annotations of arrays are no reStructuredText
default_role = "py:obj"
copybutton_exclude = ".linenos, .gp, .go"

_DISPLAYED = re.compile(r"^( *)\$\$(.+?)\$\$", re.DOTALL | re.MULTILINE)
# Not those of `**options` in a list of arguments, which napoleon escapes itself.
_STARS = re.compile(r"\*(?!\*?\w+:)")
_SPANS = re.compile(r"``.+?``|`[^`]+`|\$[^$]+\$", re.DOTALL)


def _displayed(found: re.Match[str]) -> str:
    margin, formula = found[1], " ".join(found[2].split())
    return f"{margin}.. math:: {formula}\n"


def _as_restructured_text(*arguments: object) -> None:
    """Docstrings are Markdown: formulas in dollars, and stars that mean nothing."""
    lines = arguments[-1]
    assert isinstance(lines, list)
    text, parts, end = _DISPLAYED.sub(_displayed, "\n".join(lines)), [], 0
    for span in _SPANS.finditer(text):
        parts.append(_STARS.sub(r"\\*", text[end : span.start()]))
        code, end = " ".join(span[0].split()), span.end()
        if code.startswith("$"):
            code = f":math:`{code[1:-1]}`"
        elif not re.fullmatch(r"`+[\w.]+`+", code):  # no name, so nothing to refer to
            code = f"``{code.strip('`')}``"
        follows = re.match(r"\w", text[end:])
        parts.append(code + r"\ " if follows else code)
    parts.append(_STARS.sub(r"\\*", text[end:]))
    lines[:] = "".join(parts).split("\n")


def _write_pages(*_: object) -> None:
    """Pages made of the code; and notebooks, which Sphinx wants below its own folder."""
    write_api_pages(DOCS / "api")
    target = DOCS / "notebooks"
    target.mkdir(exist_ok=True)
    for notebook in (DOCS.parent / "notebooks").glob("*.ipynb"):
        shutil.copy(notebook, target)


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("config-inited", _write_pages)
    # Before napoleon, which reads sections at priority 500.
    app.connect("autodoc-process-docstring", _as_restructured_text, priority=400)
