"""`lazyjax info`: what is installed, and on what it runs."""

import importlib.metadata
import json
import platform
from typing import Annotated, Any

import typer

import lazyjax
from lazyjax.cli.console import one_line_errors, table_console
from lazyjax.cli.extras import EXTRAS

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "scipy")
_PEERS = ("equinox", "dm-haiku")


def info(
    is_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Versions, devices, and what is not installed: what a report of a bug needs.

    Example: lazyjax info --json > environment.json
    """
    with one_line_errors():
        found = _found()
        if is_json:
            print(json.dumps(found, indent=2))
            return
        from rich.table import Table

        table = Table(box=None, show_header=False)
        for name, value in found.items():
            rows = value.items() if isinstance(value, dict) else [(name, value)]
            for key, text in rows:
                listed = ", ".join(text) if isinstance(text, list) else text
                table.add_row(key, "not installed" if listed is None else str(listed))
        table_console(100).print(table)


def _found() -> dict[str, Any]:
    import jax
    import jax.numpy as jnp

    cache = getattr(jax.config, "jax_compilation_cache_dir", None)
    return {
        "lazyjax": lazyjax.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "devices": [f"{device.device_kind} ({device})" for device in jax.devices()],
        "default dtype": str(jnp.result_type(float)),
        "compilation cache": cache or "off",
        "packages": {name: _version(name) for name in _PACKAGES},
        "extras": {
            f"{name}, extra {extra}": _version(name)
            for extra, (_, name) in EXTRAS.items()
        },
        "beside it": {name: _version(name) for name in _PEERS},
    }


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
