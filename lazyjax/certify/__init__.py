"""Convergence arguments from the literature, confronted with networks and data."""

from lazyjax.certify import du2019 as du2019
from lazyjax.certify.certificate import (
    Assumption as Assumption,
    Certificate as Certificate,
    Quantity as Quantity,
    Verdict as Verdict,
    below as below,
)
