"""Bounds of a network about its parameters."""
