"""Kernel regression and classification in scikit-learn's conventions, with any kernel.

    from lazyjax.interop.scikit_learn import NTKClassifier

scikit-learn is needed: `pip install "lazyjax[estimators]"`.
"""

import functools
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.preprocessing import LabelBinarizer
    from sklearn.utils import check_random_state
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise ImportError(
        "`lazyjax.interop.scikit_learn` needs scikit-learn 1.6 or newer: "
        'pip install "lazyjax[estimators]".'
    ) from error

from lazyjax._brief import brief
from lazyjax._checks import check_nonnegative
from lazyjax._models import model_hint
from lazyjax.architecture import Architecture
from lazyjax.grams import factorize
from lazyjax.infinite import infinite_ntk
from lazyjax.nets import Network
from lazyjax.ntk import empirical_ntk


class _Kernel(Protocol):
    def __call__(self, x: np.ndarray, y: np.ndarray | None, /) -> Any: ...


class _KernelEstimator(BaseEstimator):
    """What both estimators share: the kernel, and the factor of it."""

    def __init__(
        self,
        kernel: Any = None,
        *,
        ridge: int | float = 1e-3,
        scales_ridge: bool = True,
        random_state: Any = None,
    ) -> None:
        self.kernel = kernel
        self.ridge = ridge
        self.scales_ridge = scales_ridge
        self.random_state = random_state

    def _fit(self, x: np.ndarray, targets: np.ndarray) -> None:
        check_nonnegative("ridge", self.ridge, infinity_allowed=False)
        self._kernel: _Kernel = self._made_kernel(x)
        gram = self._gram(x, None)
        ridge = self.ridge
        if self.scales_ridge:
            ridge *= float(np.mean(np.diagonal(gram)))
        self.factor_ = factorize(gram, ridge=ridge)
        self.X_fit_ = x
        self.dual_coef_ = self.factor_.solve(targets.astype(gram.dtype))

    def _made_kernel(self, x: np.ndarray) -> _Kernel:
        kernel = Architecture(depth=2) if self.kernel is None else self.kernel
        if isinstance(kernel, Architecture):
            return functools.partial(infinite_ntk, kernel)
        if isinstance(kernel, Network):
            seed = check_random_state(self.random_state).randint(2**31 - 1)
            with jax.enable_x64(x.dtype == np.float64):
                params = kernel.init(jax.random.key(seed), jnp.asarray(x[:1]))
            kernel = kernel.apply, params
        if isinstance(kernel, tuple) and len(kernel) == 2:
            return functools.partial(_mean_kernel, *kernel)
        if callable(kernel) and not model_hint(kernel):
            return lambda x, y: kernel(x, x if y is None else y)
        raise TypeError(
            "`kernel` must be None, an Architecture, a Network, a pair (apply_fn, params) "
            f"or a function f(x1, x2); got {brief(kernel)}.{model_hint(kernel)}"
        )

    def _gram(self, x: np.ndarray, y: np.ndarray | None) -> np.ndarray:
        # In the precision of the data, whatever JAX is set to.
        with jax.enable_x64(x.dtype == np.float64):
            found = np.asarray(self._kernel(x, y))
        shape = len(x), len(x if y is None else y)
        if found.shape != shape:
            raise ValueError(
                f"`kernel` must return an array of shape {shape}; got {found.shape}."
            )
        return found

    def _cross(self, x: Any) -> np.ndarray:
        check_is_fitted(self)
        checked: Any = validate_data(
            self, x, reset=False, dtype=self.X_fit_.dtype, allow_nd=True
        )
        return self._gram(checked, self.X_fit_)

    def _validated(self, x: Any, y: Any, **options: Any) -> Any:
        return validate_data(
            self, x, y, dtype=(np.float64, np.float32), allow_nd=True, **options
        )


def _mean_kernel(apply_fn: Any, params: Any, x: Any, y: Any) -> Any:
    """The kernel of the sum of all outputs over their number: the pseudo-kernel."""
    dtype = jnp.result_type(*jax.tree.leaves(params))
    x, y = (None if a is None else jnp.asarray(a, dtype) for a in (x, y))
    return empirical_ntk(apply_fn, params, x, y, outputs="pseudo")


class NTKRegressor(RegressorMixin, _KernelEstimator):
    r"""Kernel ridge regression with a neural tangent kernel, or any other.

    Targets are centered. With a ridge it is the mean of a Gaussian process with that much
    noise, whose standard deviation `predict` gives too.

    Args:
        kernel: An `Architecture`, whose kernel is that of infinite width; a `Network`,
            initialized by `random_state`; a pair `(apply_fn, params)`; or a function
            `f(x1, x2)`. Of networks of several outputs it is `outputs="pseudo"`. `None`
            means the limit of a ReLU network of 2 hidden layers.
        ridge: What is added to the diagonal of the kernel.
        scales_ridge: Whether `ridge` is in units of the mean of that diagonal.
        random_state: Seed of the parameters of a `Network`.

    Attributes:
        X_fit_: Training examples.
        dual_coef_: Coefficients of the kernel, a column for each target.
        factor_: How the kernel was solved with: a `lazyjax.grams.GramFactor`.
        y_mean_: Means of the targets.
        n_features_in_: Features of an example.

    Example:
        >>> import numpy as np
        >>> from lazyjax.interop.scikit_learn import NTKRegressor
        >>> x = np.linspace(-1.0, 1.0, 20)[:, None]
        >>> model = NTKRegressor(ridge=1e-6).fit(x, np.abs(x[:, 0]))
        >>> bool(model.score(x, np.abs(x[:, 0])) > 0.99)
        True
    """

    def __init__(
        self,
        kernel: Any = None,
        *,
        ridge: int | float = 1e-3,
        scales_ridge: bool = True,
        random_state: Any = None,
    ) -> None:
        super().__init__(
            kernel, ridge=ridge, scales_ridge=scales_ridge, random_state=random_state
        )

    def fit(self, X: Any, y: Any) -> "NTKRegressor":
        """Fit to training examples.

        Args:
            X: Examples, `(n, d)` or images.
            y: Targets, `(n,)` or `(n, k)`.

        Returns:
            The estimator itself.
        """
        x, targets = self._validated(X, y, multi_output=True, y_numeric=True)
        targets = np.asarray(targets, x.dtype)
        self.y_mean_ = targets.mean(axis=0)
        self._fit(x, targets - self.y_mean_)
        return self

    def predict(
        self, X: Any, return_std: bool = False
    ) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Predictions.

        Args:
            X: Examples.
            return_std: Whether to return the standard deviations of the Gaussian process
                too, without noise.

        Returns:
            Predictions, with their standard deviations if asked for.
        """
        cross = self._cross(X)
        mean = cross @ self.dual_coef_ + self.y_mean_
        if not return_std:
            return mean
        x: Any = validate_data(
            self, X, reset=False, dtype=self.X_fit_.dtype, allow_nd=True
        )
        prior = np.array([self._gram(row[None], None)[0, 0] for row in x])
        return mean, np.sqrt(self.factor_.variance(cross, prior))

    def __sklearn_tags__(self) -> Any:
        """What scikit-learn is to know of it."""
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


class NTKClassifier(ClassifierMixin, _KernelEstimator):
    r"""Classification by kernel ridge regression on labels of 1 and -1, one for each class.

    Args:
        kernel: As of `NTKRegressor`.
        ridge: As of `NTKRegressor`.
        scales_ridge: As of `NTKRegressor`.
        random_state: As of `NTKRegressor`.

    Attributes:
        classes_: Labels.
        X_fit_: Training examples.
        dual_coef_: Coefficients of the kernel, a column for each class, or one for two.
        factor_: How the kernel was solved with: a `lazyjax.grams.GramFactor`.
        n_features_in_: Features of an example.

    Example:
        >>> import numpy as np
        >>> from lazyjax.interop.scikit_learn import NTKClassifier
        >>> x = np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0], [0.0, 0.1]])
        >>> NTKClassifier(ridge=1e-6).fit(x, ["a", "a", "b", "b"]).predict(x).tolist()
        ['a', 'a', 'b', 'b']
    """

    def __init__(
        self,
        kernel: Any = None,
        *,
        ridge: int | float = 1e-3,
        scales_ridge: bool = True,
        random_state: Any = None,
    ) -> None:
        super().__init__(
            kernel, ridge=ridge, scales_ridge=scales_ridge, random_state=random_state
        )

    def fit(self, X: Any, y: Any) -> "NTKClassifier":
        """Fit to training examples.

        Args:
            X: Examples, `(n, d)` or images.
            y: Their labels, of two classes or more.

        Returns:
            The estimator itself.

        Raises:
            ValueError: If there are fewer than two classes.
        """
        x, labels = self._validated(X, y)
        check_classification_targets(labels)
        binarizer = LabelBinarizer(neg_label=-1, pos_label=1)
        targets = binarizer.fit_transform(labels)
        self.classes_ = binarizer.classes_
        if len(self.classes_) < 2:
            raise ValueError(
                f"`y` must be of two classes or more; got 1 class: {self.classes_[0]}."
            )
        self._fit(x, np.asarray(targets, x.dtype))
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """Predicted labels of 1 and -1, before they are rounded.

        Args:
            X: Examples.

        Returns:
            One number for each class, or one for two classes.
        """
        scores = self._cross(X) @ self.dual_coef_
        return scores[:, 0] if scores.shape[1] == 1 else scores

    def predict(self, X: Any) -> np.ndarray:
        """Predicted classes.

        Args:
            X: Examples.

        Returns:
            Their labels.
        """
        scores = self.decision_function(X)
        numbers = scores > 0 if scores.ndim == 1 else scores.argmax(axis=1)
        return self.classes_[numbers.astype(int)]
