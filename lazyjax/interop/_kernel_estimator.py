"""What estimators of scikit-learn's conventions share: the kernel, and solving with it."""

import tempfile
import warnings
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from lazyjax._brief import brief
from lazyjax._checks import (
    check_at_least,
    check_flag,
    check_nonnegative,
    check_params,
    check_positive,
    checked_bytes,
)
from lazyjax._models import model_hint
from lazyjax.architecture import Architecture
from lazyjax.grams import GramFactor, GramSolution, factorize, gram, solve
from lazyjax.infinite import infinite_ntk
from lazyjax.nets import Network
from lazyjax.ntk import empirical_ntk

# Without biases it would fit functions alone that double where examples do.
_DEFAULT = Architecture(depth=2, b_std=0.1)
# Arrays of the kernel's size that are held while it is factorized.
_NUM_COPIES = 7
# Of kernels on disk: rank of what preconditions.
_RANK = 256
# Examples of which one kernel is formed where its diagonal is all that is wanted.
_DIAGONAL_BLOCK = 32


class KernelEstimator(BaseEstimator):
    """Holds a kernel, and fits coefficients of it to targets."""

    def __init__(
        self,
        kernel: Any = None,
        *,
        ridge: int | float = 1e-3,
        scales_ridge: bool = True,
        memory: int | str = "4GiB",
        tolerance: int | float = 1e-6,
        max_steps: int = 1000,
        random_state: Any = None,
    ) -> None:
        self.kernel = kernel
        self.ridge = ridge
        self.scales_ridge = scales_ridge
        self.memory = memory
        self.tolerance = tolerance
        self.max_steps = max_steps
        self.random_state = random_state

    def _validated(self, x: Any, y: Any, **options: Any) -> Any:
        if hasattr(y, "toarray"):
            raise TypeError(f"`y` must be a dense array; got {brief(y)}.")
        return validate_data(
            self, x, y, dtype=(np.float64, np.float32), allow_nd=True, **options
        )

    def _fit(self, x: np.ndarray, targets: np.ndarray) -> None:
        check_nonnegative("ridge", self.ridge, infinity_allowed=False)
        check_flag("scales_ridge", self.scales_ridge)
        memory = checked_bytes("memory", self.memory)
        check_positive("tolerance", self.tolerance)
        check_at_least("max_steps", self.max_steps, 1)
        self.kernel_ = self._chosen_kernel(x)
        if isinstance(self.kernel_, tuple):
            x = x.astype(_dtype_of(self.kernel_[1]))
        self.X_fit_ = x
        fits = _NUM_COPIES * len(x) ** 2 * x.itemsize <= memory
        matrix = self._gram(x, None) if fits else None
        diagonal = self._diagonal(x) if matrix is None else np.diagonal(matrix)
        scale = float(np.mean(diagonal)) if self.scales_ridge else 1.0
        self.ridge_ = self.ridge * scale
        self.factor_: GramFactor | None = None
        if matrix is None:
            found = self._solved_on_disk(x, targets)
            solution = found.solution.astype(diagonal.dtype)
        else:
            self.factor_ = found = factorize(matrix, ridge=self.ridge_)
            solution = found.solve(targets)
        self.report_ = found.explain()
        self.dual_coef_ = solution.reshape(targets.shape)

    def _chosen_kernel(self, x: np.ndarray) -> Any:
        """The kernel, with parameters drawn if it is of a network."""
        kernel = _DEFAULT if self.kernel is None else self.kernel
        if isinstance(kernel, Network):
            seed = check_random_state(self.random_state).randint(2**31 - 1)
            with _precision_of(x):
                params = kernel.init(jax.random.key(seed), jnp.asarray(x[:1]))
                # As arrays of NumPy, which keep their precision wherever they are sent.
                return kernel.apply, jax.tree.map(np.asarray, params)
        if isinstance(kernel, tuple) and len(kernel) == 2:
            check_params("kernel[1]", kernel[1])
            return kernel
        is_function = callable(kernel) and not model_hint(kernel)
        if is_function or isinstance(kernel, Architecture):
            return kernel
        raise TypeError(
            "`kernel` must be None, an Architecture, a Network, a pair (apply_fn, params) "
            f"or a function f(x1, x2); got {brief(kernel)}.{model_hint(kernel)}"
        )

    def _solved_on_disk(self, x: np.ndarray, targets: np.ndarray) -> GramSolution:
        with tempfile.TemporaryDirectory() as folder, _precision_of(x):
            store = gram(
                self.kernel_,
                x,
                path=folder,
                outputs="pseudo" if isinstance(self.kernel_, tuple) else "full",
                memory=self.memory,
                progress=False,
            )
            found = solve(
                store,
                targets,
                ridge=self.ridge_,
                tolerance=self.tolerance,
                max_steps=self.max_steps,
                rank=_RANK,
            )
        if found.status != "converged":
            message = f"Conjugate gradients: {found.explain()}. Try a larger `ridge`."
            warnings.warn(message, ConvergenceWarning, stacklevel=4)
        return found

    def _gram(self, x: np.ndarray, y: np.ndarray | None) -> np.ndarray:
        kernel, memory = self.kernel_, self.memory
        with _precision_of(x):
            if isinstance(kernel, Architecture):
                found: Any = infinite_ntk(kernel, x, y, memory=memory)
            elif isinstance(kernel, tuple):
                apply_fn, params = kernel
                found = empirical_ntk(
                    apply_fn, params, x, y, outputs="pseudo", memory=memory
                )
            else:
                found = kernel(x, x if y is None else y)
        shape = len(x), len(x if y is None else y)
        if np.shape(found) != shape:
            raise ValueError(
                f"`kernel` must return an array of shape {shape}; got {brief(found)}."
            )
        return np.asarray(found)

    def _diagonal(self, x: np.ndarray) -> np.ndarray:
        """The kernel of each example with itself."""
        starts = range(0, len(x), _DIAGONAL_BLOCK)
        blocks = (x[start : start + _DIAGONAL_BLOCK] for start in starts)
        return np.concatenate(
            [np.diagonal(self._gram(block, None)) for block in blocks]
        )

    def _crosses(self, x: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Some examples at a time, with their kernel with those of training."""
        check_is_fitted(self)
        checked: Any = validate_data(
            self, x, reset=False, dtype=self.X_fit_.dtype, allow_nd=True
        )
        if checked.shape[1:] != self.X_fit_.shape[1:]:
            raise ValueError(
                f"`X` must have examples of shape {self.X_fit_.shape[1:]}, as in `fit`; "
                f"got {checked.shape[1:]}."
            )
        row = len(self.X_fit_) * self.X_fit_.itemsize
        size = max(1, checked_bytes("memory", self.memory) // (_NUM_COPIES * row))
        for start in range(0, len(checked), size):
            block = checked[start : start + size]
            yield block, self._gram(block, self.X_fit_)


def _precision_of(x: np.ndarray) -> Any:
    """Context with the precision of the data, whatever JAX is set to."""
    return jax.enable_x64(x.dtype == np.float64)


def _dtype_of(params: Any) -> Any:
    with jax.enable_x64(True):
        return jnp.result_type(*jax.tree.leaves(params))
