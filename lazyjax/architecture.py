r"""The description of a network that finite and infinite width are both read from."""

import dataclasses
import math
from typing import get_args

from lazyjax._checks import check_at_least, check_choice
from lazyjax.activations import check_activation
from lazyjax.typing import (
    Activation,
    InputScaling,
    Kind,
    Parameterization,
    Readout,
    Trained,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Architecture:
    r"""Static, hashable description of a network; the width is not part of it.

    Hidden layer $l = 1, \dots, \text{depth}$ computes, from $h^0 = x$,

    $$z^l = W^l h^{l-1} + b^l, \qquad h^l = \phi(z^l),$$

    and the output is $f = W^{\text{depth}+1} h^{\text{depth}} + b^{\text{depth}+1}$.
    Entries of $W^l$ have variance `w_std**2 / fan_in` and those of $b^l$ have variance
    `b_std**2`, so that every parameterization is the same random function of width
    $m$, except that the output of "mup" is smaller by $\sqrt m$. They differ in what
    is trained, the array $w$ with $W = \text{multiplier} \cdot w$:

    - "ntk": $w \sim N(0, 1)$, multiplier `w_std / sqrt(fan_in)` (Jacot et al. 2018).
    - "standard": multiplier 1, the usual practice; its kernel grows like the width.
    - "mup": maximal update (Yang and Hu 2021, Table 1), for one learning rate
      independent of the width.

    Attributes:
        kind: Family of networks; "mlp" is fully connected.
        depth: Number of hidden layers; 0 is a linear model.
        activation: Name of an activation, or an elementwise function of one array.
        w_std: Standard deviation of weights, before division by $\sqrt{\text{fan-in}}$.
        b_std: Standard deviation of biases; 0 means that the network has none.
        parameterization: See above.
        num_outputs: Number of outputs $k$.
        trained: Which layers are trained; the others are constants of the kernel and
            get zero gradients.
        input_scaling: "fan_in" divides the first layer by $\sqrt d$ like the others;
            "none" does not, which is the convention of Du et al. (2019), Arora et al.
            (2019) and others for inputs of unit norm.
        readout: Distribution of the last layer's weights, "normal" or random "sign"
            ($\pm 1$ times the same standard deviation).
        symmetrized: Whether the network is the difference of two copies that start
            equal, divided by $\sqrt 2$: the output is zero at the start and the kernel
            that of one copy (Chizat, Oyallon and Bach 2019).

    Raises:
        ValueError: If a field is not one of its choices or out of range.
        TypeError: If a count is not an integer or `activation` neither a name nor
            callable.
    """

    kind: Kind = "mlp"
    depth: int = 1
    activation: Activation = "relu"
    w_std: float = 1.0
    b_std: float = 0.0
    parameterization: Parameterization = "ntk"
    num_outputs: int = 1
    trained: Trained = "all"
    input_scaling: InputScaling = "fan_in"
    readout: Readout = "normal"
    symmetrized: bool = False

    def __post_init__(self) -> None:
        check_choice("kind", self.kind, get_args(Kind))
        check_choice(
            "parameterization", self.parameterization, get_args(Parameterization)
        )
        check_choice("trained", self.trained, get_args(Trained))
        check_choice("input_scaling", self.input_scaling, get_args(InputScaling))
        check_choice("readout", self.readout, get_args(Readout))
        check_at_least("depth", self.depth, 0)
        check_at_least("num_outputs", self.num_outputs, 1)
        check_activation(self.activation)
        _check_std("w_std", self.w_std, zero_allowed=False)
        _check_std("b_std", self.b_std, zero_allowed=True)

    @property
    def num_layers(self) -> int:
        """Number of weight matrices, `depth + 1`."""
        return self.depth + 1

    def is_trained(self, layer: int) -> bool:
        """Whether weight layer `layer`, counted from 1, is trained."""
        return {
            "all": True,
            "first": layer == 1,
            "last": layer == self.num_layers,
        }[self.trained]


def _check_std(name: str, value: float, *, zero_allowed: bool) -> None:
    number = isinstance(value, int | float) and math.isfinite(value)
    if not number or value < 0 or (value == 0 and not zero_allowed):
        expected = "a finite number, zero or" if zero_allowed else "a finite number,"
        raise ValueError(f"`{name}` must be {expected} positive; got {value!r}.")
