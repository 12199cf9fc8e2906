"""Models of other libraries, where a function of parameters and inputs is expected."""

from collections.abc import Mapping

# By the start of its module and its name: what a class is, and what is passed instead.
_KINDS: Mapping[tuple[str, str], tuple[str, str]] = {
    ("flax.linen", "Module"): (
        "a Flax Linen module",
        "`apply_fn, params = lazyjax.interop.flax.from_linen(module, variables)`",
    ),
    ("flax.nnx", "Module"): (
        "a Flax NNX module",
        "`apply_fn, params = lazyjax.interop.flax.from_nnx(model)`",
    ),
    ("equinox", "Module"): (
        "an Equinox module",
        "`apply_fn, params = lazyjax.interop.equinox.from_equinox(model)`",
    ),
    ("torch.nn", "Module"): (
        "a PyTorch module, which JAX cannot differentiate",
        "the same network in JAX, as a function `(params, x) -> f`",
    ),
    ("haiku", "Transformed"): (
        "a transformed Haiku function",
        "`lambda params, x: network.apply(params, None, x)`",
    ),
    ("haiku", "TransformedWithState"): (
        "a transformed Haiku function with a state",
        "`lambda params, x: network.apply(params, state, None, x)[0]`",
    ),
    ("lazyjax.nets", "Network"): (
        "a network of lazyjax",
        "its forward pass, `network.apply`",
    ),
}


def model_hint(value: object) -> str:
    """What to pass in place of a model, if `value` is one, as text after a message.

    Args:
        value: An argument of any kind. Libraries are told by names: none is imported.

    Returns:
        A sentence after a space, or nothing.
    """
    is_class = isinstance(value, type)
    for cls in (value if is_class else type(value)).__mro__:
        for (module, name), (what, instead) in _KINDS.items():
            if cls.__name__ == name and f"{cls.__module__}.".startswith(f"{module}."):
                what = f"the class of {what}" if is_class else what
                return f" It is {what}: pass {instead}."
    return ""
