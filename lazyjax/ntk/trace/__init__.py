"""From a network to the sites where its parameters meet values."""
