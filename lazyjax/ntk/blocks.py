r"""Kernels of several functions of the same parameters, block by block."""

import dataclasses
import itertools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lazyjax._brief import brief
from lazyjax._checks import check_choice
from lazyjax.files.results import Storable
from lazyjax.linalg import eigvalsh
from lazyjax.ntk.methods.several import Pair, PairsProgram, run_pairs
from lazyjax.ntk.requests.placement import in_automatic_axes
from lazyjax.typing import ApplyFn, Inputs, Method, Params


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class KernelBlocks(Storable):
    r"""One kernel of several functions: a block for each pair of them.

    `blocks["residual", "boundary"]` is the kernel
    $\langle \nabla r_a(x_i), \nabla b_b(x'_j) \rangle$ of two functions, of shape
    `(n_r, n_b, k_r, k_b)`; with the names exchanged it is the same, transposed.

    Attributes:
        names: Of the functions, in order.
        kernels: Of all pairs on and above the diagonal, row by row.

    Example:
        >>> import jax.numpy as jnp, lazyjax
        >>> value = lambda w, x: x @ w
        >>> slope = lambda w, x: jnp.ones((x.shape[0], 1)) * w
        >>> w, x = jnp.ones((1, 1)), jnp.array([[2.0], [3.0]])
        >>> blocks = lazyjax.ntk_blocks({"value": (value, x), "slope": (slope, x)}, w)
        >>> blocks["value", "slope"].shape, blocks.matrix().shape
        ((2, 2, 1, 1), (4, 4))
        >>> {name: round(float(weight), 3) for name, weight in blocks.balance().items()}
        {'value': 1.154, 'slope': 7.5}
    """

    names: tuple[str, ...] = dataclasses.field(metadata={"static": True})
    kernels: tuple[Float[Array, "_ _ _ _"], ...]

    def __getitem__(self, pair: tuple[str, str]) -> Float[Array, "n1 n2 k1 k2"]:
        """Kernel of two functions, by their names."""
        if not isinstance(pair, tuple) or len(pair) != 2 or {*pair} - {*self.names}:
            raise KeyError(
                f"no block {brief(pair)}: give a pair of names, of "
                f"{', '.join(map(repr, self.names))}."
            )
        i, j = (self.names.index(name) for name in pair)
        if i > j:
            return self[pair[1], pair[0]].transpose(1, 0, 3, 2)
        return self.kernels[_pairs(len(self.names)).index((i, j))]

    @property
    def sizes(self) -> dict[str, int]:
        """Rows of the matrix for each function: its examples times its outputs."""
        blocks = ((name, self[name, name]) for name in self.names)
        return {name: block.shape[0] * block.shape[2] for name, block in blocks}

    def matrix(self) -> Float[Array, "rows rows"]:
        """The whole symmetric matrix: functions in order, for each the rows of examples."""
        return in_automatic_axes(lambda _, blocks: blocks._matrix(), (self,))

    def _matrix(self) -> Array:
        def flat(one: str, two: str) -> Array:
            block = self[one, two]
            n1, n2, k1, k2 = block.shape
            return block.transpose(0, 2, 1, 3).reshape(n1 * k1, n2 * k2)

        return jnp.block([[flat(a, b) for b in self.names] for a in self.names])

    def spectrum(self) -> Float[Array, " rows"]:
        """Eigenvalues of the matrix, ascending."""
        return eigvalsh(self.matrix())

    def traces(self) -> dict[str, Float[Array, ""]]:
        """Traces of the blocks of each function with itself."""
        return {name: jnp.einsum("iiaa->", self[name, name]) for name in self.names}

    def balance(self, *, mean: bool = False) -> dict[str, Float[Array, ""]]:
        r"""Weights of losses that make all functions train at one average rate.

        The loss of each function is multiplied by $\operatorname{tr} K / \operatorname{tr}
        K_{aa}$, so that eigenvalues of all weighted blocks have equal sums.

        Args:
            mean: Whether losses are means over examples and outputs, and not sums: then a
                weight is multiplied by the function's share of all rows, for a mean
                divides the block by their number. Equal numbers give weights in the
                same proportion.

        Returns:
            A weight for each function; infinite where the trace of its block is zero.

        References:
            Wang, Yu and Perdikaris (2022), arXiv:2007.14527, Algorithm 1 (number not
            checked); there all losses are means over equal numbers of points.
        """
        traces, sizes = self.traces(), self.sizes
        total = sum(traces.values())
        number = sum(sizes.values())
        shares = {name: sizes[name] / number if mean else 1.0 for name in self.names}
        return {name: shares[name] * total / traces[name] for name in self.names}


def ntk_blocks(
    functionals: Mapping[str, tuple[ApplyFn, Inputs]],
    params: Params,
    *,
    method: Method = "auto",
    precision: jax.lax.PrecisionLike = "highest",
    memory: int | str | None = None,
    check_rows: bool = True,
) -> KernelBlocks:
    r"""Neural tangent kernel of several functions of the same parameters.

    So the kernel of a network trained on several losses, such as a physics-informed one:
    on the residual of an equation at some points, on boundary values at others. If $r_a$
    are the errors of function $a$, gradient flow on $\tfrac12 \sum_a \lVert r_a\rVert^2$
    is $\dot r_a = -\sum_b K_{ab} r_b$.

    Args:
        functionals: By name, a pure function `(params, x) -> (n, k)` and examples.
            Examples may be trees, and outputs of any form: blocks are in that of
            `outputs="flat"`. Functions may differ in both, and contain derivatives of a
            network by its input (`jax.grad`, `jax.jvp`, `jax.hessian`); rows must not
            interact. They should be the same objects from call to call, or each call
            compiles again.
        params: Parameters that all share; not all need use each.
        method: "structured", which "auto" is, contracts the factors of gradients;
            "jacobian" contracts whole Jacobians.
        precision: Of matrix products, as in `empirical_ntk`.
        memory: As in `empirical_ntk`.
        check_rows: As in `empirical_ntk`.

    Returns:
        The blocks. The call returns before the device is done.

    Raises:
        ValueError: If there is no function, or as `empirical_ntk` says of one of them,
            which the message names.
        TypeError: If `functionals` is no mapping to pairs, or likewise.

    Example:
        >>> import jax, jax.numpy as jnp, lazyjax
        >>> net = lazyjax.nets.mlp(width=64, activation="tanh")
        >>> u = lambda params, x: net.apply(params, x[None])[0, 0]
        >>> second = lambda params, x: jax.hessian(u, argnums=1)(params, x)[0, 0]
        >>> residual = lambda params, x: jax.vmap(second, (None, 0))(params, x)[:, None]
        >>> inside, ends = jnp.linspace(0, 1, 8)[:, None], jnp.array([[0.0], [1.0]])
        >>> params = net.init(jax.random.key(0), inside)
        >>> blocks = lazyjax.ntk_blocks(
        ...     {"residual": (residual, inside), "boundary": (net.apply, ends)}, params
        ... )
        >>> blocks["residual", "boundary"].shape, blocks.spectrum().shape
        ((8, 2, 1, 1), (10,))

    References:
        Wang, Yu and Perdikaris (2022), arXiv:2007.14527.
    """
    check_choice("method", method, ("auto", "structured", "jacobian"))
    _check_functionals(functionals)
    program = PairsProgram(
        pairs=_pairs(len(functionals)),
        method=method,
        precision=precision,
        outputs="flat",
        memory=memory,
    )
    labelled = {f"`functionals[{name!r}]`": pair for name, pair in functionals.items()}
    kernels = run_pairs(program, labelled, params, check_rows=check_rows)
    return KernelBlocks(names=tuple(functionals), kernels=tuple(kernels))


def _pairs(number: int) -> tuple[Pair, ...]:
    return tuple(itertools.combinations_with_replacement(range(number), 2))


def _check_functionals(functionals: object) -> None:
    expected = (
        "`functionals` must be a dictionary of pairs, name: (function, examples); got "
    )
    if not isinstance(functionals, Mapping):
        raise TypeError(f"{expected}{brief(functionals)}.")
    if not functionals:
        raise ValueError("`functionals` must hold one function at least; it is empty.")
    for name, pair in functionals.items():
        if not isinstance(name, str) or not isinstance(pair, tuple) or len(pair) != 2:
            raise TypeError(f"{expected}{brief(name)}: {brief(pair)}.")
