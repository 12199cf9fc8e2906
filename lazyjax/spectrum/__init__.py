"""What can be read off a kernel: its eigenvalues, and how targets lie on them.

Functions take a matrix `(m, m)`, a kernel `(n, n, k, k)`, what `lazyjax.gram` has stored,
or an operator: a `lazyjax.ntk.NTKOperator`, or anything else with `shape`, `dtype` and
`mv`. Matrices are decomposed, and answers are exact to rounding. So are stores and
operators of up to `max_dense` rows, which are made into matrices. Larger ones are only
multiplied with vectors, drawn from `key`, and answers come with their errors; sums over
entries of a store are exact, as its tiles are read one after the other.
"""

from lazyjax.spectrum.alignments import (
    alignment as alignment,
    center as center,
    subspace_angles as subspace_angles,
    target_alignment as target_alignment,
)
from lazyjax.spectrum.curvature import (
    CurvatureOperator as CurvatureOperator,
    gauss_newton_operator as gauss_newton_operator,
    hessian_operator as hessian_operator,
)
from lazyjax.spectrum.distribution import Density as Density, density as density
from lazyjax.spectrum.ends import (
    Extremes as Extremes,
    condition as condition,
    extremes as extremes,
)
from lazyjax.spectrum.estimates import (
    ConfidenceInterval as ConfidenceInterval,
    Estimate as Estimate,
)
from lazyjax.spectrum.moments import (
    effective_rank as effective_rank,
    entropy as entropy,
    frobenius as frobenius,
    logdet as logdet,
    trace as trace,
)
from lazyjax.spectrum.operators import eigh as eigh
from lazyjax.spectrum.tails import PowerLaw as PowerLaw, power_law as power_law
from lazyjax.spectrum.weight_matrices import (
    WeightSpectrum as WeightSpectrum,
    weights as weights,
)
