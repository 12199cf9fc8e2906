"""Linear algebra of kernels: as matrices, norms, eigenvalues, semidefinite systems."""

from lazyjax.linalg.eigen import Eigen as Eigen, condition as condition, eigh as eigh
from lazyjax.linalg.matrices import (
    gram_matrix as gram_matrix,
    kernel_blocks as kernel_blocks,
)
from lazyjax.linalg.norms import (
    eigvalsh as eigvalsh,
    frobenius_norm as frobenius_norm,
    singular_values as singular_values,
)
from lazyjax.linalg.semidefinite import (
    Semidefinite as Semidefinite,
    factorized as factorized,
)
from lazyjax.linalg.singular import (
    SingularKernelWarning as SingularKernelWarning,
    check_semidefinite as check_semidefinite,
    is_long as is_long,
    share_of as share_of,
    warn_of_dropped as warn_of_dropped,
)
