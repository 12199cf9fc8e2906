"""The work of a sweep: which members, in which programs and calls, and their records."""

import dataclasses
import functools
import math
import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import (
    Mesh,
    NamedSharding,
    PartitionSpec,
    Sharding,
    SingleDeviceSharding,
)
from jaxtyping import Array

from lazyjax._checks import check_network_output, check_targets
from lazyjax.dynamics.training.fingerprint import (
    functions_of,
    shapes_digest,
    versions,
)
from lazyjax.dynamics.training.problem import named_observers
from lazyjax.dynamics.training.program_digest import content_digest, program_digest
from lazyjax.files.writing import check_folder
from lazyjax.nets import Network, can_be_padded
from lazyjax.sweeps.checkpoint import Checkpoint
from lazyjax.sweeps.padding import observer_ignores_padding, optimizer_ignores_padding
from lazyjax.sweeps.plan import (
    Calls,
    CostModel,
    MemberCost,
    choose_buckets,
    member_cost,
    plan_calls,
)
from lazyjax.sweeps.program import (
    MEMBERS,
    OBSERVATIONS,
    PARAMS,
    Bucket,
    Members,
    Settings,
    init_member,
    train_members,
)
from lazyjax.sweeps.progress import progress_bar
from lazyjax.sweeps.records import Records
from lazyjax.sweeps.result import AXES, Sweep
from lazyjax.sweeps.run import Job, run_jobs
from lazyjax.trees import leaf_paths
from lazyjax.typing import AnyArray

# Half the time of compiling what initializes, which then runs for milliseconds more.
_QUICK = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """A sweep that has been checked; its members are numbered along the axes.

    Attributes:
        networks: By width.
        x: Training inputs.
        y: Training targets.
        key: Source of randomness.
        axes: Labels of widths, seeds, scales and learning rates.
        settings: What is the same for all members.
        devices: What to run on.
        memory: Bytes for programs, on each device.
        cost_model: What buckets and calls are chosen by.
    """

    networks: dict[int, Network]
    x: AnyArray
    y: AnyArray
    key: Array
    axes: dict[str, tuple]
    settings: Settings
    devices: tuple[jax.Device, ...]  # pyright: ignore[reportInvalidTypeForm]
    memory: int
    cost_model: CostModel

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes."""
        return tuple(map(len, self.axes.values()))

    @property
    def per_width(self) -> int:
        """Members of each width."""
        return math.prod(self.shape[1:])

    @functools.cached_property
    def costs(self) -> dict[int, MemberCost]:
        """Of a member of each width, in a program of that width."""
        num_losses = self.settings.num_steps + 1
        return {
            width: member_cost(
                network,
                self.x,
                num_losses=num_losses,
                keep_params=self.settings.keep_params,
            )
            for width, network in self.networks.items()
        }

    @property
    def num_workers(self) -> int:
        """Calls at a time: on a processor, one for each core."""
        if self.devices[0].platform != "cpu" or len(self.devices) > 1:
            return 1
        if hasattr(os, "sched_getaffinity"):
            return len(os.sched_getaffinity(0))
        return os.cpu_count() or 1

    def buckets(self) -> list[tuple[int, ...]]:
        """Widths that share a program."""
        widths = self.axes["width"]
        may_be_padded = (
            all(map(can_be_padded, self.networks.values()))
            and all(map(observer_ignores_padding, self.settings.observers))
            and len({net.architecture for net in self.networks.values()}) == 1
            and len(widths) > 1
            and optimizer_ignores_padding(self.settings.optimizer)
        )
        if not may_be_padded:
            return [(width,) for width in widths]
        model = self.cost_model
        steps = self.per_width * self.settings.num_steps / len(self.devices)
        seconds = [
            steps * (model.step_seconds + self.costs[w].flops / model.flops_per_second)
            for w in widths
        ]
        return choose_buckets(widths, seconds, model.compile_seconds)

    def members(
        self,
        indices: np.ndarray,
        widths: tuple[int, ...],
        inits: Sequence[jax.stages.Compiled],
    ) -> Members:
        """Members by number, for the program of a bucket.

        Args:
            indices: Their numbers.
            widths: Of the bucket.
            inits: What draws the start of a member, for each width.

        Returns:
            The members, on the host; members that share a start draw it once.
        """
        at = dict(zip(AXES, np.unravel_index(indices, self.shape), strict=True))
        places = list(zip(at["width"].tolist(), at["seed"].tolist(), strict=True))
        starts = {}
        for width, seed in sorted(set(places)):
            init = inits[widths.index(self.axes["width"][width])]
            starts[width, seed] = jax.device_get(
                init(self._placed_key(width, seed), self._placed_data[0])
            )
        start, about = jax.tree.map(
            lambda *leaves: np.stack(leaves), *(starts[place] for place in places)
        )
        alpha, rate = (
            np.asarray(self.axes[name], self.y.dtype)[at[name]] for name in AXES[2:]
        )
        return Members(start=start, about=about, alpha=alpha, learning_rate=rate)

    def _placed_key(self, width: int, seed: int) -> Array:
        return jax.device_put(self.key_data[width, seed], self._shardings[1])

    @functools.cached_property
    def key_data(self) -> np.ndarray:
        """Words of the key of each width and seed."""

        @jax.jit
        def words(key: Array, widths: Array, seeds: Array) -> Array:
            keys = jax.vmap(lambda w: jax.random.fold_in(key, w))(widths)
            of_seed = lambda key: jax.vmap(lambda s: jax.random.fold_in(key, s))(seeds)
            return jax.random.key_data(jax.vmap(of_seed)(keys))

        widths, seeds = (np.asarray(self.axes[a], np.int32) for a in ("width", "seed"))
        return np.asarray(words(self.key, widths, seeds))

    def fingerprint(self, groups: Sequence[Sequence[int]]) -> dict[str, Any]:
        """Everything that results depend on, by argument of `sweep`."""
        settings = self.settings
        widest = self.networks[self.axes["width"][-1]]
        params = jax.eval_shape(widest.init, self.key, self.x)
        outputs = jax.eval_shape(widest.apply, params, self.x)
        check_network_output(outputs, num_examples=self.x.shape[0])
        check_targets("y", self.y, *outputs.shape)
        functions = functions_of(
            widest.apply,
            settings.loss_fn,
            lambda: settings.optimizer(jnp.ones((), self.y.dtype)),
            dict(named_observers(settings.observe)),
            params,
            self.x,
            self.y,
        )
        networks = [self._network_digest(net) for net in self.networks.values()]
        return {
            "versions": versions(),
            "shapes": shapes_digest(self.x, self.y),
            "x": content_digest(self.x),
            "y": content_digest(self.y),
            "key": content_digest(self.key),
            "network": content_digest(networks),
            **{k: functions[k] for k in ("loss_fn", "optimizer", "observe")},
            "widths": self.axes["width"],
            "num_seeds": len(self.axes["seed"]),
            "alphas": self.axes["alpha"],
            "learning_rates": self.axes["learning_rate"],
            "num_steps": settings.num_steps,
            "center": settings.center,
            "observe_at": settings.observe_at,
            "keep_params": settings.keep_params,
            "buckets": groups,
        }

    def _network_digest(self, network: Network) -> str:
        """Digest of a network, with its start and its gradient."""

        def gradient(key: Array, x: Array) -> Any:
            params = network.init(key, x)
            f, pullback = jax.vjp(lambda p: network.apply(p, x), params)
            return params, f, pullback(f)

        return program_digest(gradient, self.key, self.x)

    def run(
        self,
        groups: Sequence[tuple[int, ...]],
        folder: Checkpoint | None,
        *,
        progress: bool,
    ) -> Sweep:
        """The result, of what is kept in `folder` and of what it lacks."""
        records = Records(math.prod(self.shape))
        if folder is not None:
            for members, arrays in folder.read():
                records.put(members, arrays)
        jobs = [self.job(group, records) for group in groups]
        if folder is not None and any(job.calls for job in jobs):
            check_folder("checkpoint", folder.folder)
        cost_of = np.repeat(
            [self.costs[w].flops for w in self.axes["width"]], self.per_width
        )
        jobs = sorted(
            (job for job in jobs if job.calls),
            key=lambda job: -sum(cost_of[call].sum() for call in job.calls),
        )
        total = sum((cost_of[call].sum() for job in jobs for call in job.calls), 0.0)
        count = sum(len(call) for job in jobs for call in job.calls)
        with progress_bar(progress, total, count) as advance:
            results = run_jobs(jobs, memory=self.memory, num_workers=self.num_workers)
            for members, arrays in results:
                records.put(members, arrays)
                if folder is not None:
                    folder.write(members, arrays)
                advance(cost_of[members].sum(), len(members))
        return self.gathered(groups, records)

    def job(self, group: tuple[int, ...], records: Records) -> Job:
        """The calls of a bucket that `records` lacks."""
        width_at = np.isin(self.axes["width"], group)
        members = np.flatnonzero(np.repeat(width_at, self.per_width))
        calls = plan_calls(
            len(members),
            self.costs[group[-1]],
            num_steps=self.settings.num_steps,
            model=self.cost_model,
            memory=self.memory // self.num_workers,
            num_devices=len(self.devices),
            num_workers=self.num_workers,
        )
        return self._job(group, members, calls, records)

    def _job(
        self,
        group: tuple[int, ...],
        members: np.ndarray,
        calls: Calls,
        records: Records,
    ) -> Job:
        left = [call for call in calls.split(members) if not records.has(call)]

        bucket = Bucket(tuple(self.networks[width] for width in group))

        def arguments(
            call: np.ndarray, inits: list[jax.stages.Compiled]
        ) -> tuple[Any, ...]:
            data = self.members(call, group, inits)
            return jax.device_put(data, self._shardings[0]), *self._placed_data

        def lower() -> tuple[jax.stages.Lowered, list[jax.stages.Lowered]]:
            inits = [
                init_member.lower(
                    self._placed_key(0, 0),
                    self._placed_data[0],
                    bucket=bucket,
                    width_index=index,
                    key_impl=jax.random.key_impl(self.key),
                )
                for index in range(len(group))
            ]
            number: Any = jax.ShapeDtypeStruct((), self.y.dtype)
            start, about = inits[-1].out_info
            members = jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(
                    (calls.size, *leaf.shape), leaf.dtype, sharding=self._shardings[0]
                ),
                Members(start, about, number, number),
            )
            program = train_members.lower(
                members,
                *self._placed_data,
                bucket=bucket,
                settings=self.settings,
                batch=calls.batch,
                mesh=self._mesh,
            )
            return program, inits

        def smaller(share: float) -> Job | None:
            fewer = calls.smaller(share)
            if fewer is None:
                return None
            return self._job(group, members, fewer, records)

        return Job(
            lower=lower,
            arguments=arguments,
            options=_QUICK if self.devices[0].platform == "cpu" else None,
            calls=left,
            smaller=smaller,
        )

    @functools.cached_property
    def _mesh(self) -> Mesh | None:
        if len(self.devices) == 1:
            return None
        return Mesh(np.array(self.devices), (MEMBERS,))

    @functools.cached_property
    def _shardings(self) -> tuple[Sharding, Sharding]:
        """Of what each member has, and of what all share."""
        if self._mesh is None:
            alone = SingleDeviceSharding(self.devices[0])
            return alone, alone
        return (
            NamedSharding(self._mesh, PartitionSpec(MEMBERS)),
            NamedSharding(self._mesh, PartitionSpec()),
        )

    @functools.cached_property
    def _placed_data(self) -> tuple[Array, Array]:
        return jax.device_put((self.x, self.y), self._shardings[1])

    def gathered(self, groups: Sequence[tuple[int, ...]], records: Records) -> Sweep:
        """All records, along the axes."""
        arrays = {
            name: records.stacked(name).reshape(*self.shape, *shape)
            for name, shape in records.shapes().items()
        }
        observed_at = arrays.pop("observed_at")
        return Sweep(
            axes=dict(self.axes),
            loss=arrays.pop("loss"),
            diverged_at=arrays.pop("diverged_at"),
            observed_at=observed_at.reshape(-1, observed_at.shape[-1])[0],
            observations={k.removeprefix(OBSERVATIONS): v for k, v in arrays.items()},
            params=self._params(groups, records) if self.settings.keep_params else None,
        )

    def _params(
        self, groups: Sequence[tuple[int, ...]], records: Records
    ) -> dict[int, Any]:
        """Trained parameters by width, without padding."""
        found = {}
        for group in groups:
            bucket = Bucket(tuple(self.networks[width] for width in group))
            for index, width in enumerate(group):
                first = self.axes["width"].index(width) * self.per_width
                members = range(first, first + self.per_width)
                shapes = jax.eval_shape(bucket.widest.init, jax.random.key(0), self.x)
                leaves = [
                    records.stacked(PARAMS + path, members)
                    for path in leaf_paths(shapes)
                ]
                padded = jax.tree.unflatten(jax.tree.structure(shapes), leaves)
                found[width] = jax.tree.map(
                    lambda leaf: leaf.reshape(*self.shape[1:], *leaf.shape[1:]),
                    bucket.trim(padded, index, self.x),
                )
        return {width: found[width] for width in self.axes["width"]}
