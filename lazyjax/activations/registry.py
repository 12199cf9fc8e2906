"""What is known of each activation: one record a name, read by every other module."""

import dataclasses
import math
import types
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from lazyjax._brief import brief
from lazyjax._checks import check_choice
from lazyjax.activations.moments import ClosedForm
from lazyjax.typing import Activation


@dataclasses.dataclass(frozen=True)
class Float64Activation:
    r"""An activation in NumPy's float64, and bounds over the real line.

    Certificates rely on both as they are stated.

    Attributes:
        value: $\phi$, within $2^{-48} (1 + |u|)$.
        derivative: $\phi'$, within $2^{-48}$.
        slope: Upper bound of $\sup |\phi'|$.
        curvature: Upper bound of $\sup |\phi''|$, the Lipschitz constant of $\phi'$;
            infinite if it has none.

    Raises:
        ValueError: If a bound is negative.
    """

    value: Callable[[np.ndarray], np.ndarray]
    derivative: Callable[[np.ndarray], np.ndarray]
    slope: float = math.inf
    curvature: float = math.inf

    def __post_init__(self) -> None:
        if not (self.slope >= 0 and self.curvature >= 0):
            raise ValueError(
                "`slope` and `curvature` must be zero or positive; got "
                f"{self.slope} and {self.curvature}."
            )

    @property
    def is_bounded(self) -> bool:
        """Whether the derivative is known to be bounded and Lipschitz."""
        return math.isfinite(self.slope) and math.isfinite(self.curvature)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ActivationSpec:
    r"""An activation and everything that is known of it.

    Only `name` and `fn` are needed. What is not stated is found from `fn` by quadrature
    (kernels) or refused with words (certificates).

    Attributes:
        name: By which networks refer to it.
        fn: The elementwise function $\phi$ of one array.
        breaks: Places of kinks and jumps. To state them is to say that $\phi$ changes
            slowly elsewhere; `None` means that its program is searched for both.
        is_continuous: Whether it has no jump; read only if there are `moments`.
        moments: Closed form of $E[\phi(u)\phi(v)]$ and $E[\phi'(u)\phi'(v)]$, a function
            of the covariances $(q_{11}, q_{12}, q_{22})$; `None` means quadrature.
        accurate_std: Standard deviation of its argument up to which the quadrature is
            known to err by less than 0.1 %; beyond, its error is estimated.
        float64: For certificates, unless there are `slopes`.
        slopes: Those below and above 0, if it is linear on either side and 0 at 0.
        is_increasing: Whether it is twice differentiable and $\phi' > 0$ is least, over
            an interval around 0, at one of its ends; `None` if that is not known.
        is_analytic: Whether it is real analytic; `None` if that is not known.
        stax: Makes the layer of neural-tangents with the same kernel, from the module
            `neural_tangents.stax`; `None` means its quadrature.

    Raises:
        ValueError: If `is_increasing` is stated without bounds in `float64`.
    """

    name: str
    fn: Callable[[Array], Array]
    breaks: tuple[float, ...] | None = None
    is_continuous: bool = True
    moments: ClosedForm | None = None
    accurate_std: float = 0.0
    float64: Float64Activation | None = None
    slopes: tuple[float, float] | None = None
    is_increasing: bool | None = None
    is_analytic: bool | None = None
    stax: Callable[[Any], Any] | None = None

    def __post_init__(self) -> None:
        is_bounded = self.float64 is not None and self.float64.is_bounded
        if self.is_increasing and not is_bounded:
            raise ValueError("`is_increasing` needs `float64`, with finite bounds.")


_SPECS: dict[str, ActivationSpec] = {}

ACTIVATIONS: Mapping[str, ActivationSpec] = types.MappingProxyType(_SPECS)
"""Every activation that has a name."""


def register(spec: ActivationSpec) -> None:
    """Make an activation known by its name, wherever activations are accepted.

    Args:
        spec: The activation.

    Raises:
        ValueError: If the name is taken, or the function is not elementwise. A name
            keeps its meaning: programs that were compiled with it are kept.
        TypeError: If `spec` is not an `ActivationSpec`.

    Example:
        >>> import jax.numpy as jnp, lazyjax
        >>> from lazyjax.activations import ActivationSpec, register
        >>> register(ActivationSpec(name="cube", fn=lambda u: u**3))
        >>> spec = lazyjax.Architecture(activation="cube")
        >>> round(lazyjax.infinite_nngp(spec, jnp.ones((1, 2))).item(), 3)  # E[g**6]
        15.0
    """
    if not isinstance(spec, ActivationSpec):
        raise TypeError(f"`spec` must be an ActivationSpec; got {type(spec).__name__}.")
    check_elementwise(spec.fn, jnp.dtype(jnp.float32))
    register_known(spec)


def register_known(*specs: ActivationSpec) -> None:
    """Register activations of this package, whose functions need no check."""
    for spec in specs:
        if spec.name in _SPECS:
            raise ValueError(f"`spec.name` must be new; {spec.name!r} is taken.")
        _SPECS[spec.name] = spec


def find(activation: Activation) -> ActivationSpec | None:
    """What is known of an activation.

    Args:
        activation: A name, or an elementwise function of one array.

    Returns:
        The record of that name or of that very function, if there is one.
    """
    if isinstance(activation, str):
        return _SPECS.get(activation)
    return next((spec for spec in _SPECS.values() if spec.fn is activation), None)


def named_breaks(activation: Activation) -> tuple[float, ...] | None:
    """Places of kinks and jumps of an activation, as far as its record states them.

    Args:
        activation: A name, or an elementwise function of one array.

    Returns:
        The places, or `None` if they are to be looked for.
    """
    spec = find(activation)
    return None if spec is None else spec.breaks


def closed_form(activation: Activation) -> ClosedForm | None:
    """Gaussian moments of an activation in closed form.

    Args:
        activation: A name, or an elementwise function of one array.

    Returns:
        A function of covariances, or `None` if only quadrature is left. A function that
        has no record may bring its closed form as the method `gaussian_moments`.
    """
    spec = find(activation)
    if spec is not None:
        return spec.moments
    return getattr(activation, "gaussian_moments", None)


def check_activation(activation: Activation) -> None:
    """Check that `activation` is a known name or a callable.

    Raises:
        ValueError: If it is an unknown name; the nearest one is suggested.
        TypeError: If it is neither a name nor callable.
    """
    if isinstance(activation, str):
        check_choice("activation", activation, _SPECS)
    elif not callable(activation):
        raise TypeError(
            "`activation` must be a name or an elementwise function; "
            f"got {brief(activation)}."
        )


def activation_fn(activation: Activation) -> Callable[[Array], Array]:
    """Elementwise function that `activation` names, or `activation` itself.

    Returns:
        A function of one array, to one of the same shape and dtype.

    Raises:
        ValueError: If it is an unknown name; the nearest one is suggested.
        TypeError: If it is neither a name nor callable.
    """
    check_activation(activation)
    return _SPECS[activation].fn if isinstance(activation, str) else activation


def check_elementwise(phi: Callable[[Array], Array], dtype: jnp.dtype) -> None:
    """Check `phi` on four numbers, together and one by one."""
    with jax.ensure_compile_time_eval():
        u = jnp.asarray([-1.5, -0.5, 0.5, 2.0], dtype)
        together = phi(u)
        if together.shape != u.shape or together.dtype != dtype:
            raise ValueError(
                "`activation` must keep shape and dtype; from "
                f"{u.shape} {u.dtype} it made {together.shape} {together.dtype}."
            )
        one_by_one = jnp.concatenate([phi(u[i : i + 1]) for i in range(u.size)])
        tolerance = float(jnp.finfo(dtype).eps) ** 0.5
        is_close = jnp.allclose(together, one_by_one, tolerance, tolerance)
    try:
        is_elementwise = bool(is_close)
    except jax.errors.ConcretizationTypeError:
        return  # the function closes over traced values
    if not is_elementwise:
        raise ValueError(
            "`activation` must be elementwise; its values at several numbers together "
            "are not those at each of them alone."
        )
