"""Convergence arguments from the literature, confronted with networks and data."""

from lazyjax._renamed import deprecated_names as _deprecated_names
from lazyjax.certify import (
    adversary as adversary,
    measured as measured,
    theorems as theorems,
    widths as widths,
)
from lazyjax.certify.along import (
    TrainingCertificates as TrainingCertificates,
    along as along,
    along_run as along_run,
)
from lazyjax.certify.bounds.local import (
    JacobianBlock as JacobianBlock,
    LocalBounds as LocalBounds,
)
from lazyjax.certify.bounds.start import (
    Start as Start,
    bounds_at as bounds_at,
    local_bounds as local_bounds,
)
from lazyjax.certify.certificate import Certificate as Certificate, Verdict as Verdict
from lazyjax.certify.comparison import (
    TheoremComparison as TheoremComparison,
    compare as compare,
)
from lazyjax.certify.descent_and_flow import (
    existence as existence,
    gradient_descent as gradient_descent,
    gradient_flow as gradient_flow,
)
from lazyjax.certify.lazy_gap import LazyGap as LazyGap, lazy_gap as lazy_gap
from lazyjax.certify.logistic import logistic_flow as logistic_flow
from lazyjax.certify.shadowing import (
    shadowed_descent as shadowed_descent,
    shadowed_flow as shadowed_flow,
)
from lazyjax.certify.statements import (
    Assumption as Assumption,
    Quantity as Quantity,
    assume_less as assume_less,
)
from lazyjax.certify.theorems import (
    Theorem as Theorem,
    chatterjee2022 as chatterjee2022,
    chizat2019 as chizat2019,
    liu2022 as liu2022,
    oymak2019 as oymak2019,
    positive_start as positive_start,
    register_theorem as register_theorem,
)
from lazyjax.certify.warm_starts import WarmStart as WarmStart, warm_start as warm_start
from lazyjax.certify.widths import (
    RequiredWidth as RequiredWidth,
    Requirement as Requirement,
    allen_zhu2019 as allen_zhu2019,
    arora2019 as arora2019,
    du2019 as du2019,
    du2019b as du2019b,
    register_requirement as register_requirement,
    separation as separation,
    zou2018 as zou2018,
)
from lazyjax.certify.zero_error import zero_training_error as zero_training_error

__getattr__ = _deprecated_names(
    __name__,
    {
        "Block": "lazyjax.certify.JacobianBlock",
        "Comparison": "lazyjax.certify.TheoremComparison",
        "below": "lazyjax.certify.assume_less",
    },
)
