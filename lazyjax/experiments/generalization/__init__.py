"""Errors on examples that were not trained on."""
