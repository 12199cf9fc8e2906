"""All theorems on random starts whose widths are listed.

A new one is a file with a `REQUIREMENT`, and its line here; from outside, a call of
`register_requirement`.
"""

from lazyjax.certify.widths import (
    allen_zhu2019,
    arora2019,
    chatterjee2022,
    du2019,
    du2019b,
    zou2018,
)
from lazyjax.certify.widths.requirement import Requirement

REQUIREMENTS: dict[str, Requirement] = {}
"""Requirements by name, in the order in which `width_table` lists them."""


def register_requirement(requirement: Requirement) -> None:
    """Add a theorem to those whose widths `width_table` and the command line list.

    Args:
        requirement: The theorem, and what it asks for.

    Raises:
        ValueError: If its name is taken.
    """
    if requirement.name in REQUIREMENTS:
        raise ValueError(
            f"`requirement.name` must be new; there is {requirement.name!r}."
        )
    REQUIREMENTS[requirement.name] = requirement


for _requirement in (
    du2019.REQUIREMENT,
    arora2019.REQUIREMENT,
    du2019b.REQUIREMENT,
    allen_zhu2019.REQUIREMENT,
    zou2018.REQUIREMENT,
    chatterjee2022.REQUIREMENT,
):
    register_requirement(_requirement)
