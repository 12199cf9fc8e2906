"""Data sets that scikit-learn carries with it: no download."""

import importlib
from typing import Any, Literal

import jax
import numpy as np

from lazyjax._checks import check_at_least
from lazyjax.data._dataset import Dataset, split
from lazyjax.data._labelled import Choice, Classes, Labelled, generator, standardize
from lazyjax.typing import RandomKey


def digits(
    num_train: int = 100,
    *,
    num_test: int | None = 100,
    classes: tuple[int, ...] | Literal["parity"] | None = None,
    balanced: bool = True,
    key: RandomKey | None = None,
    dtype: jax.typing.DTypeLike | None = None,
) -> Dataset:
    r"""1,797 real handwritten digits, 8 by 8 pixels, as rows of unit norm.

    Training and test sets are disjoint, drawn without replacement.
    `x.reshape(-1, 8, 8, 1)` are the images.

    Args:
        num_train: Number of training examples.
        num_test: Number of test examples; may be 0. `None` means all that are left.
        classes: Two digits `(a, b)` for targets $-1$ for `a` and $+1$ for `b`; three or
            more for one-hot rows of these; "parity" for $-1$ for even and $+1$ for odd
            digits, of all ten; `None` for one-hot rows of ten.
        balanced: Whether the digits that take part occur equally often, up to one, in
            each set, as far as there are enough; otherwise any example is as likely.
        key: Chooses the examples and their order; `None` means `jax.random.key(0)`.
        dtype: Of inputs and targets; `None` means float64 if JAX has it enabled, else
            float32.

    Returns:
        The data set; targets have one column, or one for each class.

    Raises:
        ImportError: If scikit-learn is not installed.
        ValueError: If `classes` is none of the above, a count is too small, or there
            are not enough digits (about 180 of each).
        TypeError: If a count is not an integer.

    Example:
        >>> data = digits(100, classes="parity")
        >>> data.x_train.shape, data.y_train.shape
        ((100, 64), (100, 1))

    References:
        Alpaydin and Kaynak (1998), Optical Recognition of Handwritten Digits, UCI
        Machine Learning Repository (its test set, as bundled with scikit-learn).
    """
    choice = Choice(
        num_train=num_train,
        num_test=num_test,
        classes=classes,
        balanced=balanced,
        key=key,
        dtype=dtype,
    )
    names = tuple(map(str, range(10)))
    return choice.among(_load("digits"), kind="handwritten digits", names=names)


def breast_cancer(
    num_train: int = 100,
    *,
    num_test: int | None = None,
    balanced: bool = True,
    key: RandomKey | None = None,
    dtype: jax.typing.DTypeLike | None = None,
) -> Dataset:
    r"""Cell nuclei of 569 breast tumours, 30 measures of each.

    Targets are $-1$ for malignant (212) and $+1$ for benign tumours (357). Measures are
    standardized by the training examples, then rows are scaled to unit norm.

    Args:
        num_train: Number of training examples, at least 2.
        num_test: As in `lazyjax.data.digits`.
        balanced: As in `lazyjax.data.digits`.
        key: As in `lazyjax.data.digits`.
        dtype: As in `lazyjax.data.digits`.

    Returns:
        The data set; targets have one column.

    Raises:
        ImportError: If scikit-learn is not installed.
        ValueError: If a count is too small, or there are not enough examples.
        TypeError: If a count is not an integer.

    Example:
        >>> data = breast_cancer(100)
        >>> data.x_train.shape, data.x_test.shape
        ((100, 30), (469, 30))

    References:
        Street, Wolberg and Mangasarian (1993), Breast Cancer Wisconsin (Diagnostic), UCI
        Machine Learning Repository (as bundled with scikit-learn).
    """
    return _table(
        "breast_cancer",
        ("malignant", "benign"),
        num_train=num_train,
        num_test=num_test,
        classes=None,
        balanced=balanced,
        key=key,
        dtype=dtype,
    )


def wine(
    num_train: int = 100,
    *,
    num_test: int | None = None,
    classes: tuple[int, ...] | None = None,
    balanced: bool = True,
    key: RandomKey | None = None,
    dtype: jax.typing.DTypeLike | None = None,
) -> Dataset:
    r"""178 wines of three growers, 13 chemical measures of each.

    Measures are standardized by the training examples, then rows are scaled to unit
    norm.

    Args:
        num_train: Number of training examples, at least 2.
        num_test: As in `lazyjax.data.digits`.
        classes: Two growers `(a, b)`, of 0, 1 and 2, for targets $-1$ for `a` and $+1$
            for `b`; `None` for one-hot rows of three.
        balanced: As in `lazyjax.data.digits`.
        key: As in `lazyjax.data.digits`.
        dtype: As in `lazyjax.data.digits`.

    Returns:
        The data set; targets have one column, or three.

    Raises:
        ImportError: If scikit-learn is not installed.
        ValueError: If `classes` is none of the above, a count is too small, or there
            are not enough examples (59, 71 and 48).
        TypeError: If a count is not an integer.

    Example:
        >>> data = wine(100)
        >>> data.x_train.shape, data.y_test.shape
        ((100, 13), (78, 3))

    References:
        Aeberhard and Forina (1992), Wine, UCI Machine Learning Repository (as bundled
        with scikit-learn).
    """
    return _table(
        "wine",
        ("grower 0", "grower 1", "grower 2"),
        num_train=num_train,
        num_test=num_test,
        classes=classes,
        balanced=balanced,
        key=key,
        dtype=dtype,
    )


def diabetes(
    num_train: int = 100,
    *,
    num_test: int | None = None,
    key: RandomKey | None = None,
    dtype: jax.typing.DTypeLike | None = None,
) -> Dataset:
    r"""Progression of diabetes in 442 patients after a year, from 10 measures of each.

    Measures and targets are standardized by the training examples, then rows of measures
    are scaled to unit norm.

    Args:
        num_train: Number of training examples, at least 2.
        num_test: As in `lazyjax.data.digits`.
        key: As in `lazyjax.data.digits`.
        dtype: As in `lazyjax.data.digits`.

    Returns:
        The data set; targets have one column.

    Raises:
        ImportError: If scikit-learn is not installed.
        ValueError: If a count is too small, or there are not enough patients.
        TypeError: If a count is not an integer.

    Example:
        >>> data = diabetes(100, num_test=50)
        >>> data.x_train.shape, data.y_test.shape
        ((100, 10), (50, 1))

    References:
        Efron, Hastie, Johnstone and Tibshirani (2004), Least Angle Regression, Annals of
        Statistics 32 (its data, as bundled with scikit-learn).
    """
    check_at_least("num_train", num_train, 2)
    found = _load("diabetes")
    num_rows = len(found.x)
    if num_test is None:
        num_test = max(0, num_rows - num_train)
    check_at_least("num_test", num_test, 0)
    if num_train + num_test > num_rows:
        raise ValueError(
            f"`num_train` + `num_test` must be at most {num_rows}, the number of "
            f"patients; got {num_train} + {num_test}."
        )
    rows = generator(key).permutation(num_rows)[: num_train + num_test]
    return split(
        standardize(found.x[rows], num_train),
        standardize(found.label[rows, None], num_train),
        num_train,
        description="diabetes, standardized progression",
        dtype=dtype,
    )


def _table(
    name: str, class_names: tuple[str, ...], *, classes: Classes, **options: Any
) -> Dataset:
    """Data set of standardized measures."""
    check_at_least("num_train", options["num_train"], 2)
    choice = Choice(classes=classes, **options)
    kind = name.replace("_", " ")
    return choice.among(_load(name), kind=kind, names=class_names, standardized=True)


def _load(name: str) -> Labelled:
    """Arrays that scikit-learn has under a name."""
    try:
        module = importlib.import_module("sklearn.datasets")
    except ImportError as error:
        raise ImportError(
            f"`lazyjax.data.{name}` needs scikit-learn, which carries the data: "
            'pip install "lazyjax[data]".'
        ) from error
    x, label = getattr(module, f"load_{name}")(return_X_y=True)
    return Labelled(np.asarray(x), np.asarray(label))
