r"""Neural tangent kernel of any pure JAX function at finite width."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array

from lazyjax._brief import brief
from lazyjax._checks import check_choice
from lazyjax.callables.static import HashableCallable
from lazyjax.ntk.methods.auto import auto_ntk
from lazyjax.ntk.methods.jacobian import jacobian_ntk
from lazyjax.ntk.methods.several import PairsProgram, run_pairs
from lazyjax.ntk.methods.structured import structured_ntk
from lazyjax.ntk.methods.tiles import in_tiles
from lazyjax.ntk.methods.vjp import vector_product_ntk
from lazyjax.ntk.requests.compiled import KernelProgram, run_program
from lazyjax.ntk.requests.memory import Budget
from lazyjax.ntk.requests.request import KernelRequest
from lazyjax.typing import ApplyFn, Inputs, Kernel, Method, Outputs, Params

METHODS: dict[str, Callable[[KernelRequest], Array]] = {
    "auto": auto_ntk,
    "jacobian": jacobian_ntk,
    "structured": structured_ntk,
    "vjp": vector_product_ntk,
}


def empirical_ntk(
    apply_fn: ApplyFn | tuple[ApplyFn, ApplyFn],
    params: Params,
    x1: Inputs,
    x2: Inputs | None = None,
    *,
    outputs: Outputs = "full",
    method: Method = "auto",
    precision: jax.lax.PrecisionLike = "highest",
    memory: int | str | None = None,
    filter: Callable[[str], bool] | None = None,  # noqa: A002 (the field's word)
    check_rows: bool = True,
) -> Kernel:
    r"""Neural tangent kernel $\Theta$ of `apply_fn` at `params`.

    $\Theta_{ijab} = \langle \nabla f_a(x_i), \nabla f_b(x'_j) \rangle$, summed over all
    parameters and not divided by anything. Under gradient flow on
    $\tfrac12 \lVert f - y \rVert^2$, summed over examples and outputs,
    $\dot f = -\Theta (f - y)$; for the mean over examples divide time by $n$.

    Of complex outputs it is the Hermitian $J J^\dagger$,
    $\Theta_{ijab} = \sum_\theta \partial_\theta f_a(x_i)\,
    \overline{\partial_\theta f_b(x'_j)}$ over real parameters $\theta$. A complex
    parameter counts as two, its real and imaginary parts; of a holomorphic function that
    is twice the kernel of complex derivatives. Between parts (0 real, 1 imaginary) of
    outputs, which `outputs="flat"` gives, $\Theta = (\Theta^{00} + \Theta^{11}) +
    i (\Theta^{10} - \Theta^{01})$.

    Args:
        apply_fn: Network `(params, x) -> f`; rows of `x` must not interact. It should
            be the same object from call to call, or each call compiles again, as it does
            once what the function holds or names has changed. Two functions `(f, g)` of
            the same parameters give the kernel
            $\langle \nabla f_a(x_i), \nabla g_b(x'_j)\rangle$ of f on `x1` and g on `x2`
            (or `x1`), of shape `(n1, n2, k_f, k_g)`; see also `ntk_blocks`.
        params: Point at which the network is linearized.
        x1: First batch: an array, or a tree of arrays with one row for each example.
        x2: Second batch; `None` means `x1`, does less work, and the result is exactly
            symmetric.
        outputs: "full" for all pairs of outputs, shape `(n1, n2, k, k)`; "diagonal"
            for equal pairs, `(n1, n2, k)`; "trace" for their sum over outputs,
            `(n1, n2)`; "pseudo" for the sum over all pairs divided by k, `(n1, n2)`,
            the kernel of $\sum_a f_a / \sqrt k$; a class index for that output's
            kernel, `(n1, n2)`. Outputs may also be `(n, *shape)`, with `*shape` in place
            of k, or a tree of such arrays: then "full" is a tree of trees of blocks, by
            the outputs of rows and of columns as in `jax.hessian`, "diagonal" one tree,
            and all others are of all outputs together, numbered along
            `jax.tree.leaves`. "flat" is one real array `(n1, n2, K, K)` of all numbers
            that outputs consist of, array after array, of complex ones real parts first.
            Every form of complex outputs takes the work of "full". Of real ones, a list of
            m outputs is "full" for these alone, `(n1, n2, m, m)`; an integer array `(n1, m)`, or a pair of them for two
            batches, for m outputs of each example: `outputs=targets[:, None]` for the
            logits of targets, `(n1, n2, 1, 1)`.
        method: "structured" contracts the factors of each parameter's gradient in the
            order of least modelled cost (see `ntk_plan`);
            "jacobian" contracts whole Jacobians and holds `(n1 + n2) k p` numbers;
            "vjp" forms one column at a time from vector products and holds `k p`
            numbers, for the work of `n2 k` forward passes over `x1`; "auto" is
            "structured", unless another is modelled to be quicker, as "jacobian" is for
            small networks. Between two functions it is "structured", and there is no
            "vjp". "trace" and "diagonal" of thousands of outputs are computed
            for some of the outputs at a time.
        precision: Of matrix products, the network's own included where it sets none.
        memory: Bytes that may be held at once, such as "4GiB": the kernel is formed in
            tiles of examples and outputs that need no more, with the same result but for
            rounding. `None` means what devices have free when the program is compiled.
        filter: Which parameters count, by path (`layer_1/kernel`); `None` means all.
        check_rows: Whether to refuse rows that interact. If their independence cannot be
            proven from the program of `apply_fn`, rows are compared with batches of one:
            this takes a few forward passes, and waits for them. Under `jit`, where values
            are not known, the result is NaN instead.

    Returns:
        The kernel in the form `outputs`, in the dtypes of the network's outputs. The call
        returns before the device is done; values of batches that are still being
        computed are not checked: NaN in gives NaN out.

    Raises:
        ValueError: If a batch is empty or not finite, its arrays differ in their number
            of rows, features differ, an output is not `(n, *shape)`, an option is
            unknown, `apply_fn` ignores `params`, or its rows interact, `filter` accepts
            no parameter, or the kernel, or what forms it, does not fit into `memory`.
        TypeError: If a parameter or an output is neither floating point nor complex.

    Example:
        >>> import jax.numpy as jnp, lazyjax
        >>> linear = lambda w, x: x @ w
        >>> x = jnp.array([[3.0, 4.0]])
        >>> lazyjax.empirical_ntk(linear, jnp.ones((2, 1)), x).item()
        25.0

    References:
        Jacot, Gabriel and Hongler (2018), arXiv:1806.07572; "pseudo" is from Mohamadi,
        Bae and Sutherland (2023), arXiv:2206.12543 (equation numbers not checked).
    """
    check_choice("method", method, METHODS)
    if filter is not None and not callable(filter):
        raise TypeError(
            "`filter` must be a function of a parameter's path, such as "
            f"`lambda path: path.endswith('kernel')`; got {brief(filter)}."
        )
    accepts = None if filter is None else HashableCallable(filter)
    if isinstance(apply_fn, tuple):
        return _cross(
            apply_fn,
            params,
            (x1, x1 if x2 is None else x2),
            PairsProgram(
                pairs=((0, 1),),
                method=method,
                precision=precision,
                memory=memory,
                outputs=outputs,
                filter=accepts,
            ),
            check_rows=check_rows,
        )
    program = Empirical(
        outputs=outputs,
        precision=precision,
        memory=memory,
        method=method,
        filter=accepts,
    )
    return run_program(program, apply_fn, params, x1, x2, check_rows=check_rows)


def _cross(
    functions: tuple[ApplyFn, ...],
    params: Params,
    batches: tuple[Inputs, Inputs],
    program: PairsProgram,
    *,
    check_rows: bool,
) -> Kernel:
    """The kernel between two functions."""
    check_choice("method", program.method, ("auto", "structured", "jacobian"))
    if len(functions) != 2:
        raise ValueError(
            f"`apply_fn` must be one function, or two; got {len(functions)}. "
            "`ntk_blocks` takes more."
        )
    labels = ("`apply_fn[0]`", "`apply_fn[1]`")
    pairs = zip(functions, batches, strict=True)
    by_label: dict[str, tuple[ApplyFn, Inputs]] = {}
    by_label |= zip(labels, pairs, strict=True)
    (kernel,) = run_pairs(program, by_label, params, check_rows=check_rows)
    return kernel


@dataclasses.dataclass(frozen=True, kw_only=True)
class Empirical(KernelProgram):
    """The kernel of the parameters that `filter` accepts."""

    method: Method
    filter: Callable[[str], bool] | None

    def compute(self, request: KernelRequest, budget: Budget) -> Any:
        """The kernel, in tiles where memory asks for it."""
        request = request.filtered(self.filter)
        return in_tiles(
            METHODS[self.method], request, method=self.method, budget=budget
        )
