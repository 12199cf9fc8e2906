"""Real handwritten digits that scikit-learn carries with it: no download."""

from typing import Literal

import jax
import numpy as np

from lazyjax._brief import brief
from lazyjax._checks import check_at_least
from lazyjax.data._dataset import Dataset, split
from lazyjax.typing import RandomKey


def digits(
    num_train: int = 100,
    *,
    num_test: int = 100,
    classes: tuple[int, int] | Literal["parity"] | None = None,
    key: RandomKey | None = None,
    dtype: jax.typing.DTypeLike | None = None,
) -> Dataset:
    r"""Real handwritten digits, 8 by 8 pixels, as rows of unit norm ($d = 64$).

    Training and test sets are disjoint, drawn without replacement, and balanced: the
    digits that take part occur equally often in each, up to one.

    Args:
        num_train: Number of training examples.
        num_test: Number of test examples; may be 0.
        classes: Two digits `(a, b)` for targets $-1$ for `a` and $+1$ for `b`;
            "parity" for $-1$ for even and $+1$ for odd digits, of all ten; `None` for
            one-hot rows of ten.
        key: Chooses the examples and their order; `None` means `jax.random.key(0)`.
        dtype: Of inputs and targets; `None` means float64 if JAX has it enabled, else
            float32.

    Returns:
        The data set; targets have one column, or ten if `classes` is `None`.

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
    check_at_least("num_train", num_train, 1)
    check_at_least("num_test", num_test, 0)
    chosen = _check_classes(classes)
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "`lazyjax.data.digits` needs scikit-learn, which carries the images: "
            'pip install "lazyjax[data]".'
        ) from error
    images, label = map(np.asarray, load_digits(return_X_y=True))

    rng = _generator(jax.random.key(0) if key is None else key)
    rows = _balanced_order(rng, label, chosen)
    num_total = num_train + num_test
    if num_total > len(rows):
        raise ValueError(
            f"`num_train` + `num_test` must be at most {len(rows)}, the number of "
            f"digits in {chosen}; got {num_train} + {num_test}."
        )
    train, test = rows[:num_train], rows[num_train:num_total]
    rows = np.concatenate([rng.permutation(train), rng.permutation(test)])
    target, name = _targets(classes, label[rows])
    return split(
        images[rows],
        target,
        num_train,
        description=f"handwritten digits, {name}",
        dtype=dtype,
    )


def _check_classes(
    classes: tuple[int, int] | Literal["parity"] | None,
) -> tuple[int, ...]:
    """The digits that take part."""
    if classes is None or classes == "parity":
        return tuple(range(10))
    is_pair = isinstance(classes, tuple) and len(set(classes)) == len(classes) == 2
    if not is_pair or any(digit not in range(10) for digit in classes):
        raise ValueError(
            "`classes` must be None for all ten, 'parity', or two different digits "
            f"such as (0, 1); got {brief(classes)}."
        )
    return classes


def _generator(key: jax.Array) -> np.random.Generator:
    """NumPy's generator: its permutations need no compiling and are stable over years."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)))


def _balanced_order(
    rng: np.random.Generator, label: np.ndarray, chosen: tuple[int, ...]
) -> np.ndarray:
    """Rows of the `chosen` digits, one of each in turn, so that any slice is balanced."""
    rows = rng.permutation(np.flatnonzero(np.isin(label, chosen)))
    turn = np.empty(len(rows), int)
    for digit in chosen:
        is_digit = label[rows] == digit
        turn[is_digit] = np.arange(np.count_nonzero(is_digit))
    return rows[np.lexsort((label[rows], turn))]


def _targets(
    classes: tuple[int, int] | Literal["parity"] | None, label: np.ndarray
) -> tuple[np.ndarray, str]:
    if classes is None:
        return np.eye(10)[label], "ten classes, one-hot targets"
    if classes == "parity":
        return np.where(label % 2 == 1, 1.0, -1.0)[:, None], "even (-1) or odd (+1)"
    low, high = classes
    target = np.where(label == high, 1.0, -1.0)[:, None]
    return target, f"{low} (-1) or {high} (+1)"
