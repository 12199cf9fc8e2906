"""Widths that theorems about random starts ask for, and what they are made of."""

from lazyjax.certify.widths.registry import (
    REQUIREMENTS as REQUIREMENTS,
    register_requirement as register_requirement,
)
from lazyjax.certify.widths.requirement import (
    RequiredWidth as RequiredWidth,
    Requirement as Requirement,
)
from lazyjax.certify.widths.table import (
    BYTES_PER_PARAMETER as BYTES_PER_PARAMETER,
    WidthTable as WidthTable,
    network_at as network_at,
    order_of_magnitude as order_of_magnitude,
    smallest_width as smallest_width,
    theorem_requirements as theorem_requirements,
    width_table as width_table,
)
