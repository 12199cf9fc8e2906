r"""Widths that theorems ask for, beside widths that do: certified, and seen to converge.

Theorems about random starts of large width hold for all data with some separation, and
pay for it: their widths are astronomical. A certificate for the start at hand needs less
by many orders of magnitude, and training to zero loss less again.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float

from lazyjax._brief import in_bytes
from lazyjax._checks import check_at_least, check_batch, check_floating, check_targets
from lazyjax.certify.bounds.start import local_bounds
from lazyjax.certify.certificate import Certificate, Rigor
from lazyjax.certify.descent_and_flow import gradient_flow
from lazyjax.certify.widths.registry import REQUIREMENTS
from lazyjax.certify.widths.requirement import (
    RequiredWidth,
    check_probability,
    num_parameters,
)
from lazyjax.dynamics import train
from lazyjax.files.results import Storable
from lazyjax.nets import Network, mlp
from lazyjax.progress import Progress, progress_reporter
from lazyjax.typing import Activation, AnyArray, Params, RandomKey, Trained

BYTES_PER_PARAMETER = 4
"""Memory of a parameter in single precision."""


def network_at(
    width: int,
    *,
    depth: int = 1,
    activation: Activation = "softplus",
    w_std: float | None = None,
    trained: Trained | None = None,
) -> Network:
    """Fully connected network whose starts need little width to be certified.

    The output starts at zero, and the first layer is for inputs of about unit norm.

    Args:
        width: Units of each hidden layer.
        depth: Number of hidden layers.
        activation: Activation.
        w_std: Standard deviation of weights; `None` means 3 for one hidden layer, else 1.
        trained: Layers trained; `None` means the first for one hidden layer, else all.

    Returns:
        The network.

    Raises:
        ValueError: If a number is out of range or a name unknown.
        TypeError: If a count is not an integer.

    Example:
        >>> network_at(8).architecture.trained
        'first'
    """
    check_at_least("depth", depth, 1)
    is_shallow = depth == 1
    return mlp(
        width=width,
        depth=depth,
        activation=activation,
        w_std=(3.0 if is_shallow else 1.0) if w_std is None else w_std,
        trained=("first" if is_shallow else "all") if trained is None else trained,
        input_scaling="none",
        readout="sign" if is_shallow else "normal",
        symmetrized=True,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class WidthTable(Storable):
    """Widths asked for and widths that do.

    Attributes:
        requirements: What theorems ask for.
        certified: Smallest width found whose start is certified; `None` if none is, up
            to the largest tried.
        certificate: Its certificate of gradient flow, or that of the largest width.
        converged: Smallest power of two at which gradient descent was seen to converge;
            `None` if there is none up to the largest tried.
        max_width: Largest width tried.
        depth: Number of hidden layers of the networks tried.
        activation: Their activation.
        num_examples: Number of examples.
        num_features: Number of features.
        num_outputs: Number of outputs.
    """

    requirements: tuple[RequiredWidth, ...]
    certified: int | None
    certificate: Certificate
    converged: int | None
    max_width: int
    depth: int
    activation: str
    num_examples: int
    num_features: int
    num_outputs: int

    def num_parameters(self, width: float, depth: int | None = None) -> float:
        """Weights of a network of that width for these data.

        Args:
            width: Units of each hidden layer.
            depth: Number of hidden layers; `None` for that of the networks tried.

        Returns:
            The number, of one copy.
        """
        return num_parameters(
            width,
            depth=self.depth if depth is None else depth,
            num_features=self.num_features,
            num_outputs=self.num_outputs,
        )

    def rows(self) -> list[list[str]]:
        """Cells of a table: name, width, parameters, memory, assumptions."""
        rows = [self._row(needed) for needed in self.requirements]
        none = f"none up to {self.max_width}"
        for name, width in (
            ("smallest certified start, gradient flow", self.certified),
            ("smallest seen to converge, gradient descent", self.converged),
        ):
            cells = [none, "", ""]
            if width is not None:
                cells = self._sizes(float(width), self.depth)
            rows.append([name, *cells, ""])
        return rows

    def _row(self, needed: RequiredWidth) -> list[str]:
        failing = [a.name for a in needed.assumptions if a.holds is not True]
        outcome = f"not met: {', '.join(failing)}" if failing else "met"
        if needed.width is None:
            return [needed.theorem, needed.formula, "", "", outcome]
        mark = "" if needed.is_explicit else "~"
        cells = [mark + cell for cell in self._sizes(needed.width, needed.depth)]
        return [needed.theorem, *cells, outcome]

    def _sizes(self, width: float, depth: int) -> list[str]:
        count = self.num_parameters(width, depth)
        memory = BYTES_PER_PARAMETER * count
        return [order_of_magnitude(width), order_of_magnitude(count), in_bytes(memory)]

    def summary(self) -> dict[str, Any]:
        """Widths with their parameters and bytes, as what JSON can hold."""

        def size(width: float | int | None, depth: int | None = None) -> dict[str, Any]:
            if width is None:
                return {"width": None, "parameters": None, "bytes": None}
            count = self.num_parameters(float(width), depth)
            return {
                "width": width,
                "parameters": count,
                "bytes": BYTES_PER_PARAMETER * count,
            }

        return {
            "num_examples": self.num_examples,
            "num_features": self.num_features,
            "depth": self.depth,
            "activation": self.activation,
            "max_width": self.max_width,
            "theorems": [
                dataclasses.asdict(needed)
                | {"applies": needed.applies}
                | size(needed.width, needed.depth)
                for needed in self.requirements
            ],
            "certified": size(self.certified),
            "converged": size(self.converged),
        }


def width_table(
    x: Float[AnyArray, "n d"],
    y: Float[AnyArray, "n k"],
    *,
    key: RandomKey,
    depth: int = 1,
    activation: str = "softplus",
    failure: float = 0.1,
    max_width: int = 16384,
    num_steps: int = 2000,
    relative_loss: float = 1e-3,
    rigor: Rigor = "proof",
    progress: bool | Progress = False,
) -> WidthTable:
    r"""Widths that theorems ask for on these data, beside those that do.

    Args:
        x: Training inputs.
        y: Training targets.
        key: Source of randomness, for one start of each width.
        depth: Number of hidden layers.
        activation: A smooth activation, of the networks tried.
        failure: Accepted probability of failure, in the theorems.
        max_width: Largest width to try.
        num_steps: Steps of gradient descent, at $1/\lambda_{\max}$ of the first kernel.
        relative_loss: Loss, relative to that at the start, that counts as convergence.
        rigor: Of the certificate.
        progress: As in `lazyjax.sweep`.

    Returns:
        The table. Whether a width is certified depends on the start: the smallest was
        found by doubling and bisection, as if larger ones always were.

    Raises:
        TypeError: If an argument is not of its kind.
        ValueError: If shapes do not fit, or a number is out of range.

    Example:
        >>> import jax, lazyjax
        >>> data = lazyjax.data.sphere(4, 32, key=jax.random.key(0))
        >>> table = width_table(
        ...     data.x_train, data.y_train, key=jax.random.key(1), max_width=64
        ... )
        >>> table.converged <= table.certified <= 64
        True
    """
    check_floating("x", x)
    check_batch("x", x)
    if x.ndim != 2:
        raise ValueError(f"`x` must have shape (n, d); got {x.shape}.")
    check_targets("y", y, x.shape[0], y.shape[1] if y.ndim == 2 else 1)
    if y.shape[1] != 1:
        raise ValueError(f"`y` must have one column; got shape {y.shape}.")
    check_at_least("max_width", max_width, 1)
    check_at_least("num_steps", num_steps, 1)
    check_probability("relative_loss", relative_loss)
    with progress_reporter(progress, "widths") as report:
        report(0.0, "evaluating theorems")
        needed = theorem_requirements(x, y, depth=depth, failure=failure)
        x, y = jnp.asarray(x), jnp.asarray(y, x.dtype)

        def start(width: int) -> tuple[Network, Params]:
            network = network_at(width, depth=depth, activation=activation)
            return network, network.init(jax.random.fold_in(key, width), x)

        found: dict[int, Certificate] = {}

        def is_certified(width: int) -> bool:
            report(0.1 + 0.5 * math.log1p(len(found)) / 4, f"certifying width {width}")
            if width not in found:
                found[width] = gradient_flow(*start(width), x, y, rigor=rigor)
            return found[width].is_certified

        def has_converged(width: int) -> bool:
            report(0.6, f"training width {width}")
            network, params = start(width)
            bounds = local_bounds(network, params, x, y, rigor="float")
            if not bounds.jacobian_norm > 0:
                return False
            run = train(
                network.apply,
                params,
                x,
                y,
                optimizer=optax.sgd(1 / bounds.jacobian_norm**2),
                num_steps=num_steps,
            )
            return bool(run.loss[-1] <= relative_loss * run.loss[0])

        certified = smallest_width(is_certified, max_width)
        converged = smallest_width(has_converged, max_width, is_fine=False)
        report(1.0, "done")
    return WidthTable(
        requirements=needed,
        certified=certified,
        certificate=found[max(found) if certified is None else certified],
        converged=converged,
        max_width=max_width,
        depth=depth,
        activation=activation,
        num_examples=x.shape[0],
        num_features=x.shape[1],
        num_outputs=y.shape[1],
    )


def theorem_requirements(
    x: Float[AnyArray, "n d"],
    y: Float[AnyArray, "n 1"],
    *,
    depth: int = 1,
    failure: float = 0.1,
) -> tuple[RequiredWidth, ...]:
    """What all registered theorems on random starts ask for on these data.

    Args:
        x: Training inputs.
        y: Training targets.
        depth: Number of hidden layers, of theorems on deep networks.
        failure: Accepted probability of failure.

    Returns:
        The requirements.

    Raises:
        TypeError: If an argument is not of its kind.
        ValueError: If shapes do not fit, or a number is out of range.

    Example:
        >>> import numpy as np
        >>> found = theorem_requirements(np.eye(2), np.array([[1.0], [-1.0]]))
        >>> all(needed.applies for needed in found)
        True
    """
    return tuple(
        needed
        for requirement in REQUIREMENTS.values()
        for needed in requirement.widths(x, y, depth=depth, failure=failure)
    )


def smallest_width(
    holds: Callable[[int], bool], max_width: int, *, is_fine: bool = True
) -> int | None:
    """Smallest width at which something holds, as if it then held at all larger ones.

    Args:
        holds: Whether it does at a width.
        max_width: Largest width to try.
        is_fine: Whether to bisect to an eighth of the width, not to take the first
            power of two.

    Returns:
        The width; `None` if there is none up to the largest.

    Example:
        >>> smallest_width(lambda width: width >= 5, 64)
        5
    """
    width = 1
    while not holds(width):
        if width >= max_width:
            return None
        width = min(2 * width, max_width)
    low, high = (width + 1) // 2, width
    while is_fine and high - low > max(1, high // 8):
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle
    return high


def order_of_magnitude(width: float) -> str:
    """A number in at most eight characters, as its power of ten if that is large.

    Args:
        width: The number.

    Returns:
        The text.

    Example:
        >>> order_of_magnitude(340.0), order_of_magnitude(3.2e17)
        ('340', '3e+17')
    """
    if not np.isfinite(width):
        return "infinite"
    return f"{width:.0f}" if width < 1e5 else f"{width:.0e}"
