"""Convergence arguments from the literature, confronted with networks and data."""

from lazyjax.certify import du2019 as du2019
from lazyjax.certify.bounds import (
    Block as Block,
    LocalBounds as LocalBounds,
    local_bounds as local_bounds,
)
from lazyjax.certify.certificate import (
    Assumption as Assumption,
    Certificate as Certificate,
    Quantity as Quantity,
    Verdict as Verdict,
    below as below,
)
from lazyjax.certify.flow_descent import (
    existence as existence,
    gradient_descent as gradient_descent,
    gradient_flow as gradient_flow,
)
from lazyjax.certify.lazy_gap import LazyGap as LazyGap, lazy_gap as lazy_gap
from lazyjax.certify.logistic import logistic_flow as logistic_flow
from lazyjax.certify.warm_starts import (
    WarmStart as WarmStart,
    warm_start as warm_start,
)
