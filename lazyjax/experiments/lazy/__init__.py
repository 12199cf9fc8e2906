"""When networks train like their linear models, and when they do not."""
