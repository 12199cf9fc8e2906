"""Discrete steps of an optimizer."""
