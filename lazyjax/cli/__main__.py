"""`python -m lazyjax.cli`."""

from lazyjax.cli import main

if __name__ == "__main__":
    main()
