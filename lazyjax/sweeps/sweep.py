r"""Training over widths, seeds, output scales and learning rates, in few programs."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import jax
import numpy as np
import optax
from jaxtyping import Int, Shaped

from lazyjax._brief import brief
from lazyjax._checks import (
    check_at_least,
    check_batch,
    check_flag,
    check_floating,
    check_function,
    check_key,
    checked_bytes,
    checked_path,
    known_numbers,
)
from lazyjax._models import model_hint
from lazyjax.architecture import Architecture
from lazyjax.callables.static import HashableCallable
from lazyjax.dynamics.losses import square_loss
from lazyjax.dynamics.observers import Observer
from lazyjax.dynamics.problem import checked_targets, loss_dtype, named_observers
from lazyjax.dynamics.training.arguments import checked_steps
from lazyjax.nets import Network, build
from lazyjax.progress import Progress, progress_reporter
from lazyjax.sweeps.checkpoint import Checkpoint, check_checkpoint
from lazyjax.sweeps.ensemble import Ensemble
from lazyjax.sweeps.program import OptimizerFactory, SweepSettings
from lazyjax.sweeps.result import Sweep
from lazyjax.sweeps.run import Execution
from lazyjax.typing import AnyArray, LossFn, RandomKey, Targets

Numbers: TypeAlias = Sequence[int | float] | Shaped[AnyArray, "_"]


def sweep(
    network: Architecture | Network | Callable[..., Network],
    x: Shaped[AnyArray, "n *d"],
    y: Targets,
    *,
    widths: Sequence[int],
    num_seeds: int,
    key: RandomKey,
    learning_rates: Numbers,
    num_steps: int,
    alphas: Numbers = (1.0,),
    optimizer: OptimizerFactory = optax.sgd,
    loss_fn: LossFn = square_loss,
    center: bool = False,
    observe: Sequence[Observer] | Mapping[str, Observer] = (),
    observe_at: Sequence[int] | Int[AnyArray, "num_observed"] | None = None,
    keep_params: bool = False,
    memory: str | int = "4GiB",
    devices: Sequence[jax.Device] | None = None,  # pyright: ignore[reportInvalidTypeForm]
    chunk_size: int | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    progress: bool | Progress = False,
) -> Sweep:
    r"""Training runs of networks $h$ over widths, seeds, output scales and learning rates.

    Each member minimizes $\alpha^{-2} R(\alpha h)$, from its own initialization, as
    `lazyjax.train` of the network alone does, to rounding. Its key is
    `fold_in(fold_in(key, width), seed)`, so that it does not depend on what else is in
    the sweep.

    Each width has one compiled program, which trains a chunk of members side by side.
    The cores of a processor train several chunks at the same time; several devices
    share each chunk.

    Args:
        network: The architecture; a network of it; or a function of `width`, such as
            `functools.partial(lazyjax.nets.mlp, depth=2)`.
        x: Training inputs.
        y: Training targets, in the dtype of the network's outputs.
        widths: Increasing widths.
        num_seeds: Networks of each width, with seeds 0, 1, and so on.
        key: Source of all randomness, from `jax.random.key`.
        learning_rates: Arguments of `optimizer`.
        num_steps: Number of updates.
        alphas: Output scales $\alpha$.
        optimizer: Function of the learning rate, from optax.
        loss_fn: The loss $R$, `(f, y) -> scalar`.
        center: Whether $h(w_0)$ is subtracted from $h$. With a symmetrized network it
            is zero by itself, and cheaper.
        observe: Observers of the network $\alpha h$, whose kernel is $\alpha^2$ times
            that of $h$.
        observe_at: Increasing steps at which they look; `None` means the first and the
            last.
        keep_params: Whether to return trained parameters.
        memory: Bytes that the programs may use on each device, such as "4GiB", as far
            as the compiler foresees them; chunks are smaller if they do not fit.
            Results are kept on the host.
        devices: What to run on; `None` means all devices of this process.
        chunk_size: Largest number of members of a chunk; `None` means as many as fit
            into the cache of a core, or into half the memory of an accelerator.
        checkpoint: Folder to write the results of each chunk to, as it is done.
        resume: Whether to go on with what the folder holds. What is done is not
            repeated, and the whole is the same to the bit on the same machine.
        progress: Whether to show a bar, on standard error; or a function of the share
            that is done, from 0 to 1, and what comes next.

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
    for name, flag in {
        "center": center,
        "keep_params": keep_params,
        "resume": resume,
    }.items():
        check_flag(name, flag)
    if checkpoint is not None:
        check_checkpoint(checked_path("checkpoint", checkpoint), resume=resume)
    elif resume:
        raise ValueError("`resume` needs `checkpoint`, the folder to go on with.")
    axes = _checked_axes(widths, num_seeds, alphas, learning_rates)
    networks = {width: _network_of(network, width) for width in axes["width"]}
    check_floating("x", x)
    check_batch("x", x)
    num_outputs = networks[axes["width"][-1]].architecture.num_outputs
    f = jax.ShapeDtypeStruct((x.shape[0], num_outputs), x.dtype)
    y = checked_targets(y, f.shape, f.dtype, loss_fn)
    check_function("loss_fn", loss_fn, "(f, y) -> scalar")
    loss_dtype(loss_fn, f, y)
    check_at_least("num_steps", num_steps, 0)
    check_key("key", key)
    if not callable(optimizer):
        raise TypeError(
            "`optimizer` must be a function of the learning rate, such as `optax.sgd` "
            f"or `functools.partial(optax.sgd, momentum=0.9)`; got {brief(optimizer)}."
        )
    if chunk_size is not None:
        check_at_least("chunk_size", chunk_size, 1)
    if observe_at is not None:
        observe_at = tuple(checked_steps(observe_at, num_steps).tolist())
    settings = SweepSettings(
        optimizer=HashableCallable(optimizer),
        num_steps=int(num_steps),
        loss_fn=HashableCallable(loss_fn),
        center=center,
        observers=named_observers(observe),
        observe_at=observe_at,
        keep_params=keep_params,
    )
    ensemble = Ensemble(networks, x, y, key, axes, settings)
    devices = _checked_devices(devices)
    execution = Execution(
        ensemble, devices, checked_bytes("memory", memory), chunk_size
    )
    folder = None
    if checkpoint is not None:
        folder = Checkpoint(Path(checkpoint), ensemble.fingerprint())
    with progress_reporter(progress, "sweep") as report:
        return execution.run(folder, report)


def _checked_axes(
    widths: Sequence[int], num_seeds: int, alphas: Numbers, learning_rates: Numbers
) -> dict[str, tuple]:
    if not isinstance(widths, Sequence | np.ndarray | jax.Array):
        raise TypeError(
            f"`widths` must be a sequence of widths, such as [64, 256]; got "
            f"{brief(widths)}."
        )
    for width in widths:
        check_at_least("widths", width, 1)
    if not len(widths) or any(a >= b for a, b in itertools.pairwise(widths)):
        raise ValueError(
            f"`widths` must be one or more increasing widths; got {brief(widths)}."
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
        numbers = known_numbers(argument, values).astype(np.float64)
        are_positive = ((numbers > 0) & np.isfinite(numbers)).all()
        are_different = np.unique(numbers).size == numbers.size
        if numbers.ndim != 1 or not (numbers.size and are_positive and are_different):
            raise ValueError(
                f"`{argument}` must be one or more different, positive numbers; got "
                f"{brief(values)}."
            )
        axes[name] = tuple(numbers.tolist())
    return axes


def _checked_devices(devices: object) -> tuple[jax.Device, ...]:  # pyright: ignore[reportInvalidTypeForm]
    if devices is None:
        return tuple(jax.local_devices())
    found = tuple(devices) if isinstance(devices, Sequence) else ()
    if not found or not all(isinstance(device, jax.Device) for device in found):
        raise TypeError(
            "`devices` must be one or more devices, as of `jax.local_devices()`; got "
            f"{brief(devices)}."
        )
    return found


def _network_of(
    network: Architecture | Network | Callable[..., Network], width: int
) -> Network:
    if isinstance(network, Network):
        network = network.architecture
    if isinstance(network, Architecture):
        return build(network, width=width)
    is_model = bool(model_hint(network))
    if not callable(network) or is_model:
        hint = " Train models of other libraries one by one." if is_model else ""
        raise TypeError(
            "`network` must be an architecture, a network, or a function of `width`; "
            f"got {brief(network)}.{hint}"
        )
    made = network(width=width)
    if not isinstance(made, Network) or made.width != width:
        raise TypeError(
            f"`network` must return a `lazyjax.Network` of width {width}; got "
            f"{brief(made)}."
        )
    return made
