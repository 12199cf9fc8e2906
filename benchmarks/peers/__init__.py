"""One process per method, each in the environment of its library."""
