r"""Infinitely wide networks as predictors: Gaussian processes, and trained ensembles.

Outputs are independent and share one kernel, so that `y: (n, k)` holds k separate
problems. Training is gradient flow on $L = \tfrac12\lVert f - y\rVert^2$, summed over
examples, as in `lazyjax.linear_dynamics`. Both take eigenvalues as zero by the one rule of
`lazyjax.linalg.semidefinite`.
"""

from lazyjax._renamed import deprecated_names as _deprecated_names
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

__getattr__ = _deprecated_names(
    __name__, {"Prediction": "lazyjax.infinite.predict.GaussianPrediction"}
)
