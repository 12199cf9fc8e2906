"""What primitives do to values of infinitely wide networks.

A rule is given the `Context`, the equation and the values of its operands, and returns
the value of its result or raises `RefusalError`. Rows need no thought in it: operations
that let them interact are refused by the row rules of `lazyjax.jaxpr`.
"""

from lazyjax.infinite.lifting.rules import (
    shaping as shaping,
    sums as sums,
    weights as weights,
)
from lazyjax.infinite.lifting.rules.context import Context as Context
