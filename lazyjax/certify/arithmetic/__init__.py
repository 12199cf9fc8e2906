"""Interval arithmetic with directed rounding."""
