"""Certificates of runs whose beginning is computed, with proof of how far off it is."""
