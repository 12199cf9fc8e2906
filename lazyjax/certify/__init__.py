"""Convergence arguments from the literature, confronted with networks and data."""

from lazyjax.certify import (
    adversary as adversary,
    theorems as theorems,
    widths as widths,
)
from lazyjax.certify.bounds.local import (
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
from lazyjax.certify.comparison import Comparison as Comparison, compare as compare
from lazyjax.certify.descent_and_flow import (
    existence as existence,
    gradient_descent as gradient_descent,
    gradient_flow as gradient_flow,
)
from lazyjax.certify.lazy_gap import LazyGap as LazyGap, lazy_gap as lazy_gap
from lazyjax.certify.logistic import logistic_flow as logistic_flow
from lazyjax.certify.theorems import (
    chatterjee2022 as chatterjee2022,
    chizat2019 as chizat2019,
    liu2022 as liu2022,
    oymak2019 as oymak2019,
    positive_start as positive_start,
)
from lazyjax.certify.warm_starts import (
    WarmStart as WarmStart,
    warm_start as warm_start,
)
from lazyjax.certify.widths import (
    allen_zhu2019 as allen_zhu2019,
    arora2019 as arora2019,
    du2019 as du2019,
    du2019b as du2019b,
    separation as separation,
    zou2018 as zou2018,
)
