"""What every kernel has in common: its arguments, checks, memory and program."""
