"""Which axes of values enumerate the rows of a batch, and whether rows interact."""
