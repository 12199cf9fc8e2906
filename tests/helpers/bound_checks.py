"""All checks of bounds by name.

A check asserts that a bound is on the right side, on cases where it is tight enough
that a bound which is wrong by a factor, or leaves out rounding, is seen.
"""

from tests.helpers import (
    checks_of_agreement,
    checks_of_matrices,
    checks_of_networks,
    checks_of_theorems,
)

CHECKS = {
    name.removeprefix("check_"): check
    for module in (
        checks_of_agreement,
        checks_of_matrices,
        checks_of_networks,
        checks_of_theorems,
    )
    for name, check in vars(module).items()
    if name.startswith("check_")
}
