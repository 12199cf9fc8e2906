r"""Infinitely wide networks as predictors: Gaussian processes, and trained ensembles.

Outputs are independent and share one kernel, so that `y: (n, k)` holds k separate
problems. Training is gradient flow on $L = \tfrac12\lVert f - y\rVert^2$, summed over
examples, as in `lazyjax.linearized`. Both take eigenvalues as zero by the one rule of
`lazyjax.linalg.semidefinite`.
"""

import warnings as _warnings

from lazyjax.infinite.predict.ensemble import trained_ensemble as trained_ensemble
from lazyjax.infinite.predict.grams import (
    GaussianPrediction as GaussianPrediction,
    Grams as Grams,
    nngp_grams as nngp_grams,
    ntk_grams as ntk_grams,
)
from lazyjax.infinite.predict.posterior import (
    log_marginal_likelihood as log_marginal_likelihood,
    posterior as posterior,
)


def __getattr__(name: str) -> object:
    if name != "Prediction":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    message = "`Prediction` is now `GaussianPrediction`"
    _warnings.warn(message, DeprecationWarning, stacklevel=2)
    return GaussianPrediction
