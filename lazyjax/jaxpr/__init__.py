"""All reading of programs: their equations, how rows pass, what depends on what."""

from lazyjax.jaxpr import primitives as primitives
from lazyjax.jaxpr.labels import (
    FIXED as FIXED,
    EquationPair as EquationPair,
    Rows as Rows,
)
from lazyjax.jaxpr.registry import (
    Primitive as Primitive,
    register_primitive as register_primitive,
)
