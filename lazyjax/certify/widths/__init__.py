"""Widths that theorems about random starts ask for, and what they are made of."""

from lazyjax.certify.widths.table import (
    BYTES_PER_PARAMETER as BYTES_PER_PARAMETER,
    WidthTable as WidthTable,
    network_at as network_at,
    order_of_magnitude as order_of_magnitude,
    theorem_requirements as theorem_requirements,
    width_table as width_table,
)
