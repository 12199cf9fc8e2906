"""Kernels as matrices, stores or operators, and what is done with the latter."""

from lazyjax.spectrum.operators.kinds import (
    MAX_DENSE as MAX_DENSE,
    Kernel as Kernel,
    LinearOperator as LinearOperator,
    MatrixOnDisk as MatrixOnDisk,
    ProductsFromDisk as ProductsFromDisk,
    as_operator as as_operator,
    check_eigenvalues as check_eigenvalues,
    checked_key as checked_key,
    eigh as eigh,
    formed as formed,
    num_rows as num_rows,
    resolved as resolved,
)
