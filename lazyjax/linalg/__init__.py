"""Linear algebra of kernels: norms, eigenvalues, and positive semidefinite systems."""

from lazyjax.linalg.norms import (
    eigvalsh as eigvalsh,
    frobenius_norm as frobenius_norm,
    gram_matrix as gram_matrix,
    singular_values as singular_values,
)
from lazyjax.linalg.semidefinite import (
    SingularKernelWarning as SingularKernelWarning,
)
