"""Eigenvalues of weights, kernels and Hessians along training."""
