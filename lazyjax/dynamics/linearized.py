r"""Closed-form training dynamics of the linear model.

For the loss $L = \tfrac12 \lVert f - y \rVert^2$, summed over examples and outputs, and
a constant kernel $H$, the outputs obey $\dot f = -H (f - y)$ under gradient flow and
$f \leftarrow f - \eta H (f - y)$ under gradient descent. A loss $c L$ has the same
trajectory at `time / c` and `learning_rate / c`.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from lazyjax._checks import check_batch, check_finite, check_floating, check_targets
from lazyjax.linalg import gram_matrix
from lazyjax.typing import AnyArray


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Linearized:
    r"""The linear model's dynamics, ready for any set of times; see `linearized`.

    In the eigenbasis $H = V \Lambda V^\top$ every coefficient of the residual decays by
    itself. Eigenvalues that rounding made negative count as zero: their part of the
    residual never decays. At infinite time this holds for every eigenvalue up to
    `eig_cutoff`. At finite times the smallest eigenvalues are only known to within
    `eig_cutoff`, which shows once `time * eig_cutoff` is not small: use float64 for
    long times. Build batches of it, and call its methods on them, under `jax.vmap`.

    Attributes:
        eigenvalues: Of $H$, ascending, negative ones replaced by zero; `m` is `n * k`,
            or `n` if all outputs share one kernel.
        eigenvectors: Columns $V$.
        coefficients: Initial error $V^\top (y - f_0)$, one column per shared output.
        f0: Outputs at time 0.
        eig_min: Smallest eigenvalue as computed; negative by rounding, if at all.
    """

    eigenvalues: Float[Array, "*batch m"]
    eigenvectors: Float[Array, "*batch m m"]
    coefficients: Float[Array, "*batch m c"]
    f0: Float[Array, "*batch n k"]
    eig_min: Float[Array, "*batch"]

    @property
    def eig_max(self) -> Float[Array, "*batch"]:
        r"""Largest eigenvalue $\lambda_{\max}(H)$."""
        return self.eigenvalues[..., -1]

    @property
    def eig_cutoff(self) -> Float[Array, "*batch"]:
        r"""Eigenvalues no larger are zero to rounding: $m \epsilon \lambda_{\max}$."""
        eps = float(jnp.finfo(self.eigenvalues.dtype).eps)
        return self.eig_max * (self.eigenvalues.shape[-1] * eps)

    @property
    def max_learning_rate(self) -> Float[Array, "*batch"]:
        r"""Learning rate $2 / \lambda_{\max}(H)$, beyond which descent diverges."""
        return 2 / self.eig_max

    def gradient_flow(
        self,
        time: float | Shaped[AnyArray, "*times"],
        *,
        ntk_test_train: Float[AnyArray, "n_test n *kk"] | None = None,
        f0_test: Float[AnyArray, "n_test k"] | None = None,
    ) -> Float[Array, "*times n_out k"]:
        r"""Outputs of the linear model at `time` under gradient flow.

        On the training points $f(t) = y + e^{-Ht} (f_0 - y)$; on test points
        $f_0^* + \Theta^* H^{-1} (1 - e^{-Ht}) (y - f_0)$, with the pseudo-inverse of a
        singular $H$ at infinite time.

        Args:
            time: One or more times, 0 to infinity.
            ntk_test_train: Kernel $\Theta^*$ of test against training points, in the
                form that `linearized` was given; asks for outputs on the test points.
            f0_test: Outputs on the test points at time 0.

        Returns:
            Outputs on the training points, or on the test points if they are given.

        Raises:
            ValueError: If `time` is negative or NaN, or shapes do not fit.
            TypeError: If dtypes differ.

        Example:
            >>> import jax.numpy as jnp
            >>> flow = linearized(
            ...     jnp.array([[2.0, 0.0], [0.0, 1.0]]), jnp.ones((2, 1)), jnp.zeros((2, 1))
            ... )
            >>> flow.gradient_flow(jnp.log(2.0))[:, 0].tolist()
            [0.75, 0.5]
            >>> flow.gradient_flow(jnp.inf)[:, 0].tolist()
            [1.0, 1.0]

        References:
            Lee, Xiao et al. (2019), arXiv:1902.06720, Section 2.2 (number not checked).
        """
        _check_nonnegative("time", time)
        times = jnp.asarray(time, self.eigenvalues.dtype)
        return self._flow(times, self._test_points(ntk_test_train, f0_test))

    def gradient_descent(
        self,
        step: int | Int[AnyArray, "*steps"],
        learning_rate: float | Float[AnyArray, ""],
        *,
        ntk_test_train: Float[AnyArray, "n_test n *kk"] | None = None,
        f0_test: Float[AnyArray, "n_test k"] | None = None,
    ) -> Float[Array, "*steps n_out k"]:
        r"""Outputs of the linear model after `step` updates of gradient descent.

        As `gradient_flow`, with $(1 - \eta H)^s$ in place of $e^{-Ht}$. It is the true
        iteration at every learning rate: beyond `max_learning_rate` it grows without
        bound, and at last overflows.

        Args:
            step: One or more numbers of updates.
            learning_rate: Step size $\eta$.
            ntk_test_train: Kernel of test against training points, in the form that
                `linearized` was given; asks for outputs on the test points.
            f0_test: Outputs on the test points at step 0.

        Returns:
            Outputs on the training points, or on the test points if they are given.

        Raises:
            ValueError: If `step` or `learning_rate` is negative, or shapes do not fit.
            TypeError: If `step` is not an integer, or dtypes differ.

        Example:
            >>> import jax.numpy as jnp
            >>> flow = linearized(
            ...     jnp.array([[2.0, 0.0], [0.0, 1.0]]), jnp.ones((2, 1)), jnp.zeros((2, 1))
            ... )
            >>> flow.gradient_descent(jnp.array([0, 1, 2]), 0.25)[..., 0].tolist()
            [[0.0, 0.0], [0.5, 0.25], [0.75, 0.4375]]
        """
        steps, rate = self._checked_descent(step, learning_rate)
        test_points = self._test_points(ntk_test_train, f0_test)
        return self._descent(steps, rate, test_points)

    def gradient_flow_loss(
        self, time: float | Shaped[AnyArray, "*times"]
    ) -> Float[Array, "*times"]:
        r"""Training loss $\tfrac12 \lVert f(t) - y \rVert^2$ under gradient flow.

        Its relative accuracy does not depend on how small it is, unlike that of the
        loss computed from outputs.

        Args:
            time: One or more times, 0 to infinity.

        Returns:
            The loss, summed over examples and outputs.
        """
        _check_nonnegative("time", time)
        return self._flow_loss(jnp.asarray(time, self.eigenvalues.dtype))

    def gradient_descent_loss(
        self,
        step: int | Int[AnyArray, "*steps"],
        learning_rate: float | Float[AnyArray, ""],
    ) -> Float[Array, "*steps"]:
        r"""Training loss $\tfrac12 \lVert f - y \rVert^2$ after `step` updates.

        Args:
            step: One or more numbers of updates.
            learning_rate: Step size $\eta$.

        Returns:
            The loss, summed over examples and outputs; accurate as that of
            `gradient_flow_loss`.
        """
        return self._descent_loss(*self._checked_descent(step, learning_rate))

    @jax.jit
    def _flow(self, times: Array, test_points: tuple[Array, Array] | None) -> Array:
        if test_points is None:
            return self._outputs_at(times, self._flow_progress)
        return self._outputs_at(times, self._flow_integral, test_points)

    @jax.jit
    def _descent(
        self, steps: Array, rate: Array, test_points: tuple[Array, Array] | None
    ) -> Array:
        if test_points is None:
            return self._outputs_at(steps, lambda s: self._descent_progress(s, rate))
        integral = lambda s: self._descent_integral(s, rate)
        return self._outputs_at(steps, integral, test_points)

    @jax.jit
    def _flow_loss(self, times: Array) -> Array:
        return self._loss_at(times, lambda time: jnp.exp(-self._rates(time)))

    @jax.jit
    def _descent_loss(self, steps: Array, rate: Array) -> Array:
        scaled = rate * self.eigenvalues
        return self._loss_at(steps, lambda s: _power_of_one_minus(scaled, s))

    def _outputs_at(
        self,
        points: Array,
        filter_fn: Callable[[Array], Array],
        test_points: tuple[Array, Array] | None = None,
    ) -> Array:
        """Outputs whose coefficients are those of the error, times `filter_fn`."""
        readout, f0 = self.eigenvectors, self.f0
        if test_points is not None:
            ntk_test_train, f0 = test_points
            readout = jnp.matmul(
                gram_matrix(ntk_test_train), self.eigenvectors, precision="highest"
            )

        def outputs(point: Array) -> Array:
            weighted = filter_fn(point)[:, None] * self.coefficients
            change = jnp.matmul(readout, weighted, precision="highest")
            return f0 + change.reshape(f0.shape)

        return _map_over(outputs, points)

    def _loss_at(self, points: Array, filter_fn: Callable[[Array], Array]) -> Array:
        """Loss whose coefficients are those of the error, times `filter_fn`."""

        def loss(point: Array) -> Array:
            left = filter_fn(point)[:, None] * self.coefficients
            return jnp.sum(jnp.square(left)) / 2

        return _map_over(loss, points)

    def _rates(self, time: Array) -> Array:
        r"""$\lambda t$; at infinite time infinity or, up to the cutoff, zero."""
        finite = self.eigenvalues * jnp.where(jnp.isinf(time), 0, time)
        infinite = jnp.where(self.eigenvalues > self.eig_cutoff, jnp.inf, 0)
        return jnp.where(jnp.isinf(time), infinite.astype(finite.dtype), finite)

    def _flow_progress(self, time: Array) -> Array:
        r"""Share $1 - e^{-\lambda t}$ of each coefficient that is learned."""
        return -jnp.expm1(-self._rates(time))

    def _flow_integral(self, time: Array) -> Array:
        r"""$(1 - e^{-\lambda t}) / \lambda$, which is $t$ at $\lambda = 0$."""
        rates = self._rates(time)
        at_zero = jnp.where(jnp.isinf(time), 0, time)
        return self._over_eigenvalues(rates, self._flow_progress(time), at_zero)

    def _descent_progress(self, step: Array, rate: Array) -> Array:
        r"""Share $1 - (1 - \eta \lambda)^s$ of each coefficient that is learned."""
        scaled = rate * self.eigenvalues
        count = step.astype(scaled.dtype)
        # Below 1, so that a tiny product is not lost in 1 - product.
        slow = -jnp.expm1(count * jnp.log1p(-jnp.where(scaled < 1, scaled, 0)))
        return jnp.where(scaled < 1, slow, 1 - _power_of_one_minus(scaled, step))

    def _descent_integral(self, step: Array, rate: Array) -> Array:
        r"""$(1 - (1 - \eta \lambda)^s) / \lambda$, which is $\eta s$ at $\lambda = 0$."""
        progress = self._descent_progress(step, rate)
        at_zero = rate * step.astype(rate.dtype)
        return self._over_eigenvalues(rate * self.eigenvalues, progress, at_zero)

    def _over_eigenvalues(self, rates: Array, progress: Array, at_zero: Array) -> Array:
        # Where the rate underflows, so would the progress: the limit is exact there.
        positive = rates > jnp.finfo(rates.dtype).tiny
        return jnp.where(
            positive, progress / jnp.where(positive, self.eigenvalues, 1), at_zero
        )

    def _checked_descent(
        self, step: int | AnyArray, learning_rate: float | AnyArray
    ) -> tuple[Array, Array]:
        steps = jnp.asarray(step)
        if not jnp.issubdtype(steps.dtype, jnp.integer):
            raise TypeError(f"`step` must hold integers; got dtype {steps.dtype}.")
        _check_nonnegative("step", steps)
        _check_nonnegative("learning_rate", learning_rate, infinity_allowed=False)
        return steps, jnp.asarray(learning_rate, self.eigenvalues.dtype)

    def _test_points(
        self, ntk_test_train: AnyArray | None, f0_test: AnyArray | None
    ) -> tuple[Array, Array] | None:
        """Both arguments, checked; `None` if the training points are meant."""
        if self.f0.ndim != 2:
            raise ValueError(
                f"`Linearized` with batch axes {self.f0.shape[:-2]} must be called "
                "under `jax.vmap`."
            )
        if ntk_test_train is None and f0_test is None:
            return None
        if ntk_test_train is None or f0_test is None:
            missing = "ntk_test_train" if ntk_test_train is None else "f0_test"
            raise ValueError(
                "`ntk_test_train` and `f0_test` must be given together; "
                f"`{missing}` is missing."
            )
        n, k = self.f0.shape
        m, n_test = self.eigenvalues.shape[0], ntk_test_train.shape[0]
        forms = {(n_test, n, k, k): n * k, (n_test, n): n}
        shapes = [shape for shape, size in forms.items() if size == m]
        if ntk_test_train.shape not in shapes:
            raise ValueError(
                f"`ntk_test_train` must have shape {' or '.join(map(str, shapes))}, in "
                f"the form of the training kernel; got {ntk_test_train.shape}."
            )
        check_targets("f0_test", f0_test, n_test, k)
        for name, array in {
            "ntk_test_train": ntk_test_train,
            "f0_test": f0_test,
        }.items():
            _check_dtype(name, array, self.f0.dtype)
        check_finite("ntk_test_train", ntk_test_train)
        return jnp.asarray(ntk_test_train), jnp.asarray(f0_test)


def linearized(
    ntk: Float[AnyArray, "n n *kk"],
    y: Float[AnyArray, "n k"],
    f0: Float[AnyArray, "n k"],
) -> Linearized:
    r"""Closed-form training dynamics of the linear model with kernel `ntk`.

    One eigendecomposition, of size `n * k`, or `n` for a kernel shared by all outputs,
    serves every time, step and learning rate.

    Args:
        ntk: Kernel on the training points, unnormalized: `(n, n, k, k)` as from
            `empirical_ntk`, or `(n, n)` for the same kernel in every output and none
            between them, as at infinite width.
        y: Training targets.
        f0: Outputs on the training points at time 0.

    Returns:
        The dynamics, under gradient flow and gradient descent on
        $\tfrac12 \lVert f - y \rVert^2$.

    Raises:
        ValueError: If shapes do not fit, a value is not finite, or `ntk` is clearly not
            symmetric or has a clearly negative eigenvalue. Values are looked at only
            where they are known: not under `jit`.
        TypeError: If an argument is not floating point, or dtypes differ.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.array([[1.0, 0.0], [1.0, 1.0]])
        >>> flow = linearized(x @ x.T, y=jnp.array([[1.0], [0.0]]), f0=jnp.zeros((2, 1)))
        >>> round(flow.max_learning_rate.item(), 6)
        0.763932
        >>> [round(loss, 4) for loss in flow.gradient_flow_loss(jnp.arange(3.0)).tolist()]
        [0.5, 0.1693, 0.0785]
    """
    for name, array in {"ntk": ntk, "y": y, "f0": f0}.items():
        check_floating(name, array)
        _check_dtype(name, array, ntk.dtype)
    check_batch("ntk", ntk)
    if y.ndim != 2:
        raise ValueError(
            f"`y` must have shape (n, k), one column per output; got {y.shape}."
        )
    n, k = y.shape
    if ntk.shape not in ((n, n), (n, n, k, k)):
        raise ValueError(
            f"`ntk` must have shape {(n, n, k, k)}, or {(n, n)} if all outputs share "
            f"it, to fit `y` of shape {y.shape}; got {ntk.shape}."
        )
    check_batch("y", y)
    check_targets("f0", f0, n, k)
    result, asymmetry, scale = _decomposed(*map(jnp.asarray, (ntk, y, f0)))
    tolerance = float(jnp.finfo(ntk.dtype).eps) ** 0.5
    if _known_false(asymmetry <= tolerance * scale):
        raise ValueError(
            "`ntk` must be symmetric, a kernel of the training points with themselves; "
            f"it differs from its transpose by {asymmetry:.2g} in Frobenius norm."
        )
    if _known_false(result.eig_min >= -tolerance * scale):
        raise ValueError(
            "`ntk` must be positive semidefinite; its smallest eigenvalue is "
            f"{result.eig_min:.2g}, beyond what rounding explains."
        )
    return result


@jax.jit
def _decomposed(ntk: Array, y: Array, f0: Array) -> tuple[Linearized, Array, Array]:
    """The result, and the Frobenius norms of the asymmetry and of the kernel."""
    gram = gram_matrix(ntk)
    eigenvalues, eigenvectors = jnp.linalg.eigh(gram)
    error = (y - f0).reshape(gram.shape[0], -1)
    result = Linearized(
        eigenvalues=jnp.maximum(eigenvalues, 0),
        eigenvectors=eigenvectors,
        coefficients=jnp.matmul(eigenvectors.T, error, precision="highest"),
        f0=f0,
        eig_min=eigenvalues[0],
    )
    return result, jnp.linalg.norm(gram - gram.T), jnp.linalg.norm(gram)


def _map_over(fn: Callable[[Array], Array], points: Array) -> Array:
    """`fn` at every scalar of `points`, whose axes come first."""
    values = jax.vmap(fn)(points.reshape(-1))
    return values.reshape(points.shape + values.shape[1:])


def _power_of_one_minus(z: Array, step: Array) -> Array:
    """`(1 - z) ** step` for `z >= 0`, accurate when `1 - z` is near 1 or -1."""
    log = jnp.where(
        z < 1, jnp.log1p(-jnp.where(z < 1, z, 0)), jnp.log1p(jnp.maximum(z, 1) - 2)
    )
    magnitude = jnp.where(step == 0, 1, jnp.exp(step.astype(z.dtype) * log))
    return jnp.where((z > 1) & (step % 2 == 1), -magnitude, magnitude)


def _check_dtype(name: str, array: AnyArray, dtype: jnp.dtype) -> None:
    if array.dtype != dtype:
        raise TypeError(
            f"`{name}` must have the dtype of the training kernel and outputs, {dtype};"
            f" got {array.dtype}."
        )


def _check_nonnegative(
    name: str, value: object, *, infinity_allowed: bool = True
) -> None:
    try:
        values = np.asarray(value)
    except jax.errors.TracerArrayConversionError:
        return
    if not np.all((values >= 0) & (infinity_allowed | np.isfinite(values))):
        expected = (
            "zero or positive" if infinity_allowed else "finite, zero or positive"
        )
        raise ValueError(f"`{name}` must be {expected}; got {value}.")


def _known_false(condition: Array) -> bool:
    """Whether `condition` is false, where its value is known: not under `jit`."""
    try:
        return not bool(condition)
    except jax.errors.ConcretizationTypeError:
        return False
