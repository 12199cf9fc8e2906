"""Kernel regression and classification in scikit-learn's conventions, with any kernel.

    from lazyjax.interop.scikit_learn import NTKClassifier, NTKRegressor

They need scikit-learn: `pip install "lazyjax[estimators]"`.
"""

from typing import Any, Literal, overload

import numpy as np

try:
    from sklearn.base import ClassifierMixin, RegressorMixin
    from sklearn.preprocessing import LabelBinarizer
    from sklearn.utils.multiclass import check_classification_targets

    from lazyjax.interop._kernel_estimator import KernelEstimator as _KernelEstimator
except ImportError as error:
    raise ImportError(
        "`lazyjax.interop.scikit_learn` needs scikit-learn 1.6 or newer: "
        'pip install "lazyjax[estimators]".'
    ) from error


class NTKRegressor(RegressorMixin, _KernelEstimator):
    r"""Kernel ridge regression with a neural tangent kernel, or any other.

    Targets are centred. It is the mean of a Gaussian process with this covariance and
    noise of variance `ridge`, whose standard deviation `predict` gives too. Of a network
    at its parameters the kernel alone is used; its outputs there are not added.

    Arrays in float32 are computed with in float32, all others in float64, whatever JAX is
    set to; but a pair `(apply_fn, params)` in the precision of its parameters.

    Args:
        kernel: An `Architecture`, whose kernel is that of infinite width; a `Network`,
            whose parameters are drawn by `random_state`; a pair `(apply_fn, params)`; or
            a function `f(x1, x2)`, such as `functools.partial(infinite_nngp,
            architecture)` or that of neural-tangents with `get="ntk"`. Of networks of
            several outputs it is `outputs="pseudo"` of `empirical_ntk`. `None` means
            `Architecture(depth=2, b_std=0.1)`.
        ridge: What is added to the diagonal of the kernel.
        scales_ridge: Whether `ridge` is in units of the mean of that diagonal.
        memory: Bytes that a kernel may take, such as "4GiB". A kernel of training examples
            that would take more, with its factor, is kept in a temporary folder, and
            solved with by conjugate gradients: this needs `lazyjax[store]`.
        tolerance: Largest residual of conjugate gradients, over the norm of targets.
        max_steps: Most steps of conjugate gradients.
        random_state: Seed of the parameters of a `Network`.

    Attributes:
        kernel_: The kernel; of a `Network`, its apply function with the parameters.
        ridge_: What was added to the diagonal.
        X_fit_: Training examples.
        dual_coef_: Coefficients of the kernel, a column for each target.
        factor_: Factor of the kernel, a `lazyjax.grams.GramFactor`; `None` after conjugate
            gradients.
        report_: How the kernel was solved with, in words.
        y_mean_: Means of targets.
        n_features_in_: Features of an example.

    Example:
        >>> import numpy as np
        >>> from lazyjax.interop.scikit_learn import NTKRegressor
        >>> x = np.linspace(-1.0, 1.0, 20)[:, None]
        >>> model = NTKRegressor(ridge=1e-6).fit(x, np.abs(x[:, 0]))
        >>> model.score(x, np.abs(x[:, 0])) > 0.99
        True
    """

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

    @overload
    def predict(self, X: Any, return_std: Literal[False] = ...) -> np.ndarray: ...
    @overload
    def predict(
        self, X: Any, return_std: Literal[True]
    ) -> tuple[np.ndarray, np.ndarray]: ...
    def predict(
        self, X: Any, return_std: bool = False
    ) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Predictions.

        Args:
            X: Examples.
            return_std: Whether to return the standard deviations of the Gaussian process
                too: of each example's outputs, without noise.

        Returns:
            Predictions, with their standard deviations if asked for.

        Raises:
            ValueError: If standard deviations are asked for after conjugate gradients.
        """
        means, deviations = [], []
        for x, cross in self._crosses(X):
            means.append(cross @ self.dual_coef_ + self.y_mean_)
            if return_std:
                if self.factor_ is None:
                    raise ValueError(
                        "`return_std` needs a factor of the kernel, which did not fit "
                        f"into `memory` of {self.memory}: fit with more."
                    )
                variance = self.factor_.variance(cross, self._diagonal(x))
                deviations.append(np.sqrt(variance))
        mean = np.concatenate(means)
        return (mean, np.concatenate(deviations)) if return_std else mean

    def __sklearn_tags__(self) -> Any:
        """What scikit-learn is to know of it."""
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


class NTKClassifier(ClassifierMixin, _KernelEstimator):
    r"""Classification by kernel ridge regression on labels of 1 and -1, one for each class.

    Parameters, and attributes but for `y_mean_`, are those of `NTKRegressor`.

    Attributes:
        classes_: Labels.

    Example:
        >>> import numpy as np
        >>> from lazyjax.interop.scikit_learn import NTKClassifier
        >>> x = np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0], [0.0, 0.1]])
        >>> NTKClassifier(ridge=1e-6).fit(x, ["a", "a", "b", "b"]).predict(x).tolist()
        ['a', 'a', 'b', 'b']
    """

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
        crosses = self._crosses(X)
        scores = np.concatenate([cross @ self.dual_coef_ for _, cross in crosses])
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
