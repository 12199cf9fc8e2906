"""What users name as `module:attribute`."""

import importlib
from typing import Any


def imported(name: str) -> Any:
    """What lies at `module:attribute`.

    Args:
        name: The place.

    Returns:
        What is there.

    Raises:
        ValueError: If there is no such module, or nothing of that name in it.
    """
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{name} cannot be imported: {error}.") from error
