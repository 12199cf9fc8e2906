"""Published experiments, one file of tests each, and what they share."""
