"""Command line: the one place that prints, exits and configures JAX."""

from lazyjax.cli import interrupts


def main() -> None:
    """Entry point; exits with 0 done, 1 failed, 2 bad usage, 130 interrupted.

    For `certify`, 0 is certified and 1 is not certified.
    """
    interrupts.exit_on_interrupt()
    from lazyjax.cli.app import app  # takes seconds, which may be interrupted too

    app()
