"""Gradient flow of the network itself."""
