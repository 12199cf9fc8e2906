"""Checks of what users pass: errors name the argument, what was expected and what came.

The wrong kind of thing is a `TypeError`, the wrong shape or value a `ValueError`.
"""

from lazyjax._checks.arrays import (
    check_array as check_array,
    check_batch as check_batch,
    check_finite as check_finite,
    check_floating as check_floating,
    check_not_explicit as check_not_explicit,
    check_same_features as check_same_features,
    check_targets as check_targets,
)
from lazyjax._checks.inputs import (
    check_inputs as check_inputs,
    check_outputs_of as check_outputs_of,
    check_same_inputs as check_same_inputs,
)
from lazyjax._checks.networks import (
    check_apply_fn as check_apply_fn,
    check_function as check_function,
    check_like as check_like,
    check_network_output as check_network_output,
    check_params as check_params,
)
from lazyjax._checks.options import (
    check_at_least as check_at_least,
    check_choice as check_choice,
    check_flag as check_flag,
    check_instance as check_instance,
    check_key as check_key,
    check_nonnegative as check_nonnegative,
    check_number as check_number,
    check_positive as check_positive,
    checked_bytes as checked_bytes,
    checked_path as checked_path,
    known_numbers as known_numbers,
)
