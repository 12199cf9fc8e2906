"""The program of one width: it trains the members of one chunk side by side."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float

from lazyjax.dynamics.observers import Observer
from lazyjax.dynamics.training.train import train
from lazyjax.nets import Network
from lazyjax.typing import AnyArray, LossFn, Params

MEMBERS = "members"  # axis of the mesh, if there are several devices

OptimizerFactory = Callable[[Any], optax.GradientTransformation]


class Members(NamedTuple):
    """Members of one width; arrays have an axis of members first."""

    start: Params
    alpha: Float[AnyArray, "*members"]  # output scale
    learning_rate: Float[AnyArray, "*members"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepSettings:
    """What is the same for all members; static and hashable."""

    optimizer: OptimizerFactory  # function of the learning rate
    num_steps: int
    loss_fn: LossFn  # loss $R$ `(f, y) -> scalar`
    center: bool  # whether outputs at the start are subtracted
    observers: tuple[tuple[str, Observer], ...]  # names and functions
    # Steps at which they look; `None` means the first and the last.
    observe_at: tuple[int, ...] | None
    keep_params: bool  # whether trained parameters are returned


def train_member(
    member: Members, x: Array, y: Array, network: Network, settings: SweepSettings
) -> dict[str, Any]:
    r"""What is recorded of one member: $\alpha^{-2} R(\alpha h)$ is minimized."""
    start, alpha = member.start, jnp.asarray(member.alpha)

    def model(params: Params, x: Array) -> Array:
        h = network.apply(params, x)
        if settings.center:
            h = h - network.apply(start, x)
        return alpha.astype(h.dtype) * h

    def scaled_loss(f: Array, y: Array) -> Array:
        loss = settings.loss_fn(f, y)
        return loss / jnp.square(alpha).astype(loss.dtype)

    run = train(
        model,
        start,
        x,
        y,
        optimizer=settings.optimizer(member.learning_rate),
        num_steps=settings.num_steps,
        loss_fn=scaled_loss,
        observe=dict(settings.observers),
        observe_at=settings.observe_at,
    )
    recorded = {
        "loss": run.loss * jnp.square(alpha).astype(run.loss.dtype),
        "diverged_at": run.diverged_at,
        "observed_at": run.observed_at,
        "observations": run.observations,
    }
    return recorded | ({"params": run.params} if settings.keep_params else {})


@functools.partial(jax.jit, static_argnames=("network", "settings", "mesh"))
def train_chunk(
    members: Members,
    x: Array,
    y: Array,
    *,
    network: Network,
    settings: SweepSettings,
    mesh: Mesh | None,
) -> dict[str, Any]:
    """What is recorded of each member of a chunk, along a first axis."""

    def on_device(members: Members, x: Array, y: Array) -> dict[str, Any]:
        train_one = lambda member: train_member(member, x, y, network, settings)
        if members.alpha.shape[0] > 1:
            return jax.vmap(train_one)(members)
        # The program of one member is smaller, and faster, without the axis.
        alone = train_one(jax.tree.map(lambda leaf: leaf[0], members))
        return jax.tree.map(lambda leaf: leaf[None], alone)

    if mesh is None:
        return on_device(members, x, y)
    # Members do not communicate: there is nothing to check across devices.
    return jax.shard_map(
        on_device,
        mesh=mesh,
        in_specs=(PartitionSpec(MEMBERS), PartitionSpec(), PartitionSpec()),
        out_specs=PartitionSpec(MEMBERS),
        check_vma=False,
    )(members, x, y)
