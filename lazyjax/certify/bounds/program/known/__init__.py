"""What equations of a program compute that more is known of."""
