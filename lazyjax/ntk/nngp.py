"""Products of a network's own outputs: one sample of its Gaussian-process kernel."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from lazyjax.ntk.outputs import of_each
from lazyjax.ntk.requests.compiled import KernelProgram, run_program
from lazyjax.ntk.requests.memory import Devices, check_result_fits
from lazyjax.ntk.requests.request import KernelRequest
from lazyjax.typing import AnyArray, ApplyFn, Outputs, Params

_SUBSCRIPTS = {"full": "ia,jb->ijab", "diagonal": "ia,ja->ija", "trace": "ia,ja->ij"}


def empirical_nngp(
    apply_fn: ApplyFn,
    params: Params,
    x1: Shaped[AnyArray, "n1 *d"],
    x2: Shaped[AnyArray, "n2 *d"] | None = None,
    *,
    outputs: Outputs = "full",
    precision: jax.lax.PrecisionLike = "highest",
    check_rows: bool = True,
) -> Float[Array, "n1 n2 *k"]:
    r"""Products $f_a(x_i) f_b(x'_j)$ of a network's outputs at `params`.

    Averaged over initializations it is the kernel of the Gaussian process that the
    network converges to; a single one has rank one for each pair of outputs.

    Args:
        apply_fn: Network `(params, x) -> f`; rows of `x` must not interact.
        params: One draw of the parameters.
        x1: First batch.
        x2: Second batch; `None` means `x1`.
        outputs: As in `empirical_ntk`.
        precision: Of the product, and of the network's own where it sets none.
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
    program = _OutputProducts(outputs=outputs, precision=precision)
    return run_program(program, apply_fn, params, x1, x2, check_rows=check_rows)


class _OutputProducts(KernelProgram):
    """Products of the outputs of two batches."""

    def compute(self, request: KernelRequest, devices: Devices) -> Array:
        check_result_fits(request, devices)
        f1 = request.apply_fn(request.params, request.x1)
        f2 = f1
        if request.x2 is not None:
            f2 = request.apply_fn(request.params, request.x2)
        if request.num_directions < request.f.shape[1] or request.along is not None:
            f1, f2 = (
                jnp.einsum(
                    "ik,ck->ic" if of_each(along) is None else "ik,ick->ic",
                    f,
                    along,
                    precision="highest",
                )
                for f, along in zip((f1, f2), request.cotangents, strict=True)
            )
        nngp = jnp.einsum(
            _SUBSCRIPTS[request.pairs], f1, f2, precision=request.precision
        )
        return request.symmetrized(nngp)
