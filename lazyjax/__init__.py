"""Lazy training and neural tangent kernels in JAX."""
