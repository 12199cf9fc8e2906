"""Finite networks."""
