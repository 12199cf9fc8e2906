"""Products of a network's own outputs: one sample of its Gaussian-process kernel."""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from lazyjax.ntk.methods.tiles import in_tiles
from lazyjax.ntk.requests.compiled import KernelProgram, run_program
from lazyjax.ntk.requests.memory import Budget
from lazyjax.ntk.requests.request import KernelRequest
from lazyjax.typing import ApplyFn, Inputs, Kernel, Outputs, Params

_SUBSCRIPTS = {"full": "ia,jb->ijab", "diagonal": "ia,ja->ija", "trace": "ia,ja->ij"}


def empirical_nngp(
    apply_fn: ApplyFn,
    params: Params,
    x1: Inputs,
    x2: Inputs | None = None,
    *,
    outputs: Outputs = "full",
    precision: jax.lax.PrecisionLike = "highest",
    memory: int | str | None = None,
    check_rows: bool = True,
) -> Kernel:
    r"""Products $f_a(x_i) f_b(x'_j)$ of a network's outputs at `params`.

    Averaged over initializations it is the kernel of the Gaussian process that the
    network converges to; a single one has rank one for each pair of outputs. Of complex
    outputs it is $f_a \bar f_b$.

    Args:
        apply_fn: Network `(params, x) -> f`; rows of `x` must not interact.
        params: One draw of the parameters.
        x1: First batch.
        x2: Second batch; `None` means `x1`.
        outputs: As in `empirical_ntk`.
        precision: Of the product, and of the network's own where it sets none.
        memory: As in `empirical_ntk`.
        check_rows: As in `empirical_ntk`.

    Returns:
        The products in the form `outputs`, not divided by anything but as "pseudo" says.

    Raises:
        ValueError: As `empirical_ntk` says.
        TypeError: As `empirical_ntk` says.

    Example:
        >>> import jax.numpy as jnp, lazyjax
        >>> linear = lambda w, x: x @ w
        >>> x = jnp.array([[3.0, 4.0]])
        >>> lazyjax.empirical_nngp(linear, jnp.ones((2, 1)), x).item()
        49.0

    References:
        Lee et al. (2018), arXiv:1711.00165 (equation numbers not checked).
    """
    program = _OutputProducts(outputs=outputs, precision=precision, memory=memory)
    return run_program(program, apply_fn, params, x1, x2, check_rows=check_rows)


class _OutputProducts(KernelProgram):
    """Products of the outputs of two batches."""

    def compute(self, request: KernelRequest, budget: Budget) -> Array:
        return in_tiles(
            _products,
            request,
            method="structured",
            budget=budget,
            num_directions=request.num_directions,
        )


def _products(request: KernelRequest) -> Array:
    rows, columns = request.directions
    f1 = f2 = rows.of(request.apply_fn(request.params, request.x1))
    if request.x2 is not None:
        f2 = columns.of(request.apply_fn(request.params, request.x2))
    nngp = jnp.einsum(_SUBSCRIPTS[request.pairs], f1, f2, precision=request.precision)
    return request.symmetrized(nngp)
