"""Functions as static arguments: when two are the same, and what they close over."""
