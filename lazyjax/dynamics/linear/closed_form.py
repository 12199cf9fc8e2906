r"""Closed-form training dynamics of the linear model.

For the loss $L = \tfrac12 \lVert f - y \rVert^2$, summed over examples and outputs, and
a constant kernel $H$, the outputs obey $\dot f = -H (f - y)$ under gradient flow and
$f \leftarrow f - \eta H (f - y)$ under gradient descent. A loss $c L$ has the same
trajectory at `time / c` and `learning_rate / c`.

All dynamics are of the form $w = w_0 + J^\top a$ with dual variables $a$ `(n, k)`, so that
$f = f_0 + H a$ on training points and $f^* = f^*_0 + \Theta^* a$ on others.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from lazyjax._checks import check_nonnegative
from lazyjax.dynamics.linear.checks import check_comes_to_rest, check_test_points
from lazyjax.dynamics.linear.damping import damped_reach
from lazyjax.dynamics.linear.evaluation import (
    Eigensystem,
    Quantity,
    checked_rates,
    evaluate,
)
from lazyjax.dynamics.schedules import (
    LearningRate,
    checked_learning_rates,
    checked_steps,
)
from lazyjax.files.results import Storable
from lazyjax.linalg import condition, is_long, share_of, warn_of_dropped
from lazyjax.typing import AnyArray


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Linearized(Storable):
    r"""The linear model's dynamics, ready for any set of times; see `linear_dynamics`.

    In the eigenbasis $H = V \Lambda V^\top$ every coefficient of the residual decays by
    itself. Eigenvalues that rounding made negative count as zero: their part of the
    residual never decays. The smallest eigenvalues are only known to within
    `eig_cutoff`, which matters once `time * eig_cutoff` is beyond 0.01: from there on,
    gradient flow takes every eigenvalue up to `eig_cutoff` for zero, with a
    `SingularKernelWarning` where targets have more than 1e-3 of their squares there
    (`dropped_share`) and values are known, not under `jit`. Updates by steps are not
    warned of: use float64 for many. Build batches of it, and call its methods on them,
    under `jax.vmap`.

    Attributes:
        eigenvalues: Of $H$, ascending, negative ones replaced by zero; `m` is `n * k`,
            or `n` if all outputs share one kernel.
        eigenvectors: Columns $V$.
        coefficients: Initial error $V^\top (y - f_0)$, one column per shared output.
        f0: Outputs at time 0.
        eig_min: Smallest eigenvalue as computed; negative by rounding, if at all.
        eig_cutoff: Eigenvalues no larger are zero to rounding, by the rule of
            `lazyjax.linalg.eigen`: what the decomposition was measured to be off by,
            and twice the rounding of the largest.
    """

    eigenvalues: Float[Array, "*batch m"]
    eigenvectors: Float[Array, "*batch m m"]
    coefficients: Float[Array, "*batch m c"]
    f0: Float[Array, "*batch n k"]
    eig_min: Float[Array, "*batch"]
    eig_cutoff: Float[Array, "*batch"]

    @property
    def eig_max(self) -> Float[Array, "*batch"]:
        r"""Largest eigenvalue $\lambda_{\max}(H)$."""
        return self.eigenvalues[..., -1]

    @property
    def rank(self) -> Int[Array, "*batch"]:
        """Number of eigenvalues above `eig_cutoff`; the others cannot be learned."""
        is_positive = self.eigenvalues > self.eig_cutoff[..., None]
        return jnp.sum(is_positive, axis=-1)

    @property
    def dropped_share(self) -> Float[Array, "*batch"]:
        r"""Share of $\lVert y - f_0 \rVert^2$ in directions that cannot be learned."""
        is_dropped = self.eigenvalues <= self.eig_cutoff[..., None]
        return self._share(is_dropped)

    @property
    def condition(self) -> Float[Array, "*batch"]:
        """Largest over smallest eigenvalue, infinite if `rank` is not full."""
        num_dropped = self.eigenvalues.shape[-1] - self.rank
        return condition(self.eigenvalues[..., 0], self.eig_max, num_dropped)

    @property
    def max_learning_rate(self) -> Float[Array, "*batch"]:
        r"""Learning rate $2 / \lambda_{\max}(H)$, beyond which descent diverges."""
        return 2 / self.eig_max

    def gradient_flow(
        self,
        time: float | Shaped[AnyArray, "*times"],
        *,
        friction: float | Float[AnyArray, ""] | None = None,
        ridge: float | Float[AnyArray, ""] = 0.0,
        ntk_test_train: Float[AnyArray, "n_test n *kk"] | None = None,
        f0_test: Float[AnyArray, "n_test k"] | None = None,
    ) -> Float[Array, "*times n_out k"]:
        r"""Outputs of the linear model at `time` under gradient flow.

        On the training points $f(t) = y + e^{-Ht} (f_0 - y)$; on test points
        $f_0^* + \Theta^* H^{-1} (1 - e^{-Ht}) (y - f_0)$, with the pseudo-inverse of a
        singular $H$ at infinite time. With `friction`, $e^{-Ht}$ is replaced by the solution
        of $\ddot P + \gamma \dot P + H P = 0$ from $P = 1$ at rest.

        Args:
            time: One or more times, 0 to infinity.
            friction: The $\gamma$ of a flow with momentum, as in
                `lazyjax.gradient_flow`, which also has "nesterov".
            ridge: Weight $\mu$ of the penalty $\tfrac\mu2 \lVert w - w_0 \rVert^2$, with
                which the flow ends at $f_0 + H (H + \mu)^{-1} (y - f_0)$.
            ntk_test_train: Kernel $\Theta^*$ of test against training points, in the
                form that `linear_dynamics` was given; asks for outputs on the test points.
            f0_test: Outputs on the test points at time 0.

        Returns:
            Outputs on the training points, or on the test points if they are given.

        Raises:
            ValueError: If a number is negative or NaN, or shapes do not fit; or if `time`
                is infinite with `friction` of 0, where the outputs never rest.
            TypeError: If dtypes differ.

        Example:
            >>> import jax.numpy as jnp
            >>> from lazyjax import linear_dynamics
            >>> flow = linear_dynamics(
            ...     jnp.array([[2.0, 0.0], [0.0, 1.0]]), jnp.ones((2, 1)), jnp.zeros((2, 1))
            ... )
            >>> flow.gradient_flow(jnp.log(2.0))[:, 0].tolist()
            [0.75, 0.5]
            >>> flow.gradient_flow(jnp.inf)[:, 0].tolist()
            [1.0, 1.0]
            >>> flow.gradient_flow(jnp.inf, ridge=1.0)[:, 0].tolist()
            [0.666667, 0.5]

        References:
            Lee, Xiao et al. (2019), arXiv:1902.06720, Section 2.2 (number not checked).
        """
        test_points = self._test_points(ntk_test_train, f0_test)
        return self._at_times("outputs", time, friction, ridge, test_points)

    def gradient_descent(
        self,
        step: int | Int[AnyArray, "*steps"],
        learning_rate: LearningRate,
        *,
        ridge: float | Float[AnyArray, ""] = 0.0,
        ntk_test_train: Float[AnyArray, "n_test n *kk"] | None = None,
        f0_test: Float[AnyArray, "n_test k"] | None = None,
    ) -> Float[Array, "*steps n_out k"]:
        r"""Outputs of the linear model after `step` updates of gradient descent.

        As `gradient_flow`, with $(1 - \eta H)^s$ in place of $e^{-Ht}$. It is the true
        iteration at every learning rate: beyond `max_learning_rate` it grows without
        bound, and at last overflows, to infinities of its signs.

        Args:
            step: One or more numbers of updates.
            learning_rate: Step size $\eta$; or a schedule, the rates of steps 0, 1, ... as
                an array or a function of the step, as of optax: then $(1 - \eta H)^s$ is
                a product over steps, whose factors for every eigenvalue are kept in memory.
            ridge: As in `gradient_flow`.
            ntk_test_train: As in `gradient_flow`.
            f0_test: As in `gradient_flow`.

        Returns:
            Outputs on the training points, or on the test points if they are given.

        Raises:
            ValueError: If a number is negative, `step` larger than JAX's integers (without
                64-bit types $2^{31} - 1$), or shapes do not fit.
            TypeError: If `step` is not an integer, or dtypes differ.

        Example:
            >>> import jax.numpy as jnp
            >>> from lazyjax import linear_dynamics
            >>> flow = linear_dynamics(
            ...     jnp.array([[2.0, 0.0], [0.0, 1.0]]), jnp.ones((2, 1)), jnp.zeros((2, 1))
            ... )
            >>> flow.gradient_descent(jnp.array([0, 1, 2]), 0.25)[..., 0].tolist()
            [[0.0, 0.0], [0.5, 0.25], [0.75, 0.4375]]
        """
        test_points = self._test_points(ntk_test_train, f0_test)
        return self._at_steps("outputs", step, learning_rate, None, ridge, test_points)

    def heavy_ball(
        self,
        step: int | Int[AnyArray, "*steps"],
        learning_rate: LearningRate,
        momentum: float | Float[AnyArray, ""],
        *,
        ridge: float | Float[AnyArray, ""] = 0.0,
        ntk_test_train: Float[AnyArray, "n_test n *kk"] | None = None,
        f0_test: Float[AnyArray, "n_test k"] | None = None,
    ) -> Float[Array, "*steps n_out k"]:
        r"""Outputs of the linear model after `step` updates with momentum.

        $w_{s+1} = w_s - \eta \nabla L(w_s) + \beta (w_s - w_{s-1})$ from
        $w_{-1} = w_0$, which is `optax.sgd(eta, momentum=beta)`. It is stable while
        $\eta < (1 + \beta)\,$`max_learning_rate`.

        Args:
            step: One or more numbers of updates.
            learning_rate: Step size $\eta$, or a schedule, as in `gradient_descent`; it
                multiplies the sum of $\beta^r \nabla L(w_{s-r})$, as in optax.
            momentum: The $\beta$, at least 0.
            ridge: As in `gradient_flow`.
            ntk_test_train: As in `gradient_flow`.
            f0_test: As in `gradient_flow`.

        Returns:
            Outputs on the training points, or on the test points if they are given.

        Raises:
            ValueError: As `gradient_descent` does.
            TypeError: As `gradient_descent` does.

        Example:
            >>> import jax.numpy as jnp
            >>> from lazyjax import linear_dynamics
            >>> ball = linear_dynamics(jnp.ones((1, 1)), jnp.ones((1, 1)), jnp.zeros((1, 1)))
            >>> ball.heavy_ball(jnp.arange(4), 0.5, 0.5)[:, 0, 0].tolist()
            [0.0, 0.5, 1.0, 1.25]
        """
        test_points = self._test_points(ntk_test_train, f0_test)
        return self._at_steps(
            "outputs", step, learning_rate, momentum, ridge, test_points
        )

    def gradient_flow_loss(
        self,
        time: float | Shaped[AnyArray, "*times"],
        *,
        friction: float | Float[AnyArray, ""] | None = None,
        ridge: float | Float[AnyArray, ""] = 0.0,
    ) -> Float[Array, "*times"]:
        r"""Training loss $\tfrac12 \lVert f(t) - y \rVert^2$ under gradient flow.

        Its relative accuracy does not depend on how small it is, unlike that of the
        loss computed from outputs.

        Args:
            time: One or more times, 0 to infinity.
            friction: As in `gradient_flow`.
            ridge: Weight of the penalty, which is not part of the loss.

        Returns:
            The loss, summed over examples and outputs.
        """
        return self._at_times("loss", time, friction, ridge)

    def gradient_descent_loss(
        self,
        step: int | Int[AnyArray, "*steps"],
        learning_rate: LearningRate,
        *,
        ridge: float | Float[AnyArray, ""] = 0.0,
    ) -> Float[Array, "*steps"]:
        r"""Training loss $\tfrac12 \lVert f - y \rVert^2$ after `step` updates.

        Args:
            step: One or more numbers of updates.
            learning_rate: Step size, or a schedule, as in `gradient_descent`.
            ridge: Weight of the penalty, which is not part of the loss.

        Returns:
            The loss, summed over examples and outputs; accurate as that of
            `gradient_flow_loss`.
        """
        return self._at_steps("loss", step, learning_rate, None, ridge)

    def heavy_ball_loss(
        self,
        step: int | Int[AnyArray, "*steps"],
        learning_rate: LearningRate,
        momentum: float | Float[AnyArray, ""],
        *,
        ridge: float | Float[AnyArray, ""] = 0.0,
    ) -> Float[Array, "*steps"]:
        r"""Training loss $\tfrac12 \lVert f - y \rVert^2$ after updates with momentum.

        Args:
            step: One or more numbers of updates.
            learning_rate: Step size, or a schedule, as in `heavy_ball`.
            momentum: The $\beta$.
            ridge: Weight of the penalty, which is not part of the loss.

        Returns:
            The loss, summed over examples and outputs.
        """
        return self._at_steps("loss", step, learning_rate, momentum, ridge)

    def gradient_flow_dual(
        self,
        time: float | Shaped[AnyArray, "*times"],
        *,
        friction: float | Float[AnyArray, ""] | None = None,
        ridge: float | Float[AnyArray, ""] = 0.0,
    ) -> Float[Array, "*times n k"]:
        """Dual variables under gradient flow, from which `dual_params` makes parameters.

        Args:
            time: One or more times, 0 to infinity.
            friction: As in `gradient_flow`.
            ridge: Weight of the penalty.

        Returns:
            The dual variables; of a singular kernel at infinite time, the smallest.
        """
        return self._at_times("dual", time, friction, ridge)

    def gradient_descent_dual(
        self,
        step: int | Int[AnyArray, "*steps"],
        learning_rate: LearningRate,
        *,
        ridge: float | Float[AnyArray, ""] = 0.0,
    ) -> Float[Array, "*steps n k"]:
        """Dual variables after `step` updates, for `dual_params`.

        Args:
            step: One or more numbers of updates.
            learning_rate: Step size, or a schedule, as in `gradient_descent`.
            ridge: Weight of the penalty.

        Returns:
            The dual variables.
        """
        return self._at_steps("dual", step, learning_rate, None, ridge)

    def heavy_ball_dual(
        self,
        step: int | Int[AnyArray, "*steps"],
        learning_rate: LearningRate,
        momentum: float | Float[AnyArray, ""],
        *,
        ridge: float | Float[AnyArray, ""] = 0.0,
    ) -> Float[Array, "*steps n k"]:
        """Dual variables after `step` updates with momentum, for `dual_params`.

        Args:
            step: One or more numbers of updates.
            learning_rate: Step size, or a schedule, as in `gradient_descent`.
            momentum: Its factor.
            ridge: Weight of the penalty.

        Returns:
            The dual variables.
        """
        return self._at_steps("dual", step, learning_rate, momentum, ridge)

    def _at_times(
        self,
        quantity: Quantity,
        time: float | AnyArray,
        friction: float | AnyArray | None,
        ridge: float | AnyArray,
        test_points: tuple[Array, Array] | None = None,
    ) -> Array:
        eigensystem, dtype = self._eigensystem, self.eigenvalues.dtype
        check_nonnegative("time", time)
        check_comes_to_rest(time, friction)
        times = jnp.asarray(time, dtype)
        rates = checked_rates(dtype, ridge=ridge, friction=friction)
        reach = times
        if rates.friction is not None:
            reach = damped_reach(times, rates.friction)
        self._warn_if_dropped(reach, rates.ridge)
        return evaluate(eigensystem, times, rates, test_points, quantity)

    def _at_steps(
        self,
        quantity: Quantity,
        step: int | AnyArray,
        learning_rate: LearningRate,
        momentum: float | AnyArray | None,
        ridge: float | AnyArray,
        test_points: tuple[Array, Array] | None = None,
    ) -> Array:
        eigensystem, dtype = self._eigensystem, self.eigenvalues.dtype
        steps = checked_steps(step)
        learning_rates = checked_learning_rates(learning_rate, steps, dtype)
        rates = checked_rates(
            dtype, ridge=ridge, learning_rate=learning_rates, momentum=momentum
        )
        return evaluate(eigensystem, steps, rates, test_points, quantity)

    @property
    def _eigensystem(self) -> Eigensystem:
        if self.f0.ndim != 2:
            raise ValueError(
                f"`Linearized` with batch axes {self.f0.shape[:-2]} must be called "
                "under `jax.vmap`."
            )
        return Eigensystem(
            self.eigenvalues,
            self.eigenvectors,
            self.coefficients,
            self.f0,
            self.eig_cutoff,
        )

    def _share(self, chosen: Array) -> Array:
        part = jnp.where(chosen[..., None], self.coefficients, 0)
        return share_of(part, self.coefficients)

    def _warn_if_dropped(self, times: Array, ridge: Array) -> None:
        """Warn of what is not fitted at long times, where all values are known."""
        try:
            if not jnp.any(is_long(times, self.eig_cutoff)):
                return
        except jax.errors.ConcretizationTypeError:
            return
        is_dropped = self.eigenvalues + ridge <= self.eig_cutoff
        warn_of_dropped(
            "ntk",
            jnp.sum(is_dropped),
            self._share(is_dropped),
            remedy="Use float64, or a shorter `time`.",
            stacklevel=4,
        )

    def _test_points(
        self, ntk_test_train: AnyArray | None, f0_test: AnyArray | None
    ) -> tuple[Array, Array] | None:
        size = self.eigenvalues.shape[-1]
        return check_test_points(ntk_test_train, f0_test, self.f0, gram_size=size)
