r"""Features of few numbers whose inner products estimate the kernel, for many examples.

A gradient of $p$ numbers is mapped to $m$ by a random matrix $S$ with
$\mathbb E\, S S^\top = I$; then $\langle S^\top g, S^\top g' \rangle$ has the kernel for
its mean. Regression costs $n m^2$ operations, and $n$ only needs to be passed through once.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from lazyjax._checks import (
    check_at_least,
    check_batch,
    check_choice,
    check_finite,
    check_floating,
    check_key,
    check_nonnegative,
)
from lazyjax.callables.static import HashableCallable
from lazyjax.grams.networks import NetworkKernel
from lazyjax.grams.solving.direct import GramFactor, factorize
from lazyjax.typing import AnyArray, ApplyFn, Params, RandomKey

Sketch: TypeAlias = Literal["countsketch", "jl", "subset"]
_SKETCHES = ("countsketch", "jl", "subset")

# Bytes of the gradients that are formed at a time.
_BYTES_AT_ONCE = 2**26


@dataclasses.dataclass(frozen=True, kw_only=True)
class SketchedFeatures:
    """Features of a network's gradients; see `sketched_features`.

    Attributes:
        apply_fn: Network `(params, x) -> f`.
        params: Point at which the network is linearized.
        num_features: How many numbers `m` a gradient is mapped to.
        num_outputs: Outputs `k` of the network.
        sketch: How it is mapped.
        key: Source of randomness.
    """

    apply_fn: ApplyFn
    params: Params = dataclasses.field(repr=False)
    num_features: int
    num_outputs: int
    sketch: Sketch
    key: RandomKey = dataclasses.field(repr=False)

    def __call__(self, x: AnyArray) -> np.ndarray:
        """Features of a batch.

        Args:
            x: The batch.

        Returns:
            Features `(n, k, m)`, in the dtype of the network's outputs.

        Raises:
            ValueError: If `x` is no batch for the network.
        """
        return np.concatenate([found for _, found in self._batches(x)])

    def kernel(
        self, x1: AnyArray, x2: AnyArray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Estimate of the kernel, and its standard error.

        Args:
            x1: First batch.
            x2: Second batch; `None` means `x1`.

        Returns:
            Estimates and standard errors, both `(n1, n2, k, k)` in double precision. Errors
            are read off how much single features contribute.
        """
        one = self(x1).astype(np.float64)
        two = one if x2 is None else self(x2).astype(np.float64)
        m = self.num_features
        mean = np.einsum("iam,jbm->ijab", one, two, optimize=True)
        squares = np.einsum("iam,jbm->ijab", one**2, two**2, optimize=True)
        spread = np.maximum(squares - mean**2 / m, 0.0)
        return mean, np.sqrt(spread * m / (m - 1))

    def fit(
        self, x: AnyArray, y: AnyArray, *, ridge: int | float
    ) -> "SketchedRegression":
        r"""Ridge regression on the features, in one pass over the examples.

        Args:
            x: Training examples; an array of NumPy may be one of a file (`numpy.memmap`).
            y: Targets `(n, k)`; of a network of one output, any number of columns, each
                a problem of its own.
            ridge: $\lambda$ in $\lVert \Phi w - y \rVert^2 + \lambda \lVert w \rVert^2$,
                the ridge of kernel regression.

        Returns:
            What predicts.

        Raises:
            ValueError: If shapes do not fit, values are not finite, or `ridge` is negative.
            TypeError: If `y` is not of floating-point numbers.
        """
        check_nonnegative("ridge", ridge, infinity_allowed=False)
        check_floating("y", y)
        check_finite("y", y)
        k = self.num_outputs
        if y.ndim != 2 or len(y) != len(x) or (k > 1 and y.shape[1] != k):
            raise ValueError(
                f"`y` must have shape ({len(x)}, {k if k > 1 else 'any number'}); got "
                f"{y.shape}."
            )
        num_columns = 1 if k > 1 else y.shape[1]
        matrix = np.zeros((self.num_features, self.num_features))
        right = np.zeros((self.num_features, num_columns))
        for rows, found in self._batches(x):
            features = found.reshape(-1, self.num_features).astype(np.float64)
            targets = np.asarray(y[rows], np.float64).reshape(-1, num_columns)
            matrix += features.T @ features
            right += features.T @ targets
        factor = factorize(matrix, ridge=ridge)
        return SketchedRegression(
            features=self, weights=factor.solve(right), factor=factor
        )

    def _batches(self, x: AnyArray) -> Iterator[tuple[slice, np.ndarray]]:
        """Rows of a batch and their features, some at a time."""
        check_batch("x", x)
        num_params = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(self.params))
        numbers = self.num_outputs * (
            self.num_features if self.sketch == "jl" else 2 * num_params
        )
        size = min(len(x), max(1, _BYTES_AT_ONCE // (4 * numbers)))
        apply_fn = HashableCallable(self.apply_fn)
        for start in range(0, len(x), size):
            rows = slice(start, min(start + size, len(x)))
            some = np.asarray(x[rows])
            missing = size - len(some)  # the last are filled up: one program for all
            some = np.concatenate([some, np.repeat(some[-1:], missing, axis=0)])
            found = _sketched(
                self.params,
                some,
                self.key,
                apply_fn=apply_fn,
                number=self.num_features,
                sketch=self.sketch,
            )
            yield rows, np.asarray(found)[: size - missing]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SketchedRegression:
    """Ridge regression on sketched features.

    Attributes:
        features: What examples are mapped to.
        weights: One for each feature, in columns.
        factor: Of the matrix of features; its `explain()` tells how it was solved with.
    """

    features: SketchedFeatures
    weights: np.ndarray = dataclasses.field(repr=False)
    factor: GramFactor

    def predict(self, x: AnyArray) -> np.ndarray:
        """Predictions.

        Args:
            x: Examples.

        Returns:
            One row for each example, with the columns of `y`.
        """
        found = [some @ self.weights for _, some in self.features._batches(x)]
        return np.concatenate(found).reshape(len(x), -1)


def sketched_features(
    apply_fn: ApplyFn,
    params: Params,
    x: AnyArray,
    *,
    num_features: int,
    key: RandomKey,
    sketch: Sketch = "countsketch",
) -> SketchedFeatures:
    r"""Random features whose inner products estimate the kernel of a network.

    - "countsketch": each parameter, with a random sign, is added to one of the features.
      One backward pass for each output.
    - "jl" (Johnson and Lindenstrauss): products with random signs. One forward-mode pass
      for each feature, and no gradient is formed.
    - "subset": gradients of some parameters, chosen at random. Its error can be much
      larger, where gradients are large for few parameters.

    Args:
        apply_fn: Network `(params, x) -> f`; rows of `x` must not interact.
        params: Point at which the network is linearized.
        x: Some examples, for shapes.
        num_features: How many, at least 2; errors fall with the root of it.
        key: Source of randomness.
        sketch: How gradients are mapped.

    Returns:
        The features, a function of batches, with `kernel` and its standard error, and
        `fit` for regression.

    Raises:
        ValueError: If an option is out of range, or as `lazyjax.gram` says.
        TypeError: As `lazyjax.gram` says.

    Example:
        >>> import jax, jax.numpy as jnp, numpy as np
        >>> from lazyjax.grams import sketched_features
        >>> linear = lambda w, x: x @ w
        >>> x = np.eye(3, dtype=np.float32)
        >>> w, key = jnp.ones((3, 1)), jax.random.key(0)
        >>> features = sketched_features(linear, w, x, num_features=64, key=key)
        >>> features.kernel(x[:1])[0].item()  # a sign, squared
        1.0

    References:
        Charikar, Chen and Farach-Colton (2002) for the sketch; Johnson and Lindenstrauss
        (1984); Achlioptas (2003) for signs in place of normal numbers (none checked).
    """
    check_choice("sketch", sketch, _SKETCHES)
    check_at_least("num_features", num_features, 2)
    check_key("key", key)
    NetworkKernel(apply_fn, params, "full", "highest").check(x, None)
    num_params = sum(math.prod(np.shape(leaf)) for leaf in jax.tree.leaves(params))
    if sketch == "subset" and num_features > num_params:
        raise ValueError(
            f"`num_features` must be at most {num_params}, the number of parameters, of a "
            f"subset; got {num_features}."
        )
    f = jax.eval_shape(apply_fn, params, x[:1])
    return SketchedFeatures(
        apply_fn=apply_fn,
        params=params,
        num_features=int(num_features),
        num_outputs=f.shape[1],
        sketch=sketch,
        key=key,
    )


@functools.partial(jax.jit, static_argnames=("apply_fn", "number", "sketch"))
def _sketched(
    params: Params,
    x: Array,
    key: Array,
    *,
    apply_fn: ApplyFn,
    number: int,
    sketch: Sketch,
) -> Array:
    with jax.default_matmul_precision("highest"):
        if sketch == "jl":
            return _along_signs(params, x, key, apply_fn, number)
        return _of_gradients(params, x, key, apply_fn, number, sketch)


def _along_signs(
    params: Params, x: Array, key: Array, apply_fn: ApplyFn, number: int
) -> Array:
    leaves, structure = jax.tree.flatten(params)

    def along(key: Array) -> Array:
        keys = jax.random.split(key, len(leaves))
        signs = [
            jax.random.rademacher(own, leaf.shape, leaf.dtype)
            for own, leaf in zip(keys, leaves, strict=True)
        ]
        tangent = jax.tree.unflatten(structure, signs)
        return jax.jvp(lambda p: apply_fn(p, x), (params,), (tangent,))[1]

    found = jax.lax.map(along, jax.random.split(key, number))  # (m, n, k)
    return jnp.moveaxis(found, 0, -1) / jnp.sqrt(jnp.asarray(number, found.dtype))


def _of_gradients(
    params: Params, x: Array, key: Array, apply_fn: ApplyFn, number: int, sketch: Sketch
) -> Array:
    jacobian = jax.vmap(jax.jacrev(lambda p, row: apply_fn(p, row[None])[0]), (None, 0))
    n = x.shape[0]
    leaves = jax.tree.leaves(jacobian(params, x))
    gradients = jnp.concatenate(
        [leaf.reshape(n, leaf.shape[1], -1) for leaf in leaves], axis=-1
    )
    num_params, dtype = gradients.shape[-1], gradients.dtype
    order, signs = jax.random.split(key)
    if sketch == "subset":
        chosen = jax.random.permutation(order, num_params)[:number]
        scale = jnp.sqrt(jnp.asarray(num_params / number, dtype))
        return scale * gradients[:, :, chosen]
    # As many parameters for each feature, which saves the scattered sums.
    per_feature = math.ceil(num_params / number)
    gradients *= jax.random.rademacher(signs, (1, 1, num_params), dtype)
    padding = per_feature * number - num_params
    gradients = jnp.pad(gradients, ((0, 0), (0, 0), (0, padding)))
    shuffled = gradients[:, :, jax.random.permutation(order, per_feature * number)]
    return shuffled.reshape(n, -1, per_feature, number).sum(axis=2)
