"""From a network to its sites, where parameters act on examples."""
