"""Dynamics of the linearized network."""
