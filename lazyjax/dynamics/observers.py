r"""What can be measured of a network while it trains.

An observer is any pure function of a `Snapshot` to an array or a pytree of arrays.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from lazyjax import spectrum
from lazyjax._brief import brief
from lazyjax._checks import check_at_least, check_inputs
from lazyjax.batches import as_arrays
from lazyjax.dynamics.snapshot import Observer as Observer, Snapshot as Snapshot
from lazyjax.linalg import eigvalsh, frobenius_norm, singular_values
from lazyjax.ntk import layerwise_ntk
from lazyjax.trees import leaf_paths, tree_distance, tree_norm
from lazyjax.typing import AnyArray, Inputs, Params


def parameters(snapshot: Snapshot) -> Params:
    """The parameters themselves, which the run then keeps of every step observed."""
    return snapshot.params


def outputs(snapshot: Snapshot) -> Float[Array, "n k"]:
    """Outputs on the training inputs."""
    return snapshot.outputs


def residual_norm(snapshot: Snapshot) -> Float[Array, ""]:
    r"""Residual $\lVert f - y \rVert_2$ over examples and outputs."""
    return jnp.linalg.norm(snapshot.outputs - jnp.asarray(snapshot.y))


def parameter_distance(snapshot: Snapshot) -> Float[Array, ""]:
    r"""Distance $\lVert w - w(0) \rVert_2$ over all parameters."""
    return tree_distance(snapshot.params, snapshot.initial.params)


def relative_parameter_distance(snapshot: Snapshot) -> Float[Array, ""]:
    r"""Distance $\lVert w - w(0) \rVert_2 / \lVert w(0) \rVert_2$ of all parameters."""
    start = snapshot.initial.params
    return tree_distance(snapshot.params, start) / tree_norm(start)


def loss(snapshot: Snapshot) -> Float[Array, ""]:
    """Loss on all training inputs, also where training is by minibatches."""
    return snapshot.loss_fn(snapshot.outputs, jnp.asarray(snapshot.y))


def ntk(snapshot: Snapshot) -> Float[Array, "n n k k"]:
    """Kernel on the training inputs, unnormalized."""
    return snapshot.ntk


def ntk_eig_min(snapshot: Snapshot) -> Float[Array, ""]:
    r"""Smallest eigenvalue $\lambda_{\min}(H)$ of the kernel on the training inputs."""
    return snapshot.gram_eigenvalues[0]


def ntk_eig_max(snapshot: Snapshot) -> Float[Array, ""]:
    r"""Largest eigenvalue $\lambda_{\max}(H)$ of the kernel on the training inputs."""
    return snapshot.gram_eigenvalues[-1]


def ntk_drift(snapshot: Snapshot) -> Float[Array, ""]:
    r"""Relative drift $\lVert H - H(0) \rVert_F / \lVert H(0) \rVert_F$.

    Args:
        snapshot: Network at one step.

    Returns:
        The drift: 0 at step 0, or NaN at every step if $H(0) = 0$.
    """
    initial = snapshot.initial.gram
    return frobenius_norm(snapshot.gram - initial) / frobenius_norm(initial)


def ntk_drift_norm(snapshot: Snapshot) -> Float[Array, ""]:
    r"""Spectral drift $\lVert H - H(0) \rVert_2$, absolute.

    The proof that gradient descent converges needs it below $\lambda_0 / 4$, where
    $\lambda_0$ is the smallest eigenvalue at infinite width.

    Args:
        snapshot: Network at one step.

    Returns:
        The largest absolute eigenvalue of the change.

    References:
        Du, Zhai, Poczos and Singh (2019), arXiv:1810.02054, Lemma 3.2 (number not
        checked).
    """
    change = eigvalsh(snapshot.gram - snapshot.initial.gram)
    return jnp.max(jnp.abs(change))


def target_alignment(snapshot: Snapshot) -> Float[Array, ""]:
    r"""Centred alignment of the kernel with the targets, between 0 and 1 for one output.

    $\langle K_c, Y_c \rangle_F / (\lVert K_c \rVert_F \lVert Y_c \rVert_F)$ with
    $K = \sum_a H_{\cdot a, \cdot a}$ (the kernel's trace over outputs), $Y = y y^\top$ and
    $M_c = C M C$, $C = 1 - \mathbb{1} \mathbb{1}^\top / n$.

    Args:
        snapshot: Network at one step.

    Returns:
        The alignment; NaN if all targets, or all rows of the kernel, are the same.

    References:
        Cortes, Mohri and Rostamizadeh (2012), JMLR 13, Definition 4 (number not
        checked).
    """
    kernel = jnp.trace(snapshot.ntk, axis1=2, axis2=3)
    return spectrum.target_alignment(kernel, jnp.asarray(snapshot.y))


def layer_alignments(snapshot: Snapshot) -> dict[str, Float[Array, ""]]:
    """Centred alignment of each layer's kernel with the targets.

    Args:
        snapshot: Network at one step.

    Returns:
        Alignments as of `target_alignment`, by the layers of `lazyjax.layerwise_ntk`.
    """
    y = jnp.asarray(snapshot.y)
    return {
        layer: spectrum.target_alignment(kernel, y)
        for layer, kernel in _layer_kernels(snapshot).items()
    }


@dataclasses.dataclass(frozen=True)
class _LayerAngles:
    num_directions: int

    @property
    def __name__(self) -> str:
        return "layer_angles"

    def __call__(self, snapshot: Snapshot) -> dict[str, Float[Array, " k"]]:
        before = _layer_kernels(snapshot.initial)
        return {
            layer: spectrum.subspace_angles(kernel, before[layer], self.num_directions)
            for layer, kernel in _layer_kernels(snapshot).items()
        }


def layer_angles(num_directions: int) -> Observer:
    """Observer of how far the leading eigenspaces of layers' kernels have turned.

    Args:
        num_directions: Dimension of the spaces, at most the number of examples.

    Returns:
        The observer, which sees for each layer of `lazyjax.layerwise_ntk` the principal
        angles between the space now and that at step 0, in radians, ascending. It is
        called "layer_angles".

    Raises:
        TypeError: If `num_directions` is not an integer.
        ValueError: If it is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> angles = layer_angles(1)
        >>> start = Snapshot(
        ...     apply_fn=lambda w, x: jnp.tanh(x @ w),
        ...     params=jnp.array([[0.1], [4.0]]),
        ...     x=jnp.eye(2),
        ...     y=jnp.ones((2, 1)),
        ... )
        >>> turned = angles(start.following(jnp.array([[4.0], [0.1]]), step=1))
        >>> [round(float(angle[0]), 4) for angle in turned.values()]  # a quarter turn
        [1.5708]
    """
    check_at_least("num_directions", num_directions, 1)
    return _LayerAngles(num_directions)


def neuron_distances(snapshot: Snapshot) -> dict[str, Float[Array, " units"]]:
    r"""Distance $\lVert w_r - w_r(0) \rVert_2$ of every unit's incoming weights.

    Proofs in the manner of Du et al. need the largest of the first layer to be small.

    Args:
        snapshot: Network at one step.

    Returns:
        The distances, by the path of each array of two or more axes, of which the last
        counts units; biases are left out.
    """
    moved = jax.tree.map(jnp.subtract, snapshot.params, snapshot.initial.params)
    return {
        path: jnp.linalg.norm(matrix, axis=0)
        for path, matrix in _matrices(moved).items()
    }


def weight_spectra(snapshot: Snapshot) -> dict[str, Float[Array, " r"]]:
    """Singular values of every weight matrix, decreasing.

    Args:
        snapshot: Network at one step.

    Returns:
        The values, by the path of each array of two or more axes, taken as a matrix
        with one column per entry of the last axis.
    """
    matrices = _matrices(snapshot.params)
    return {path: singular_values(matrix) for path, matrix in matrices.items()}


@dataclasses.dataclass(frozen=True)
class _ActivationStability:
    pre_activations_fn: Callable[[Params, Array], PyTree]

    @property
    def __name__(self) -> str:
        return "activation_stability"

    def __call__(self, snapshot: Snapshot) -> PyTree[Float[Array, ""]]:
        now, before = (
            self.pre_activations_fn(of.params, as_arrays(of.x))
            for of in (snapshot, snapshot.initial)
        )
        return jax.tree.map(_share_unchanged, now, before)


def activation_stability(
    pre_activations_fn: Callable[[Params, Array], PyTree],
) -> Observer:
    """Observer of the share of gates, unit by example, that are as they were at step 0.

    A gate is the sign of a pre-activation, positive or not. In the lazy regime the
    share tends to 1.

    Args:
        pre_activations_fn: Pre-activations `(params, x) -> pytree of arrays`, such as
            one array for each hidden layer.

    Returns:
        The observer, which sees one share for each array. It is called
        "activation_stability".

    Raises:
        TypeError: If `pre_activations_fn` is not callable.

    Example:
        >>> import jax.numpy as jnp
        >>> gates = activation_stability(lambda w, x: x @ w)
        >>> start = Snapshot(
        ...     apply_fn=lambda w, x: jnp.maximum(x @ w, 0),
        ...     params=jnp.array([[1.0, 1.0]]),
        ...     x=jnp.ones((1, 1)),
        ...     y=jnp.ones((1, 2)),
        ... )
        >>> gates(start.following(jnp.array([[2.0, -1.0]]), step=1)).item()
        0.5

    References:
        Chizat, Oyallon and Bach (2019), arXiv:1812.07956, "stability of activations"
        (section not checked).
    """
    if not callable(pre_activations_fn):
        raise TypeError(
            f"`pre_activations_fn` must be callable; got {brief(pre_activations_fn)}."
        )
    return _ActivationStability(pre_activations_fn)


@dataclasses.dataclass(frozen=True, eq=False)
class _OnInputs:
    observer: Observer
    x: Inputs
    y: AnyArray | None

    @property
    def __name__(self) -> str:
        of = self.observer
        return f"{getattr(of, '__name__', type(of).__name__)}_on_inputs"

    def __call__(self, snapshot: Snapshot) -> PyTree[Any]:
        x = as_arrays(self.x)
        if self.y is not None:
            y = jnp.asarray(self.y)
        else:
            f = jax.eval_shape(snapshot.apply_fn, snapshot.params, x)
            y = jnp.full(f.shape, jnp.nan, f.dtype)
        initial = dataclasses.replace(snapshot.initial, x=x, y=y)
        if snapshot.start is None:
            return self.observer(initial)
        moved = initial.following(snapshot.params, snapshot.step)
        return self.observer(moved)


def on_inputs(
    observer: Observer,
    x: Inputs,
    y: Float[AnyArray, "n k"] | None = None,
) -> Observer:
    """The observer, looking at other inputs than those that are trained on.

    Args:
        observer: Such as `outputs`, `ntk` or `ntk_drift`.
        x: The inputs: test inputs, or a fixed probe set.
        y: Their targets; `None` means NaN, for observers that do not use them.

    Returns:
        The observer, called as `observer` with "_on_inputs" added. Keep it to use a
        compiled program again.

    Raises:
        TypeError: If `observer` is not callable.
        ValueError: If `x` is not a batch.

    Example:
        >>> import jax.numpy as jnp
        >>> start = Snapshot(
        ...     apply_fn=lambda w, x: x @ w,
        ...     params=jnp.ones((1, 1)),
        ...     x=jnp.ones((1, 1)),
        ...     y=jnp.ones((1, 1)),
        ... )
        >>> on_inputs(outputs, jnp.array([[3.0], [4.0]]))(start)[:, 0].tolist()
        [3.0, 4.0]
    """
    if not callable(observer):
        raise TypeError(f"`observer` must be callable; got {brief(observer)}.")
    check_inputs("x", x)
    return _OnInputs(observer, x, y)


def _layer_kernels(snapshot: Snapshot) -> dict[str, Float[Array, "n n"]]:
    """Kernel of each layer, summed over outputs."""
    return layerwise_ntk(
        snapshot.apply_fn, snapshot.params, as_arrays(snapshot.x), outputs="trace"
    )


def _matrices(params: Params) -> dict[str, Array]:
    """Arrays of two or more axes, by path, as matrices with the last axis as columns."""
    leaves = jax.tree.leaves(params)
    return {
        path: jnp.asarray(leaf).reshape(-1, leaf.shape[-1])
        for path, leaf in zip(leaf_paths(params), leaves, strict=True)
        if leaf.ndim >= 2
    }


def _share_unchanged(now: Array, before: Array) -> Array:
    unchanged = (now > 0) == (before > 0)
    # NaN is no pattern: it makes the share NaN, not a change.
    share = jnp.mean(unchanged.astype(now.dtype))
    return jnp.where(jnp.all(jnp.isfinite(now)), share, jnp.nan)
