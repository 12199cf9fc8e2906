"""The programs of one bucket: one that trains, and one for each width that initializes."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, UInt32

from lazyjax.dynamics.observers import Observer
from lazyjax.dynamics.training.train import train
from lazyjax.nets import Network, PaddedNetwork
from lazyjax.typing import AnyArray, LossFn, Params

MEMBERS = "members"  # the axis of the mesh, if there are several devices

# Prefixes of what is recorded, by the paths of leaves.
OBSERVATIONS = "observations/"
PARAMS = "params/"

OptimizerFactory = Callable[[Any], optax.GradientTransformation]


class Members(NamedTuple):
    """Some members, as data of a program; arrays have an axis of members first.

    Attributes:
        start: Initial parameters.
        about: What `Bucket.apply` needs beside them.
        alpha: Output scale.
        learning_rate: Learning rate.
    """

    start: Params
    about: Any
    alpha: Float[AnyArray, "*members"]
    learning_rate: Float[AnyArray, "*members"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What is the same for all members; static and hashable.

    Attributes:
        optimizer: Function of the learning rate.
        num_steps: Number of updates.
        loss_fn: Loss $R$ `(f, y) -> scalar`.
        center: Whether outputs at the start are subtracted.
        observers: What looks at the networks.
        observer_names: Their names; `None` means their own.
        observe_at: Steps at which they look; `None` means the first and the last.
        keep_params: Whether trained parameters are returned.
    """

    optimizer: OptimizerFactory
    num_steps: int
    loss_fn: LossFn
    center: bool
    observers: tuple[Observer, ...]
    observer_names: tuple[str, ...] | None
    observe_at: tuple[int, ...] | None
    keep_params: bool

    @property
    def observe(self) -> tuple[Observer, ...] | dict[str, Observer]:
        """The observers as `train` takes them."""
        if self.observer_names is None:
            return self.observers
        return dict(zip(self.observer_names, self.observers, strict=True))


@dataclasses.dataclass(frozen=True)
class Bucket:
    """Networks that share a program, by increasing width."""

    networks: tuple[Network, ...]

    @property
    def widest(self) -> Network:
        """The network whose width the program has."""
        return self.networks[-1]

    @property
    def widths(self) -> tuple[int, ...]:
        """Widths of the networks."""
        return tuple(network.width for network in self.networks)

    def init(self, width_index: int, key: Array, x: AnyArray) -> tuple[Params, Any]:
        """Initial parameters of a member, and what `apply` needs beside them."""
        network = self.networks[width_index]
        if len(self.networks) == 1:
            return network.init(key, x), None
        return PaddedNetwork(self.widest).init(network, key, x)

    def apply(self, params: Params, x: Array, about: Any) -> Array:
        """Outputs of a member."""
        if about is None:
            return self.widest.apply(params, x)
        return PaddedNetwork(self.widest).apply(params, x, about)

    def trim(self, params: Params, width_index: int, x: AnyArray) -> Params:
        """Parameters without padding, of one member of which they may be padded."""
        if len(self.networks) == 1:
            return params
        network = self.networks[width_index]
        shapes = jax.eval_shape(network.init, jax.random.key(0), x)
        return PaddedNetwork(self.widest).trim(params, shapes)


@functools.partial(jax.jit, static_argnames=("bucket", "width_index", "key_impl"))
def init_member(
    key_data: UInt32[AnyArray, "words"],
    x: AnyArray,
    *,
    bucket: Bucket,
    width_index: int,
    key_impl: Any,
) -> tuple[Params, Any]:
    """`Bucket.init` as a program of its own, which may be compiled in little time.

    Random numbers take longer to compile than the loop of training, and little time to
    draw.

    Args:
        key_data: Source of randomness, as words.
        x: Training inputs, whose values are not used.
        bucket: The bucket.
        width_index: Index of the width among its own.
        key_impl: Generator of random numbers that the key is of.

    Returns:
        Initial parameters, and what `Bucket.apply` needs beside them.
    """
    key = jax.random.wrap_key_data(jnp.asarray(key_data), impl=key_impl)
    return bucket.init(width_index, key, x)


def train_member(
    member: Members, x: Array, y: Array, *, bucket: Bucket, settings: Settings
) -> dict[str, Any]:
    r"""What is recorded of one member: $\alpha^{-2} R(\alpha h)$ is minimized.

    Args:
        member: Its coordinates, without an axis.
        x: Training inputs.
        y: Training targets.
        bucket: Its networks.
        settings: The rest.

    Returns:
        Losses $R$, when they ceased to be finite, observations, and parameters.
    """
    alpha = jnp.asarray(member.alpha)
    start, about = member.start, member.about

    def model(params: Params, x: Array) -> Array:
        h = bucket.apply(params, x, about)
        if settings.center:
            h = h - bucket.apply(start, x, about)
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
        observe=settings.observe,
        observe_at=settings.observe_at,
    )
    recorded = {
        "loss": run.loss * jnp.square(alpha).astype(run.loss.dtype),
        "diverged_at": run.diverged_at,
        "observed_at": run.observed_at,
        "observations": run.observations,
    }
    return recorded | ({"params": run.params} if settings.keep_params else {})


@functools.partial(jax.jit, static_argnames=("bucket", "settings", "batch", "mesh"))
def train_members(
    members: Members,
    x: Array,
    y: Array,
    *,
    bucket: Bucket,
    settings: Settings,
    batch: int,
    mesh: Mesh | None,
) -> dict[str, Any]:
    """What is recorded of each member, along a first axis.

    Args:
        members: As many as devices times a multiple of `batch`.
        x: Training inputs.
        y: Training targets.
        bucket: Networks of the members.
        settings: The rest.
        batch: Members side by side on a device; batches follow one another.
        mesh: Devices that share the members; `None` means one device.

    Returns:
        As `train_member`.
    """

    def on_device(members: Members, x: Array, y: Array) -> dict[str, Any]:
        one = functools.partial(train_member, bucket=bucket, settings=settings)
        of_member = lambda member: one(member, x, y)
        size = members.alpha.shape[0]
        if size == 1:
            alone = of_member(jax.tree.map(lambda leaf: leaf[0], members))
            return jax.tree.map(lambda leaf: leaf[None], alone)
        if size == batch:
            return jax.vmap(of_member)(members)
        batch_size = batch if batch > 1 else None
        return jax.lax.map(of_member, members, batch_size=batch_size)

    if mesh is None:
        return on_device(members, x, y)
    # Members do not speak to one another: nothing is to be checked across devices.
    return jax.shard_map(
        on_device,
        mesh=mesh,
        in_specs=(PartitionSpec(MEMBERS), PartitionSpec(), PartitionSpec()),
        out_specs=PartitionSpec(MEMBERS),
        check_vma=False,
    )(members, x, y)
