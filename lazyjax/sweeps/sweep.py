r"""Training over widths, seeds, output scales and learning rates, in few programs."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key, Shaped

from lazyjax._checks import check_at_least, check_batch, check_finite, check_floating
from lazyjax.architecture import Architecture
from lazyjax.callables.static import HashableCallable
from lazyjax.dynamics.losses import square_loss
from lazyjax.dynamics.observers import Observer
from lazyjax.nets import Network, build
from lazyjax.sweeps.checkpoint import Checkpoint, check_checkpoint
from lazyjax.sweeps.plan import (
    CostModel,
    grouped,
    parse_memory,
)
from lazyjax.sweeps.program import OptimizerFactory, Settings
from lazyjax.sweeps.result import Sweep
from lazyjax.sweeps.work import Work
from lazyjax.typing import AnyArray, LossFn

Numbers: TypeAlias = Sequence[int | float] | Shaped[AnyArray, "num"]


def sweep(
    network: Architecture | Network | Callable[..., Network],
    x: Shaped[AnyArray, "n *d"],
    y: Float[AnyArray, "n k"],
    *,
    widths: Sequence[int],
    num_seeds: int,
    key: Key[Array, ""],
    learning_rates: Numbers,
    num_steps: int,
    alphas: Numbers = (1.0,),
    optimizer: OptimizerFactory = optax.sgd,
    loss_fn: LossFn = square_loss,
    center: bool = False,
    observe: Sequence[Observer] | Mapping[str, Observer] = (),
    observe_at: Sequence[int] | Int[AnyArray, "num_observed"] | None = None,
    keep_params: bool = False,
    buckets: Sequence[Sequence[int]] | None = None,
    memory: str | int = "4GiB",
    devices: Sequence[jax.Device] | None = None,  # pyright: ignore[reportInvalidTypeForm]
    cost_model: CostModel | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    progress: bool = False,
) -> Sweep:
    r"""Training runs of networks $h$ over widths, seeds, output scales and learning rates.

    Each member minimizes $\alpha^{-2} R(\alpha h)$, from its own initialization, as
    `lazyjax.train` of the network alone does, to rounding. Its key is
    `fold_in(fold_in(key, width), seed)`, so that it does not depend on what else is in
    the sweep. Networks of neighbouring widths share one compiled program where that
    saves time: they are padded with zeros, which stay zero.

    Several calls of programs run at the same time on the cores of a processor; on
    several devices, each call is shared by all of them.

    Args:
        network: The architecture; a network of it; or a function of `width`, such as
            `functools.partial(lazyjax.nets.mlp, depth=2)`. Networks that are not of
            `lazyjax.nets` have a program for each width.
        x: Training inputs.
        y: Training targets, in the dtype of the network's outputs.
        widths: Increasing widths.
        num_seeds: Networks of each width, with seeds 0, 1, and so on.
        key: Source of all randomness, from `jax.random.key`.
        learning_rates: Arguments of `optimizer`.
        num_steps: Number of updates.
        alphas: Output scales $\alpha$.
        optimizer: Function of the learning rate, from optax. One that treats parameters
            by their shape (by noise, for instance) has a program for each width.
        loss_fn: The loss $R$, `(f, y) -> scalar`.
        center: Whether $h(w_0)$ is subtracted from $h$. With a symmetrized network it
            is zero by itself, and cheaper.
        observe: Observers of the network $\alpha h$, whose kernel is $\alpha^2$ times
            that of $h$. Those that read the parameters themselves see padding, so
            there is a program for each width unless they are known not to.
        observe_at: Increasing steps at which they look; `None` means the first and the
            last.
        keep_params: Whether to return trained parameters.
        buckets: Widths that share a program, if not those that are estimated to be
            quickest.
        memory: Bytes that the programs may use on each device, such as "4GiB", as far
            as the compiler foresees them; fewer members are trained together if they
            do not fit. Results are kept on the host.
        devices: What to run on; `None` means all devices of this process.
        cost_model: Estimates that buckets and calls are chosen by; `None` means those
            for the platform.
        checkpoint: Folder to write results to as they are done.
        resume: Whether to go on with what the folder holds. What is done is not
            repeated, and the whole is the same to the bit on the same machine.
        progress: Whether to show a bar, on standard error.

    Returns:
        Losses, observations and parameters, with axes for width, seed, alpha and
        learning rate. Divergence is a result (`diverged_at`), not an error.

    Raises:
        ValueError: If an argument is out of range or of the wrong shape, data are not
            finite, members do not fit into memory, or a checkpoint is of another sweep,
            holds a damaged file, or cannot be written to.
        TypeError: If an argument is not of its kind.

    Example:
        >>> import jax, jax.numpy as jnp, lazyjax
        >>> result = sweep(
        ...     lazyjax.Architecture(depth=1, symmetrized=True),
        ...     jnp.eye(2),
        ...     jnp.array([[1.0], [-1.0]]),
        ...     widths=[16, 32],
        ...     num_seeds=3,
        ...     key=jax.random.key(0),
        ...     alphas=[1.0, 100.0],
        ...     learning_rates=[0.5],
        ...     num_steps=10,
        ... )
        >>> result.sel(alpha=100.0, learning_rate=0.5).loss.shape
        (2, 3, 11)
        >>> result.mean().count[..., 0].tolist()  # seeds, at each width and alpha
        [[3, 3], [3, 3]]

    References:
        Chizat, Oyallon and Bach (2019), arXiv:1812.07956, for the scale $\alpha$
        (section not checked).
    """
    if checkpoint is not None:
        check_checkpoint(Path(checkpoint), resume=resume)
    elif resume:
        raise ValueError("`resume` needs `checkpoint`, the folder to go on with.")
    axes = _checked_axes(widths, num_seeds, alphas, learning_rates)
    networks = {width: _network_of(network, width) for width in axes["width"]}
    check_batch("x", x)
    check_floating("y", y)
    check_finite("y", y)
    check_at_least("num_steps", num_steps, 0)
    if not jnp.issubdtype(getattr(key, "dtype", object), jax.dtypes.prng_key):
        raise TypeError(f"`key` must come from `jax.random.key`; got {key!r}.")
    if not callable(optimizer):
        raise TypeError(
            "`optimizer` must be a function of the learning rate, such as `optax.sgd` "
            f"or `functools.partial(optax.sgd, momentum=0.9)`; got {optimizer!r}."
        )
    named = isinstance(observe, Mapping)
    if not named and not isinstance(observe, Sequence):
        raise TypeError(
            "`observe` must be a sequence of observers or a mapping from names to "
            f"them; got {observe!r}."
        )
    settings = Settings(
        optimizer=HashableCallable(optimizer),
        num_steps=num_steps,
        loss_fn=HashableCallable(loss_fn),
        center=center,
        observers=tuple(map(HashableCallable, observe.values() if named else observe)),
        observer_names=tuple(observe) if named else None,
        observe_at=None
        if observe_at is None
        else tuple(np.asarray(observe_at).tolist()),
        keep_params=keep_params,
    )
    devices = tuple(jax.local_devices() if devices is None else devices)
    work = Work(
        networks=networks,
        x=x,
        y=y,
        key=key,
        axes=axes,
        settings=settings,
        devices=devices,
        memory=parse_memory(memory),
        cost_model=cost_model or CostModel.of_platform(devices[0].platform),
    )
    groups = work.buckets() if buckets is None else grouped(axes["width"], buckets)
    folder = None
    if checkpoint is not None:
        folder = Checkpoint(Path(checkpoint), work.fingerprint(groups))
    return work.run(groups, folder, progress=progress)


def _checked_axes(
    widths: Sequence[int],
    num_seeds: int,
    alphas: Numbers,
    learning_rates: Numbers,
) -> dict[str, tuple]:
    for width in widths:
        check_at_least("widths", width, 1)
    if not len(widths) or any(a >= b for a, b in itertools.pairwise(widths)):
        raise ValueError(
            f"`widths` must be one or more increasing widths; got {widths}."
        )
    check_at_least("num_seeds", num_seeds, 1)
    axes: dict[str, tuple] = {
        "width": tuple(map(int, widths)),
        "seed": tuple(range(num_seeds)),
    }
    for name, argument, values in (
        ("alpha", "alphas", alphas),
        ("learning_rate", "learning_rates", learning_rates),
    ):
        numbers = np.asarray(values, np.float64)
        is_good = numbers.ndim == 1 and numbers.size and np.isfinite(numbers).all()
        if (
            not is_good
            or (numbers <= 0).any()
            or np.unique(numbers).size < numbers.size
        ):
            raise ValueError(
                f"`{argument}` must be one or more different, positive numbers; got "
                f"{values}."
            )
        axes[name] = tuple(numbers.tolist())
    return axes


def _network_of(
    network: Architecture | Network | Callable[..., Network], width: int
) -> Network:
    if isinstance(network, Network):
        network = network.architecture
    if isinstance(network, Architecture):
        return build(network, width=width)
    if not callable(network):
        raise TypeError(
            "`network` must be an architecture, a network, or a function of `width`; "
            f"got {network!r}."
        )
    made = network(width=width)
    if not isinstance(made, Network) or made.width != width:
        raise TypeError(
            f"`network` must return a `lazyjax.Network` of width {width}; got {made!r}."
        )
    return made
