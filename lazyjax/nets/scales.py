"""The scale of each layer of weights, in every parameterization."""

import dataclasses
import math
from typing import NamedTuple

from lazyjax.architecture import Architecture


class Scale(NamedTuple):
    """How an array of parameters enters: `multiplier * (init_std * randomness)`."""

    multiplier: float
    init_std: float


def weight_scale(
    architecture: Architecture, layer: int, fan_in: int, width: int
) -> Scale:
    """Scale of weight layer `layer`, counted from 1; W = multiplier * w."""
    std = architecture.w_std / math.sqrt(fan_in)
    if architecture.parameterization == "standard":
        return Scale(1.0, std)
    if architecture.parameterization == "ntk" or architecture.depth == 0:
        return Scale(std, 1.0)
    # mup: Yang and Hu's (a, b) are (-1/2, 1/2), (0, 1/2), (1/2, 1/2) by layer.
    root = math.sqrt(width)
    if layer == 1:
        return Scale(std * root, 1 / root)
    if layer == architecture.num_layers:
        return Scale(std, 1 / root)
    return Scale(std * root, 1 / root)


def recurrent_scale(architecture: Architecture, layer: int, width: int) -> Scale:
    """Scale of the recurrent weights of layer `layer`, those of a hidden layer."""
    recurrent = dataclasses.replace(architecture, w_std=architecture.recurrent_std)
    return weight_scale(recurrent, layer, width, width)


def bias_scale(architecture: Architecture, layer: int, width: int) -> Scale | None:
    """Scale of the biases of layer `layer`; they act like weights of a constant input."""
    std = architecture.b_std
    if std == 0:
        return None
    if architecture.parameterization == "standard":
        return Scale(1.0, std)
    if architecture.parameterization == "mup" and layer < architecture.num_layers:
        return Scale(std * math.sqrt(width), 1 / math.sqrt(width))
    return Scale(std, 1.0)
