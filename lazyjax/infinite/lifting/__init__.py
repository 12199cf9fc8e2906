"""Infinite-width kernels read from the program of a network."""
