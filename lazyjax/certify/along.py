r"""When training becomes provable: certificates along a run.

A certificate is about parameters, wherever they come from, and what it says of gradient
flow or descent from there holds whichever optimizer led there. Margins need not grow
along a run: a step is called the earliest if its certificate holds, and none does of
those that were tried before, of which one is the step just before wherever steps could be
bisected.
"""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar, Literal, get_args

import jax
import numpy as np
import optax
from jaxtyping import Float, Int, Shaped

from lazyjax._checks import check_at_least, check_choice
from lazyjax.certify.certificate import Certificate, Rigor, Verdict
from lazyjax.certify.descent_and_flow import CertifyFn, certified, gradient_flow
from lazyjax.dynamics import Run
from lazyjax.dynamics.losses import square_loss
from lazyjax.dynamics.training.arguments import checked_steps
from lazyjax.dynamics.training.trajectory import Trajectory, Waypoint
from lazyjax.files.results import Storable
from lazyjax.files.tables import STEP, LabelledArrays, Tabular
from lazyjax.nets import Network
from lazyjax.typing import AnyArray, ApplyFn, LossFn, Params

Extent = Literal["certified", "end"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingCertificates(Tabular, Storable):
    """Certificates at steps of a run.

    Attributes:
        steps: Steps at which one was tried, increasing.
        loss: Loss at these steps, of those that the run recorded.
        certificates: From the parameters at these steps.
        params: Parameters at `earliest`, as NumPy arrays; `None` if there is none.
        diverged_at: First step at which the loss was not finite, after which no
            certificate was tried; -1 if there was none.
    """

    _derived: ClassVar = ("earliest",)

    steps: Int[np.ndarray, "num_steps"]
    loss: Float[np.ndarray, "num_steps"]
    certificates: tuple[Certificate, ...]
    params: Params | None
    diverged_at: int

    @property
    def earliest(self) -> int | None:
        """First of `steps` that is certified; `None` if none is."""
        index = self._earliest_index
        return None if index is None else int(self.steps[index])

    @property
    def earliest_loss(self) -> float | None:
        """Loss at `earliest`."""
        index = self._earliest_index
        return None if index is None else float(self.loss[index])

    @property
    def certificate(self) -> Certificate | None:
        """The certificate at `earliest`."""
        index = self._earliest_index
        return None if index is None else self.certificates[index]

    @property
    def margin(self) -> Float[np.ndarray, "num_steps"]:
        """Margins of the certificates."""
        return np.array([found.margin for found in self.certificates])

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """Verdicts of the certificates."""
        return tuple(found.verdict for found in self.certificates)

    @property
    def _earliest_index(self) -> int | None:
        held = (i for i, found in enumerate(self.certificates) if found.is_certified)
        return next(held, None)

    def _labelled(self) -> LabelledArrays:
        certified = np.array([found.is_certified for found in self.certificates])
        columns = {"loss": self.loss, "margin": self.margin, "certified": certified}
        return LabelledArrays(
            labels={STEP: self.steps},
            arrays={name: ((STEP,), array) for name, array in columns.items()},
        )

    def explain(self) -> str:
        """The steps in a table, and the earliest certificate in plain words."""
        lines = [f"{'step':>9} {'loss':>10} {'margin':>10}  verdict"]
        for step, loss, found in zip(
            self.steps, self.loss, self.certificates, strict=True
        ):
            numbers = f"{step:9d} {loss:10.3g} {found.margin:10.3g}"
            lines.append(f"{numbers}  {found.verdict.value}")
        if self.diverged_at >= 0:
            lines.append(f"The loss diverged at step {self.diverged_at}.")
        if self.certificate is None:
            lines.append("No step that was tried is certified.")
        else:
            lines.append(f"Step {self.earliest} is the earliest found.")
            lines.append(self.certificate.explain())
        return "\n".join(lines)


def along(
    network: Network | ApplyFn,
    params: Params,
    x: Shaped[AnyArray, "n *d"],
    y: Float[AnyArray, "n k"],
    *,
    optimizer: optax.GradientTransformation,
    num_steps: int,
    loss_fn: LossFn = square_loss,
    observe_at: Sequence[int] | Int[AnyArray, "num_observed"] | None = None,
    until: Extent = "certified",
    certify_fn: CertifyFn = gradient_flow,
    rigor: Rigor = "proof",
) -> TrainingCertificates:
    r"""Certificates along training, down to the earliest step at which one holds.

    Training is that of `lazyjax.train` on all examples. Certificates are tried at the
    steps of `observe_at`. If one holds, steps between it and the one before, of which
    none did, are bisected: of the step found the certificate holds, of the step just
    before it does not. As margins need not grow, steps between others may be certified
    unnoticed.

    For training that is not by this function, as on minibatches, let `lazyjax.train` keep
    parameters by `lazyjax.dynamics.observers.parameters`, and call `along_run`.

    Args:
        network: As for `certify_fn`.
        params: Where training starts.
        x: Training inputs.
        y: Training targets.
        optimizer: From optax.
        num_steps: Number of updates, at most.
        loss_fn: Loss `(f, y) -> scalar` that is trained on. Certificates are about
            their own, from wherever this one leads.
        observe_at: Increasing steps, from 0 to `num_steps`; `None` means 0, 1, 2, 4 and
            so on, and the last.
        until: "certified" ends training where the first of these certificates holds,
            "end" takes all steps.
        certify_fn: What is certified: `gradient_flow`, `zero_training_error`, or another
            verb that takes such arguments and `rigor`.
        rigor: "proof" accounts for rounding in certificates, "float" does not.

    Returns:
        The certificates. A run that diverges ends there.

    Raises:
        ValueError: If no bounds are known of the network, or arguments do not fit.
        TypeError: If an array is not floating point, or `certify_fn` returns no
            certificate.

    Cost: A certificate for each step tried, of which bisection adds the logarithm of
        the gap, and at most as much training again. It holds the state of training at
        three steps.

    Example:
        >>> import jax, lazyjax, optax
        >>> data = lazyjax.data.sphere(4, 32, key=jax.random.key(0))
        >>> net = lazyjax.nets.mlp(width=64, activation="tanh")
        >>> params = net.init(jax.random.key(1), data.x_train)
        >>> found = along(
        ...     net,
        ...     params,
        ...     data.x_train,
        ...     data.y_train,
        ...     optimizer=optax.sgd(1.0),
        ...     num_steps=100,
        ... )
        >>> 0 < found.earliest < 100, found.certificate.verdict.name
        (True, 'CERTIFIED')
    """
    check_at_least("num_steps", num_steps, 0)
    check_choice("until", until, get_args(Extent))
    if observe_at is None:
        powers = 2 ** np.arange(int(num_steps).bit_length())
        observe_at = np.unique([0, *powers[powers < num_steps], num_steps])
    steps = checked_steps(observe_at, num_steps)
    trajectory = Trajectory(
        network.apply if isinstance(network, Network) else network,
        params,
        x,
        y,
        optimizer=optimizer,
        num_steps=int(num_steps),
        loss_fn=loss_fn,
    )
    attempts = _Attempts(network, x, y, certify_fn, rigor)
    point: Waypoint | None = None
    for step in steps.tolist():
        before, point = point, trajectory.at(step, point)
        if point.diverged_at >= 0:
            break
        is_first = not attempts.has_certified
        if attempts.certify(point) and is_first:
            if before is not None:
                _bisect(trajectory, attempts, before, point)
            if until == "certified":
                break
    assert point is not None
    return attempts.result(point.diverged_at)


def along_run(
    network: Network | ApplyFn,
    run: Run,
    x: Shaped[AnyArray, "n *d"],
    y: Float[AnyArray, "n k"],
    *,
    certify_fn: CertifyFn = gradient_flow,
    rigor: Rigor = "proof",
) -> TrainingCertificates:
    """Certificates from the parameters that a run has kept, at all of its steps.

    Args:
        network: As for `certify_fn`.
        run: From `lazyjax.train` with `observers.parameters` among its observers; not
            mapped.
        x: Training inputs.
        y: Training targets.
        certify_fn: As in `along`.
        rigor: As in `along`.

    Returns:
        The certificates at the steps at which the run was observed, up to where it
        diverged. Losses are those of the run, which may be of minibatches.

    Raises:
        ValueError: If the run has kept no parameters, or is of several under `jax.vmap`;
            no bounds are known of the network, or arguments do not fit.
        TypeError: If an array is not floating point, or `certify_fn` returns no
            certificate.

    Example:
        >>> import jax.numpy as jnp, optax, lazyjax
        >>> from lazyjax.dynamics import observers
        >>> x, y = jnp.eye(2), jnp.array([[1.0], [2.0]])
        >>> linear = lambda w, x: x @ w
        >>> run = lazyjax.train(
        ...     linear,
        ...     jnp.zeros((2, 1)),
        ...     x,
        ...     y,
        ...     optimizer=optax.sgd(0.5),
        ...     num_steps=4,
        ...     observe=[observers.parameters],
        ... )
        >>> along_run(linear, run, x, y).earliest
        0
    """
    if "parameters" not in run.observations:
        raise ValueError(
            "`run` must have kept parameters: train with "
            "`observe=[observers.parameters]`, of `lazyjax.dynamics`; it has "
            f"{', '.join(run.observations) or 'no observations'}."
        )
    if run.loss.ndim != 1:
        raise ValueError(
            f"`run` must be one run; got losses of shape {run.loss.shape}, of several "
            "under `jax.vmap`."
        )
    attempts = _Attempts(network, x, y, certify_fn, rigor)
    diverged_at = int(run.diverged_at)
    for index, step in enumerate(np.asarray(run.observed_at).tolist()):
        if 0 <= diverged_at <= step:
            break
        leaves, structure = jax.tree.flatten(run.observations["parameters"])
        params = structure.unflatten([leaf[index] for leaf in leaves])
        attempts.certify_at(step, params, float(run.loss[step]))
    return attempts.result(diverged_at)


class _Attempts:
    """Certificates so far, by step."""

    def __init__(
        self,
        network: Network | ApplyFn,
        x: AnyArray,
        y: AnyArray,
        certify_fn: CertifyFn,
        rigor: Rigor,
    ) -> None:
        self._problem = network, x, y
        self._certify_fn = certify_fn
        self._rigor: Rigor = rigor
        self._found: dict[int, tuple[float, Certificate]] = {}
        # The earliest step that is certified, and its parameters.
        self._earliest: tuple[int, Params] | None = None

    @property
    def has_certified(self) -> bool:
        """Whether a step is certified."""
        return self._earliest is not None

    def certify(self, point: Waypoint) -> bool:
        """Try a certificate; whether it holds."""
        return self.certify_at(point.step, point.params, point.loss)

    def certify_at(self, step: int, params: Params, loss: float) -> bool:
        """Try a certificate; whether it holds."""
        network, x, y = self._problem
        params = jax.tree.map(np.asarray, params)
        try:
            found = certified(self._certify_fn, network, params, x, y, self._rigor)
        except ValueError as error:
            error.add_note(f"It was raised by the parameters of step {step}.")
            raise
        self._found[step] = loss, found
        if found.is_certified and (self._earliest is None or step < self._earliest[0]):
            self._earliest = step, params
        return found.is_certified

    def result(self, diverged_at: int) -> TrainingCertificates:
        """The certificates, in the order of steps."""
        steps = sorted(self._found)
        return TrainingCertificates(
            steps=np.array(steps, np.int64),
            loss=np.array([self._found[step][0] for step in steps], np.float64),
            certificates=tuple(self._found[step][1] for step in steps),
            params=None if self._earliest is None else self._earliest[1],
            diverged_at=diverged_at,
        )


def _bisect(
    trajectory: Trajectory, attempts: _Attempts, low: Waypoint, high: Waypoint
) -> None:
    """Try steps between one that is not certified and one that is, down to neighbours."""
    while high.step - low.step > 1:
        middle = trajectory.at((low.step + high.step) // 2, low)
        if attempts.certify(middle):
            high = middle
        else:
            low = middle
