"""The reference in the documentation has every public name."""

import importlib.util
import pkgutil
from pathlib import Path
from types import ModuleType

import pytest

import lazyjax
from tests.test_public_api import TYPES, VERBS

pytestmark = pytest.mark.once

# What users reach through other modules, or never.
INTERNAL = {
    "callables",
    "cli",
    "files",
    "interop",
    "progress",
    "report",
    "trees",
    "typing",
}
INTERNAL |= {"montecarlo"}


@pytest.fixture(scope="module")
def api_pages() -> ModuleType:
    path = Path(__file__).parents[1] / "docs" / "api_pages.py"
    spec = importlib.util.spec_from_file_location("api_pages", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_public_module_has_a_page(api_pages):
    found = {module.name for module in pkgutil.iter_modules(lazyjax.__path__)}
    public = {name for name in found if not name.startswith("_")} - INTERNAL
    assert public <= {name.removeprefix("lazyjax.") for name in api_pages.MODULES}


def test_every_public_name_is_on_the_page_of_its_module(api_pages, tmp_path):
    names = api_pages.public_names(lazyjax)
    assert set(names["Functions"]) == set(VERBS)
    assert set(names["Classes"]) == set(TYPES)
    api_pages.write_api_pages(tmp_path)
    page = (tmp_path / "lazyjax.rst").read_text().splitlines()
    assert [name for name in [*VERBS, *TYPES] if f"   {name}" not in page] == []
    # What an earlier page has is not repeated.
    assert "   empirical_ntk" not in (tmp_path / "lazyjax.ntk.rst").read_text()
    assert "   KernelBlocks" in (tmp_path / "lazyjax.ntk.rst").read_text()
