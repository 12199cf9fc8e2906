"""Bounds of a network that are read from its program, whatever kind it is of."""
