"""The members of a sweep: where they start, what they are told apart by, their records."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from lazyjax._checks import check_network_output, check_targets
from lazyjax.dynamics.training.fingerprint import functions_of, shapes_digest, versions
from lazyjax.dynamics.training.program_digest import content_digest, program_digest
from lazyjax.files.archive import Arrays
from lazyjax.nets import Network
from lazyjax.sweeps.program import Members, SweepSettings
from lazyjax.sweeps.result import Sweep
from lazyjax.trees import leaf_paths
from lazyjax.typing import AnyArray, Params

History: TypeAlias = dict[int, Arrays]
"""What was recorded of each member by its number, and by name."""


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """The members of a sweep, numbered along its axes, of which the last is fastest."""

    networks: Mapping[int, Network]  # by increasing width
    x: AnyArray
    y: AnyArray
    key: Array  # source of randomness
    axes: dict[str, tuple]  # labels of widths, seeds, scales and learning rates
    settings: SweepSettings  # what is the same for all members

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes."""
        return tuple(map(len, self.axes.values()))

    def members_of(self, width: int) -> np.ndarray:
        """Numbers of the members of one width."""
        per_width = math.prod(self.shape[1:])
        return self.axes["width"].index(width) * per_width + np.arange(per_width)

    def member_bytes(self, width: int) -> int:
        """Bytes of the arrays of one member, as an estimate."""
        # Parameters, gradient and two moments; four arrays of the size of each layer's
        # output; and what is recorded.
        leaves = jax.tree.leaves(self._shapes(width))
        is_image = self.networks[width].architecture.is_convolutional
        num_rows = math.prod(self.x.shape[:-1]) if is_image else self.x.shape[0]
        num_outputs = sum(leaf.shape[-1] for leaf in leaves if len(leaf.shape) > 1)
        size = sum(leaf.size for leaf in leaves)
        numbers = (4 + self.settings.keep_params) * size + 4 * num_rows * num_outputs
        itemsize = max(leaf.dtype.itemsize for leaf in leaves)
        return (numbers + self.settings.num_steps + 1) * itemsize

    def member_key(self, width: int, seed: int) -> Array:
        """Source of randomness of a member, whatever else is in the sweep."""
        return jax.random.fold_in(jax.random.fold_in(self.key, width), seed)

    def select(self, members: np.ndarray, start: Callable[[int], Params]) -> Members:
        """Members of one width, on the host, with `start` of their seeds."""
        _, seeds, alphas, rates = np.unravel_index(members, self.shape)
        starts = {seed: start(seed) for seed in np.unique(seeds).tolist()}
        each_start = [starts[seed] for seed in seeds.tolist()]
        return Members(
            jax.tree.map(lambda *leaves: np.stack(leaves), *each_start),
            np.asarray(self.axes["alpha"], self.y.dtype)[alphas],
            np.asarray(self.axes["learning_rate"], self.y.dtype)[rates],
        )

    def collect(self, history: History) -> Sweep:
        """The result, from the records of all members."""

        def stacked(name: str, members: Any) -> np.ndarray:
            stack = np.stack([history[member][name] for member in members])
            # NumPy's files know no bfloat16: in float32 its values are exact.
            return stack.astype(np.float32) if stack.dtype.kind == "V" else stack

        def along_axes(name: str) -> np.ndarray:
            array = stacked(name, range(math.prod(self.shape)))
            return array.reshape(*self.shape, *array.shape[1:])

        def trained(width: int) -> Params:
            shapes, members = self._shapes(width), self.members_of(width)
            leaves = [stacked(f"params/{path}", members) for path in leaf_paths(shapes)]
            return jax.tree.unflatten(
                jax.tree.structure(shapes),
                [leaf.reshape(*self.shape[1:], *leaf.shape[1:]) for leaf in leaves],
            )

        prefix = "observations/"
        seen = [name for name in history[0] if name.startswith(prefix)]
        keep_params = self.settings.keep_params
        return Sweep(
            axes=dict(self.axes),
            loss=along_axes("loss"),
            diverged_at=along_axes("diverged_at"),
            observed_at=history[0]["observed_at"],
            observations={name.removeprefix(prefix): along_axes(name) for name in seen},
            params={w: trained(w) for w in self.networks} if keep_params else None,
        )

    def fingerprint(self) -> dict[str, Any]:
        """Everything that results depend on, by argument of `sweep`."""
        settings = self.settings
        widest = self.networks[self.axes["width"][-1]]
        params = self._shapes(widest.width)
        outputs = jax.eval_shape(widest.apply, params, self.x)
        check_network_output(outputs, self.x)
        check_targets("y", self.y, *outputs.shape)
        functions = functions_of(
            widest.apply,
            settings.loss_fn,
            lambda: settings.optimizer(jnp.ones((), self.y.dtype)),
            dict(settings.observers),
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
        }

    def _network_digest(self, network: Network) -> str:
        """Digest of a network, with its start and its gradient."""

        def gradient(key: Array, x: Any) -> Any:
            params = network.init(key, x)
            f, pullback = jax.vjp(lambda p: network.apply(p, x), params)
            return params, f, pullback(f)

        return program_digest(gradient, self.key, self.x)

    def _shapes(self, width: int) -> Params:
        return jax.eval_shape(self.networks[width].init, self.key, self.x)
