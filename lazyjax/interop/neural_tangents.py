"""neural-tangents 0.6.5 on the JAX of today.

Its last release fails to import on JAX since 2024: names that it takes from the
internals of JAX have moved or are gone. Here it is imported with those names provided.
"""

import contextlib
import dataclasses
import importlib.metadata
import sys
import threading
import types
import warnings
from typing import Any

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from lazyjax._renamed import deprecated_names
from lazyjax.architecture import Architecture
from lazyjax.files.results import Storable
from lazyjax.infinite import infinite_nngp, infinite_ntk
from lazyjax.interop import _nt_stax, _nt_structured
from lazyjax.interop._importing import import_with, is_imported_with
from lazyjax.interop._nt_stax import StaxLayers as StaxLayers
from lazyjax.laziness import relative_distance
from lazyjax.typing import AnyArray

_PACKAGE = "neural_tangents"
_KNOWN_VERSION = "0.6.5"
_KNOWN_JAX = ((0, 10), (0, 12))
_LOCK = threading.RLock()


def load_neural_tangents() -> types.ModuleType:
    """The package neural-tangents, imported so that it runs on this JAX.

    From then on, `import neural_tangents as nt` and `from neural_tangents import stax`
    anywhere in the process give the same modules: call this once, before them. Later
    calls return the same package.

    What it needs of JAX and SciPy and no longer finds is put in front of them for the
    modules of neural-tangents alone; `jax`, `scipy` and `sys.meta_path` are as before,
    also after an exception. `sys.modules` gains neural-tangents and what it imports, as
    from any import. TensorFlow is not imported: `neural_tangents.experimental`, which
    needs it, is an empty stand-in that says so.

    All else is there, all implementations of the empirical kernel included. Matrix
    products have the precision that JAX is set to.

    Returns:
        The module `neural_tangents`, with `stax` and `predict` in it.

    Raises:
        ImportError: If neural-tangents is not installed, is not version 0.6.5, was
            imported before without this function, or does not import on this JAX.

    Warns:
        UserWarning: If this JAX is newer than 0.12, the newest that was tested.

    Example:
        >>> import jax.numpy as jnp
        >>> from lazyjax.interop.neural_tangents import load_neural_tangents
        >>> nt = load_neural_tangents()
        >>> Dense, Relu = nt.stax.Dense, nt.stax.Relu
        >>> _, _, kernel_fn = nt.stax.serial(Dense(1), Relu(), Dense(1))
        >>> kernel_fn(jnp.ones((1, 3)), None, "nngp").item()
        0.5

    References:
        Novak et al. (2020), Neural Tangents: Fast and Easy Infinite Neural Networks in
        Python, arXiv:1912.02803.
    """
    with _LOCK:
        module = sys.modules.get(_PACKAGE)
        if module is None:
            return _load()
        if not is_imported_with(module):
            raise ImportError(
                "neural_tangents was imported before, and not by "
                "`load_neural_tangents`. Call `load_neural_tangents()` first."
            )
        return module


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class KernelComparison(Storable):
    r"""Kernels of one architecture by lazyjax and by neural-tangents.

    Attributes:
        nngp: Covariance of outputs, `lazyjax.infinite_nngp`.
        ntk: Neural tangent kernel, `lazyjax.infinite_ntk`.
        their_nngp: The covariance by neural-tangents.
        their_ntk: The tangent kernel by neural-tangents.
        nngp_difference: $\lVert A - B\rVert_F / \lVert B\rVert_F$ of `nngp` and
            `their_nngp`, 0 if they are equal.
        ntk_difference: The same of `ntk` and `their_ntk`.
    """

    nngp: Float[Array, "n1 n2"]
    ntk: Float[Array, "n1 n2"]
    their_nngp: Float[Array, "n1 n2"]
    their_ntk: Float[Array, "n1 n2"]
    nngp_difference: Float[Array, ""]
    ntk_difference: Float[Array, ""]


def compare(
    architecture: Architecture,
    x1: Float[AnyArray, "n1 *d"],
    x2: Float[AnyArray, "n2 *d"] | None = None,
    *,
    width: int | None = None,
) -> KernelComparison:
    r"""Both infinite-width kernels of an architecture, by both libraries.

    The network of `nt.stax` is built that has the same limit. What neural-tangents has
    no name for is expressed by what it has: layers that are not trained by subtracting
    their contribution, sums over inputs or pixels that are not divided by their number
    by multiplying `W_std`, factors of activations and outputs by multiplying kernels,
    and "mup" as "ntk", but for the covariance, where its readout is zero.

    Residual networks need an odd activation: their units have mean zero, and kernels of
    sums are sums of kernels. Those of other activations, ReLU among them, also contain
    products of means (Du et al. 2019b), for which neural-tangents has no place: refused.

    Activations for which it has no closed form ("elu", "sigmoid", "silu", "softplus",
    "tanh", functions) are integrated by its Gauss–Hermite quadrature of degree 150,
    which is accurate if they are smooth: of "elu" it misses up to 1%, by comparison with
    quadrature that is split at the kink.

    Args:
        architecture: Description of the network.
        x1: First batch, as in `infinite_ntk`.
        x2: Second batch; `None` means `x1`.
        width: Units of each hidden layer, for "standard" parameterization only.

    Returns:
        The kernels and their relative differences. In float64 they agree to 1e-6 or
        better for all activations by name but "elu", in float32 to 1e-3.

    Raises:
        ImportError: If neural-tangents cannot be loaded.
        ValueError: If neural-tangents has no such network, or `infinite_ntk` refuses
            the batches or `width`.
        TypeError: If `architecture` is not an `Architecture`, or a batch not floating
            point.

    Cost: that of both libraries; quadrature holds 22500 numbers an entry.

    Example:
        >>> import jax.numpy as jnp
        >>> from lazyjax import Architecture
        >>> from lazyjax.interop.neural_tangents import compare
        >>> result = compare(Architecture(depth=2, b_std=0.1), jnp.eye(3))
        >>> bool(result.ntk_difference < 1e-3)
        True

    References:
        Novak et al. (2020), arXiv:1912.02803; Han et al. (2022), arXiv:2209.04121, for
        the quadrature (equation numbers not checked).
    """
    ntk = infinite_ntk(architecture, x1, x2, width=width)
    nngp = infinite_nngp(architecture, x1, x2)
    x1 = jnp.asarray(x1)
    x2 = None if x2 is None else jnp.asarray(x2)
    stax = load_neural_tangents().stax
    their_nngp, their_ntk = (
        kernel.astype(x1.dtype)  # with 64-bit types enabled, it returns float64
        for kernel in _nt_stax.stax_kernels(stax, architecture, x1, x2, width)
    )
    return KernelComparison(
        nngp=nngp,
        ntk=ntk,
        their_nngp=their_nngp,
        their_ntk=their_ntk,
        nngp_difference=_difference(nngp, their_nngp),
        ntk_difference=_difference(ntk, their_ntk),
    )


__getattr__ = deprecated_names(
    __name__, {"Comparison": "lazyjax.interop.neural_tangents.KernelComparison"}
)


def _difference(a: Float[Array, "n1 n2"], b: Float[Array, "n1 n2"]) -> Array:
    return jnp.where((a == b).all(), 0, relative_distance(a, b))


def _load() -> types.ModuleType:
    _check_version()
    _warn_of_unknown_jax()
    try:
        return import_with(
            _PACKAGE,
            replaced=_replaced(),
            stubs={
                f"{_PACKAGE}.experimental": "it needs TensorFlow, and is left out by "
                "`lazyjax.interop.neural_tangents`."
            },
            patches={f"{_PACKAGE}._src.empirical": _nt_structured.replacements},
        )
    except (ImportError, AttributeError, TypeError) as error:
        raise ImportError(
            f"neural-tangents {_KNOWN_VERSION} does not import on JAX "
            f"{jax.__version__}, even with the names that it is known to miss: {error}"
        ) from error


def _check_version() -> None:
    without_tensorflow = (
        f"`pip install --no-deps {_PACKAGE.replace('_', '-')}=={_KNOWN_VERSION}` and "
        "`pip install frozendict`"
    )
    try:
        version = importlib.metadata.version("neural-tangents")
    except importlib.metadata.PackageNotFoundError as error:
        raise ImportError(
            'neural-tangents is not installed. `pip install "lazyjax[compare]"` brings '
            "it, and TensorFlow (1.8 GB), which it requires and which is not needed "
            f"here. Without TensorFlow: {without_tensorflow}."
        ) from error
    if version != _KNOWN_VERSION:
        raise ImportError(
            f"neural-tangents must be version {_KNOWN_VERSION}, the last one; got "
            f"{version}. Install it by {without_tensorflow}."
        )


def _warn_of_unknown_jax() -> None:
    oldest, newest = (".".join(map(str, version)) for version in _KNOWN_JAX)
    if jax.__version_info__[:2] > _KNOWN_JAX[1]:
        warnings.warn(
            f"JAX {jax.__version__} is newer than those on which neural-tangents was "
            f"tested, {oldest} to {newest}. Compare its numbers before you use them.",
            stacklevel=4,
        )


def _replaced() -> dict[str, dict[str, object]]:
    """For each module that neural-tangents imports from, what it misses there."""
    extended = jax.extend.core
    return {
        "jax.core": {
            "DShapedArray": type("DShapedArray", (), {}),  # nothing is one
            "Jaxpr": extended.Jaxpr,
            "JaxprEqn": extended.JaxprEqn,
            "Literal": extended.Literal,
            "Primitive": extended.Primitive,
            "Var": extended.Var,
            "eval_context": jax.ensure_compile_time_eval,
        },
        "jax.interpreters.ad": {
            "config": types.SimpleNamespace(jax_enable_checks=False),
            "source_info_util": types.SimpleNamespace(
                transform_name_stack=lambda name: contextlib.nullcontext()
            ),
            "zeros_like_p": extended.Primitive("zeros_like"),  # to hang a rule on
        },
        "jax.numpy": {"dtype": _dtype, "size": _size},
        "jax.util": {
            "safe_map": lambda fn, *s: [fn(*items) for items in zip(*s, strict=True)],
            "safe_zip": lambda *s: list(zip(*s, strict=True)),
        },
        "scipy.linalg": {"eigvalsh": _eigvalsh},
    }


def _dtype(a: Any) -> Any:
    """`jnp.dtype` that takes an array for its type."""
    return a.dtype if isinstance(a, jax.Array) else jnp.dtype(a)


def _size(a: Any, axis: Any = None) -> int:
    """`jnp.size` that takes an array which has only a shape."""
    return a.size if axis is None and hasattr(a, "size") else jnp.size(a, axis)


def _eigvalsh(
    a: Any, *args: Any, eigvals: tuple[int, int] | None = None, **options: Any
) -> np.ndarray:
    """`scipy.linalg.eigvalsh` with the argument that is `subset_by_index` today."""
    import scipy.linalg

    return scipy.linalg.eigvalsh(a, *args, subset_by_index=eigvals, **options)
