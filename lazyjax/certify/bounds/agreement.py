"""That `network.apply` computes what is certified: outputs and derivatives, to rounding.

Bounds are of a network that is read from its description and evaluated in NumPy. It is
compared with `network.apply` in float64, at the parameters and at others nearby: outputs
on all inputs, and the derivative of a weighted sum of them in every parameter, which is
zero where the description says that a layer is not trained.
"""

import contextlib
import functools
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lazyjax.certify.arithmetic.activations import PIECEWISE_ACTIVATIONS
from lazyjax.certify.arithmetic.matrices import scaled_norm
from lazyjax.certify.arithmetic.rounding import UNIT_ROUNDOFF, gamma
from lazyjax.certify.bounds.branches import output_of
from lazyjax.certify.bounds.evaluation import Evaluation, evaluate, layer_norms
from lazyjax.certify.bounds.layers import SYMMETRIZED_SCALE, layers_of
from lazyjax.jaxpr.equations import equations
from lazyjax.nets import Network
from lazyjax.nets.build import build
from lazyjax.typing import AnyArray, ApplyFn, Params

# Errors of XLA's sums and elementary functions, relative to the bounds of NumPy's.
_LIBRARY_FACTOR = 3

# How far away the other parameters are, relative to the size of each array.
_MOVE = 0.25

# Smaller numbers may have been flushed to zero on the way.
_UNDERFLOW = 1e-290


def check_agreement(
    network: Network, params: Params, x: AnyArray, evaluations: tuple[Evaluation, ...]
) -> None:
    """Check that a network computes what was evaluated of its description.

    Args:
        network: The network.
        params: Its parameters.
        x: Inputs, as the network reads them.
        evaluations: What was computed of its branches, with bounds of the errors.

    Raises:
        ValueError: If outputs or derivatives disagree by more than rounding explains.

    Cost: Two forward and backward passes on either side.
    """
    rng = np.random.default_rng(0)
    inputs = np.asarray(x, np.float64)
    here = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    # Two networks may agree at one point and bend differently.
    nearby = jax.tree.map(
        lambda leaf: leaf + _MOVE * _size(leaf) * _signed(rng, leaf.shape), here
    )
    flat = inputs.reshape(len(inputs), -1)
    evaluated_nearby = tuple(
        evaluate(
            branch,
            flat,
            UNIT_ROUNDOFF,
            norms=layer_norms(branch, UNIT_ROUNDOFF, is_quick=True),
        )
        for branch in layers_of(network, nearby)
    )
    weights = _signed(rng, evaluations[0].output.value.shape)
    # Programs are kept for networks that are what they say; others may have changed.
    described = build(network.architecture, width=network.width).apply
    if network.apply == described:
        run, coarseness = functools.partial(_compiled_backward, described), 1.0
    else:
        run = functools.partial(_backward, network.apply)
        coarseness = _coarseness(network.apply, here, inputs)
    for point, evaluated in ((here, evaluations), (nearby, evaluated_nearby)):
        with _float64():
            f, gradient = run(*jax.tree.map(jnp.asarray, (point, inputs, weights)))
        _compare(network, evaluated, weights, f, gradient, coarseness)


def _backward(
    apply_fn: ApplyFn, params: Params, x: Array, weights: Array
) -> tuple[Array, Params]:
    f, pull = jax.vjp(lambda params: apply_fn(params, x), params)
    if getattr(f, "shape", None) != weights.shape:
        raise ValueError(
            f"`network.apply` must return outputs of shape {weights.shape}; got "
            f"{getattr(f, 'shape', type(f).__name__)}."
        )
    return f, pull(weights.astype(f.dtype))[0]


_compiled_backward = jax.jit(_backward, static_argnums=0)


@contextlib.contextmanager
def _float64() -> Iterator[None]:
    """JAX in float64, and nothing coarser in products of matrices."""
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        yield


def _coarseness(apply_fn: ApplyFn, params: Params, x: np.ndarray) -> float:
    """How much coarser than float64 the coarsest arithmetic of a network is.

    Returns:
        The ratio of unit roundoffs.

    Raises:
        ValueError: If it is too coarse for sums of as many terms.
    """
    with _float64():
        jaxpr = jax.make_jaxpr(apply_fn)(*jax.tree.map(jnp.asarray, (params, x)))
    coarsest = max(_dtypes(jaxpr), key=lambda dtype: jnp.finfo(dtype).eps)
    unit = float(jnp.finfo(coarsest).eps) / 2
    longest = max(leaf.shape[0] for leaf in jax.tree.leaves(params))
    if not longest * unit < 0.01:
        raise ValueError(
            "`network.apply` must compute in the precision of its parameters, to be "
            f"compared with what is certified; got {coarsest}, and sums of {longest} "
            "terms."
        )
    return max(unit / UNIT_ROUNDOFF, 1.0)


def _dtypes(jaxpr: jex.ClosedJaxpr) -> Iterator[Any]:
    """Types of all floating-point numbers that a program computes."""
    yield jnp.dtype(jnp.float64)
    for eqn in equations(jaxpr):
        for variable in eqn.outvars:
            dtype = getattr(variable.aval, "dtype", None)
            if dtype is not None and jnp.issubdtype(dtype, jnp.floating):
                yield dtype


def _compare(
    network: Network,
    evaluations: tuple[Evaluation, ...],
    weights: np.ndarray,
    f: Array,
    gradient: Params,
    coarseness: float,
) -> None:
    """Compare outputs and derivatives with what was evaluated.

    Raises:
        ValueError: If they disagree.
    """
    slack = 1 + _LIBRARY_FACTOR * coarseness
    value, error = output_of(evaluations)
    _check("its outputs", np.asarray(f), value, slack * error)
    names = ("plus", "minus") if network.architecture.symmetrized else (None,)
    signs = (1.0,) if len(names) == 1 else (SYMMETRIZED_SCALE, -SYMMETRIZED_SCALE)
    for name, sign, evaluation in zip(names, signs, evaluations, strict=True):
        entry = gradient if name is None else gradient[name]
        where = "params" if name is None else f"params[{name!r}]"
        is_kinked = _is_at_kink(evaluation, slack)
        for i, layer in enumerate(evaluation.network.layers):
            arrays = entry[f"layer_{i + 1}"]
            for key, (expected, bound) in _derivatives(evaluation, i, weights).items():
                if key not in arrays:
                    continue
                what = f"its derivatives in `{where}['layer_{i + 1}']['{key}']`"
                if not layer.is_trained:
                    what += ", which is not trained,"
                    _check(what, np.asarray(arrays[key]), 0 * expected, 0.0)
                elif not is_kinked:
                    tolerance = slack * abs(sign) * bound
                    _check(what, np.asarray(arrays[key]), sign * expected, tolerance)


def _derivatives(
    evaluation: Evaluation, i: int, weights: Float[np.ndarray, "n k"]
) -> dict[str, tuple[np.ndarray, float]]:
    """Derivatives of the weighted sum of outputs, and bounds of their errors."""
    layer, h, e = (
        evaluation.network.layers[i],
        evaluation.inputs[i],
        evaluation.cotangents[i],
    )
    pulled = np.einsum("ik,ikm->im", weights, e.value)
    rounded = gamma(weights.size + weights.shape[1] + 10, UNIT_ROUNDOFF)
    off = np.abs(weights) * (e.error + rounded * e.norm)
    size = np.abs(weights) * e.norm
    of_weight = np.sum(off * h.norm[:, None] + size * h.error[:, None])
    return {
        "kernel": (layer.scale * (h.value.T @ pulled), float(layer.scale * of_weight)),
        "bias": (
            layer.bias_scale * np.sum(pulled, axis=0),
            float(layer.bias_scale * np.sum(off)),
        ),
    }


def _is_at_kink(evaluation: Evaluation, slack: float) -> bool:
    """Whether a unit is so near its kink that its derivative is not certain."""
    phi = evaluation.network.activation
    if not (isinstance(phi, str) and phi in PIECEWISE_ACTIVATIONS):
        return False
    return any(
        bool(np.any(np.abs(z.value) <= slack * z.error[:, None] + _UNDERFLOW))
        for z in evaluation.preactivations
    )


def _check(what: str, found: np.ndarray, expected: np.ndarray, bound: float) -> None:
    """Check that two arrays differ by no more than a bound of rounding.

    Raises:
        ValueError: If they do, or the one found is not finite.
    """
    if not math.isfinite(bound):
        return  # what overflows certifies nothing
    off = np.asarray(found, np.float64) - expected
    tolerance = bound + (_UNDERFLOW if bound else 0.0)
    size = scaled_norm(off)
    if not size <= tolerance:
        raise ValueError(
            "`network.apply` must compute what `network.architecture` describes, as "
            f"that is what is certified; {what} are off by {size:.3g}, where rounding "
            f"explains {tolerance:.3g} (their norm is {scaled_norm(expected):.3g}). Certify the network "
            "that is run, or bounds of your own by "
            "`lazyjax.certify.LocalBounds.from_constants`."
        )


def _size(leaf: np.ndarray) -> float:
    """Root mean square, or 1 where that is 0 or overflows."""
    with np.errstate(all="ignore"):
        size = float(np.sqrt(np.mean(leaf**2)))
    return size if 0 < size < math.inf else 1.0


def _signed(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers between 1/2 and 3/2 in size, of either sign."""
    value = rng.random(shape) * 2 - 1
    return value + np.copysign(0.5, value)
