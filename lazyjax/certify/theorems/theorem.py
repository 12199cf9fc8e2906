"""What a theorem says of itself, so that `compare` can hold it against a start."""

import dataclasses
from collections.abc import Callable
from typing import Any

from lazyjax.certify.bounds.program.start import ProgramStart
from lazyjax.certify.bounds.start import Start
from lazyjax.certify.certificate import Certificate
from lazyjax.certify.statements import Assumption


def smooth_function(start: Start | ProgramStart) -> Assumption:
    """The network is smooth, so that `start.local` has bounds."""
    return start.smooth


def smooth_description(start: Start | ProgramStart) -> Assumption:
    """The network is fully connected, and its activation smooth."""
    if isinstance(start, Start):
        return start.smooth
    statement = "the network is fully connected, as its description says"
    return Assumption(name="described", statement=statement, holds=False)


def first_layer_of_kinks(start: Start | ProgramStart) -> Assumption:
    """One hidden layer of kinks is trained alone, so that `start.flips` has bounds."""
    return start.first_layer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Theorem:
    """A theorem about training from one start.

    Attributes:
        name: Short name, unique among the theorems that are registered.
        source: Where it is published, or proven.
        certify: Its certificate for a start, from the bounds that `needs` promises.
        needs: What it needs of the network. `compare` leaves a theorem out where that
            does not hold.
    """

    name: str
    source: str
    certify: Callable[[Any], Certificate]
    needs: Callable[[Start | ProgramStart], Assumption] = smooth_function
