"""The start of training: a network, parameters and data, and all bounds of them."""

import contextlib
import dataclasses
import functools
from typing import get_args

import numpy as np
from jaxtyping import Float, Shaped

from lazyjax._brief import summary
from lazyjax._checks import check_choice
from lazyjax.activations import ACTIVATIONS
from lazyjax.certify.arithmetic.activations import (
    PIECEWISE_ACTIVATIONS,
    SMOOTH_ACTIVATIONS,
)
from lazyjax.certify.arithmetic.rounding import UNIT_ROUNDOFF
from lazyjax.certify.bounds.agreement import check_agreement
from lazyjax.certify.bounds.branches import at_rigor, evaluations_of, output_of
from lazyjax.certify.bounds.evaluation import Evaluation
from lazyjax.certify.bounds.flips import FlipBounds, flip_bounds
from lazyjax.certify.bounds.layers import (
    Layers,
    check_features,
    data_of,
    is_described,
    layers_of,
)
from lazyjax.certify.bounds.local import LocalBounds, smooth_bounds
from lazyjax.certify.bounds.program.enclosing.enclosure import UnsupportedError
from lazyjax.certify.bounds.program.start import ProgramStart, program_start
from lazyjax.certify.certificate import Rigor
from lazyjax.certify.statements import Assumption, conflict_of
from lazyjax.nets import Network
from lazyjax.typing import AnyArray, ApplyFn, Params


@dataclasses.dataclass(frozen=True)
class Start:
    """A network at one point, with its data: what theorems read.

    Bounds are computed when they are first asked for, and kept. All are of evaluations
    that were compared with `network.apply`.

    Attributes:
        network: The network.
        params: The point.
        x: Inputs, as the network reads them.
        branches: The network in float64: itself, or "plus" and "minus" if symmetrized.
        inputs: Inputs, flattened.
        targets: Targets.
        rigor: "proof" if bounds account for rounding, else "float".
    """

    network: Network
    params: Params
    x: AnyArray
    branches: tuple[Layers, ...]
    inputs: Float[np.ndarray, "n d"]
    targets: Float[np.ndarray, "n k"]
    rigor: Rigor

    def __repr__(self) -> str:
        return summary(self, network=self.network, params=self.params, x=self.x)

    @property
    def smooth(self) -> Assumption:
        """The assumption that activations are smooth, with known constants."""
        phi, depth = self.branches[0].activation, self.branches[0].depth
        is_known = depth == 0 or (isinstance(phi, str) and phi in SMOOTH_ACTIVATIONS)
        spec = ACTIVATIONS[phi] if isinstance(phi, str) else None
        is_open = spec is None or (spec.float64 is None and spec.slopes is None)
        return Assumption(
            name="smooth",
            statement="the activation's derivative is bounded and Lipschitz",
            # Of functions, and names without formulas, nothing is known.
            holds=True if is_known else (None if is_open else False),
            detail="no hidden layer" if depth == 0 else str(phi),
        )

    @property
    def first_layer(self) -> Assumption:
        """The assumption that flips can be counted: one layer of kinks, trained alone."""
        network = self.branches[0]
        phi = network.activation
        known = isinstance(phi, str) and phi in PIECEWISE_ACTIVATIONS
        trained = [layer.is_trained for layer in network.layers]
        return Assumption(
            name="first layer",
            statement="one hidden layer of ReLU units or the like, the first layer "
            "trained",
            holds=known and network.depth == 1 and trained == [True, False],
            detail=f"{network.depth} hidden, trained: {trained}; {phi}",
        )

    @functools.cached_property
    def evaluations(self) -> tuple[Evaluation, ...]:
        """What was computed of the branches, and agrees with `network.apply`.

        None if the bounds of the activation are not known. Asking for it is the check:
        it raises a ValueError if the network computes something else.
        """
        network = self.branches[0]
        known = {*SMOOTH_ACTIVATIONS, *PIECEWISE_ACTIVATIONS}
        is_named = isinstance(network.activation, str)
        if network.depth and not (is_named and network.activation in known):
            return ()
        with np.errstate(all="ignore"):  # what overflows certifies nothing
            evaluations = evaluations_of(self.branches, self.inputs, UNIT_ROUNDOFF)
            check_agreement(self.network, self.params, self.x, evaluations)
        return evaluations

    @property
    def outputs(self) -> tuple[Float[np.ndarray, "n k"], float]:
        """What the network computes, and the norm of its error."""
        return output_of(at_rigor(self.evaluations, self.rigor))

    @functools.cached_property
    def conflict(self) -> Assumption | None:
        """The first two equal inputs with different targets, if there are any.

        As that refutes, it is about networks that were compared with `network.apply`.
        """
        found = conflict_of(self.inputs, self.targets)
        if found is not None:
            _ = self.evaluations
        return found

    @functools.cached_property
    def local(self) -> LocalBounds:
        """Bounds of a network with a smooth activation; a ValueError for others."""
        if self.smooth.holds is not True:
            raise ValueError(
                "`network` must have a smooth activation with known constants, "
                f"{', '.join(SMOOTH_ACTIVATIONS)}; got {self.branches[0].activation!r}."
            )
        with np.errstate(all="ignore"):  # what overflows certifies nothing
            return smooth_bounds(
                self.evaluations, self.targets, self.rigor, self.conflict
            )

    @functools.cached_property
    def flips(self) -> FlipBounds:
        """Bounds of a network of which the assumption `first_layer` holds."""
        with np.errstate(all="ignore"):  # what overflows certifies nothing
            return flip_bounds(
                self.evaluations, self.inputs, self.targets, self.rigor, self.conflict
            )


def described_start(
    network: Network,
    params: Params,
    x: Float[AnyArray, "n *d"],
    y: Float[AnyArray, "n k"],
    *,
    rigor: Rigor = "proof",
) -> Start:
    """A fully connected network at a point with its data, checked.

    Args:
        network: From `lazyjax.nets.mlp`.
        params: Its parameters.
        x: Training inputs.
        y: Training targets.
        rigor: "proof" to account for rounding, "float" to save time.

    Returns:
        The start, whose bounds are those of its description.

    Raises:
        ValueError: If the description has no bounds, parameters or data do not fit, or
            a number is not finite.
        TypeError: If an array is not floating point.
    """
    check_choice("rigor", rigor, get_args(Rigor))
    branches = layers_of(network, params)
    inputs, targets = data_of(network, x, y)
    check_features(branches, "x", inputs)
    return Start(network, params, x, branches, inputs, targets, rigor)


def bounds_at(
    network: Network | ApplyFn,
    params: Params,
    x: Shaped[AnyArray, "n *d"],
    y: Float[AnyArray, "n k"],
    *,
    rigor: Rigor = "proof",
) -> Start | ProgramStart:
    """A network at a point with its data, checked, and the bounds that theorems read.

    Args:
        network: Network of any kind, or a pure function `apply_fn(params, x)`.
        params: Its parameters.
        x: Training inputs.
        y: Training targets.
        rigor: "proof" to account for rounding, "float" to save time.

    Returns:
        The start: of fully connected networks that are covered by their description, a
        `Start`; of all others, what is read from the program. Bounds are computed when
        they are asked for.

    Raises:
        ValueError: If bounds do not cover the network, parameters or data do not fit,
            or a number is not finite.
        TypeError: If an array is not floating point.
    """
    check_choice("rigor", rigor, get_args(Rigor))
    if not isinstance(network, Network):
        return program_start(network, params, x, y, rigor)
    if not is_described(network.architecture):
        return program_start(network.apply, params, x, y, rigor)
    start = described_start(network, params, x, y, rigor=rigor)
    if start.smooth.holds or start.first_layer.holds:
        return start
    # Deeper networks with kinks, or activations without known constants.
    with contextlib.suppress(UnsupportedError):
        read = program_start(network.apply, params, x, y, rigor)
        _ = read.lipschitz
        return read
    return start


def local_bounds(
    network: Network,
    params: Params,
    x: Float[AnyArray, "n *d"],
    y: Float[AnyArray, "n k"],
    *,
    rigor: Rigor = "proof",
) -> LocalBounds:
    r"""Bounds for a fully connected network with a smooth activation.

    Args:
        network: From `lazyjax.nets.mlp`, with an activation of
            `lazyjax.certify.arithmetic.activations`.
        params: Its parameters.
        x: Training inputs.
        y: Training targets.
        rigor: "proof" to account for rounding, "float" to save time.

    Returns:
        The bounds.

    Raises:
        ValueError: If the network is of another kind, or arguments do not fit.
        TypeError: If an array is not floating point.

    Cost: The kernel is formed layer by layer, never the Jacobian: of order
        $(nk)^2 m + n m^2$ per layer and $(nk)^3$ once, and $nkm$ numbers of memory.

    Example:
        >>> import jax, jax.numpy as jnp, lazyjax
        >>> net = lazyjax.nets.mlp(width=8, depth=0)
        >>> x = 2 * jnp.eye(2)
        >>> params = jax.tree.map(jnp.zeros_like, net.init(jax.random.key(0), x))
        >>> bounds = local_bounds(net, params, x, jnp.array([[3.0], [4.0]]))
        >>> round(bounds.residual.high, 6), round(bounds.blocks[0].sigma_min, 6)
        (5.0, 1.414214)
    """
    return described_start(network, params, x, y, rigor=rigor).local
