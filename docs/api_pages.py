"""Writes one page for each public module, with all of its public names."""

import importlib
import inspect
from pathlib import Path
from types import ModuleType

# In the order of the menu; what `lazyjax` itself offers comes first.
MODULES = (
    "lazyjax",
    "lazyjax.nets",
    "lazyjax.ntk",
    "lazyjax.infinite",
    "lazyjax.dynamics",
    "lazyjax.sweeps",
    "lazyjax.laziness",
    "lazyjax.certify",
    "lazyjax.spectrum",
    "lazyjax.forecast",
    "lazyjax.grams",
    "lazyjax.experiments",
    "lazyjax.plot",
    "lazyjax.data",
    "lazyjax.linalg",
    "lazyjax.activations",
    "lazyjax.architecture",
    "lazyjax.jaxpr",
    "lazyjax.interop.flax",
    "lazyjax.interop.equinox",
    "lazyjax.interop.neural_tangents",
    "lazyjax.interop.scikit_learn",
)


def public_names(module: ModuleType) -> dict[str, list[str]]:
    """Functions, classes and other values of a module that are documented."""
    found: dict[str, list[str]] = {"Functions": [], "Classes": [], "Values": []}
    for name in dir(module):
        value = getattr(module, name)
        home = getattr(value, "__module__", None) or module.__name__
        ours = home.split(".")[0] == "lazyjax"
        if name.startswith("_") or inspect.ismodule(value) or not ours:
            continue
        if inspect.isclass(value):
            found["Classes"].append(name)
        elif inspect.isroutine(value):
            found["Functions"].append(name)
        elif name.isupper():
            found["Values"].append(name)
    return found


def write_api_pages(folder: Path) -> None:
    """One page a module, and one that lists them."""
    folder.mkdir(exist_ok=True)
    seen: set[int] = set()  # what several modules offer has its page with the first
    for name in MODULES:
        path = folder / f"{name}.rst"
        text = _page(importlib.import_module(name), seen)
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
    listed = "\n".join(f"   {name}" for name in MODULES)
    index = f"API\n===\n\n.. toctree::\n   :maxdepth: 1\n\n{listed}\n"
    (folder / "index.rst").write_text(index)


def _page(module: ModuleType, seen: set[int]) -> str:
    name = module.__name__
    summary = (inspect.getdoc(module) or "").replace("`", "``")
    parts = [name, "=" * len(name), "", f".. module:: {name}", "", summary, ""]
    for title, names in public_names(module).items():
        new = [each for each in names if id(getattr(module, each)) not in seen]
        seen |= {id(getattr(module, each)) for each in names}
        if new:
            parts += [title, "-" * len(title), "", ".. autosummary::", "   :toctree: ."]
            parts += ["", *(f"   {each}" for each in new), ""]
    return "\n".join(parts)
