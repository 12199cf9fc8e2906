"""All theorems that are held against a start.

A new one is a file with a `THEOREM`, and its line here; from outside, a call of
`register_theorem`.
"""

from lazyjax.certify.theorems import (
    chatterjee2022,
    liu2022,
    lojasiewicz1963,
    oymak2019,
    polyak1963,
    relu,
    residual,
)
from lazyjax.certify.theorems.theorem import Theorem

THEOREMS: dict[str, Theorem] = {}
"""Theorems by name, in the order in which `compare` lists them."""


def register_theorem(theorem: Theorem) -> None:
    """Add a theorem to those that `compare` and the command line hold against a start.

    Args:
        theorem: The theorem.

    Raises:
        ValueError: If its name is taken.
    """
    if theorem.name in THEOREMS:
        raise ValueError(f"`theorem.name` must be new; there is {theorem.name!r}.")
    THEOREMS[theorem.name] = theorem


for _theorem in (
    polyak1963.THEOREM,
    liu2022.THEOREM,
    oymak2019.THEOREM,
    chatterjee2022.THEOREM,
    residual.THEOREM,
    lojasiewicz1963.THEOREM,
    relu.THEOREM,
):
    register_theorem(_theorem)
