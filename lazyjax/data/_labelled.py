"""Examples of several classes: which take part, in what order, with which targets."""

import dataclasses
from collections.abc import Sequence
from typing import Literal, TypeAlias

import jax
import numpy as np

from lazyjax._brief import brief
from lazyjax._checks import check_at_least, check_flag
from lazyjax.data._dataset import Dataset, split
from lazyjax.typing import RandomKey

Classes: TypeAlias = tuple[int, ...] | Literal["parity"] | None


@dataclasses.dataclass(frozen=True)
class Labelled:
    """Examples, a row each, and the numbers of their classes."""

    x: np.ndarray
    label: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice:
    """Which examples become a data set, and what their targets are."""

    num_train: int
    num_test: int | None  # None: all that are left
    classes: Classes
    balanced: bool
    key: RandomKey | None
    dtype: jax.typing.DTypeLike | None

    def __post_init__(self) -> None:
        check_at_least("num_train", self.num_train, 1)
        if self.num_test is not None:
            check_at_least("num_test", self.num_test, 0)
        check_flag("balanced", self.balanced)

    def among(
        self,
        train: Labelled,
        test: Labelled | None = None,
        *,
        kind: str,
        names: Sequence[str],
        standardized: bool = False,
    ) -> Dataset:
        """The data set of chosen examples.

        Args:
            train: Examples to choose from.
            test: Those to choose test examples from; `None` means what `train` has left.
            kind: What the data are.
            names: Names of all classes.
            standardized: Whether features get mean 0 and variance 1 on what is chosen
                for training.

        Returns:
            The data set.

        Raises:
            ValueError: If there are not enough examples, or an input is zero.
        """
        chosen = _checked_classes(self.classes, names)
        rng = generator(self.key)
        order = _order(rng, train.label, chosen, self.balanced)
        if test is None:
            test, order_test = train, order[self.num_train :]
        else:
            order_test = _order(rng, test.label, chosen, self.balanced)
        num_test = len(order_test) if self.num_test is None else self.num_test
        these = f"classes {chosen}" if self.classes else "all classes"
        if test is train and self.num_train + num_test > len(order):
            raise ValueError(
                f"`num_train` + `num_test` must be at most {len(order)}, the number of "
                f"examples of {these}; got {self.num_train} + {num_test}."
            )
        for name, number, rows in (
            ("num_train", self.num_train, order),
            ("num_test", num_test, order_test),
        ):
            if number > len(rows):
                raise ValueError(
                    f"`{name}` must be at most {len(rows)}, the number of "
                    f"such examples of {these}; got {number}."
                )
        rows = rng.permutation(order[: self.num_train])
        rows_test = rng.permutation(order_test[:num_test])
        x = np.concatenate([train.x[rows], test.x[rows_test]])
        label = np.concatenate([train.label[rows], test.label[rows_test]])
        if not x.any(axis=1).all():
            raise ValueError(f"All inputs must be nonzero; one of the {kind} is zero.")
        if x.dtype == np.uint8:
            # Exact, and the squares of pixels do not overflow in half precision.
            x = x.astype(np.float32) / 256
        if standardized:
            x = standardize(x, self.num_train)
        target, described = _targets(self.classes, chosen, label, names)
        return split(
            x,
            target,
            self.num_train,
            description=f"{kind}, {described}",
            dtype=self.dtype,
        )


def generator(key: RandomKey | None) -> np.random.Generator:
    """NumPy's generator: its permutations need no compiling and are stable over years."""
    key = jax.random.key(0) if key is None else key
    return np.random.default_rng(np.asarray(jax.random.key_data(key)))


def standardize(values: np.ndarray, num_train: int) -> np.ndarray:
    """Columns of mean 0 and variance 1 in the first `num_train` rows."""
    scale = values[:num_train].std(axis=0)
    return (values - values[:num_train].mean(axis=0)) / np.where(scale > 0, scale, 1)


def _checked_classes(classes: Classes, names: Sequence[str]) -> tuple[int, ...]:
    """Numbers of the classes that take part."""
    every = range(len(names))
    has_parity = names[-1].isdigit()
    if classes is None or (has_parity and classes == "parity"):
        return tuple(every)
    if (
        not isinstance(classes, tuple)
        or not len(set(classes)) == len(classes) >= 2
        or any(number not in every for number in classes)
    ):
        parity = ", 'parity'" if has_parity else ""
        raise ValueError(
            f"`classes` must be None for all {len(names)}{parity}, or two or more "
            f"different numbers below {len(names)}, such as (0, 1); got "
            f"{brief(classes)}."
        )
    return classes


def _order(
    rng: np.random.Generator,
    label: np.ndarray,
    chosen: tuple[int, ...],
    balanced: bool,
) -> np.ndarray:
    """Rows of the `chosen` classes; balanced, one of each in turn, as long as they last."""
    rows = rng.permutation(np.flatnonzero(np.isin(label, chosen)))
    if not balanced:
        return rows
    turn = np.empty(len(rows), int)
    for number in chosen:
        is_of_class = label[rows] == number
        turn[is_of_class] = np.arange(np.count_nonzero(is_of_class))
    return rows[np.lexsort((label[rows], turn))]


def _targets(
    classes: Classes, chosen: tuple[int, ...], label: np.ndarray, names: Sequence[str]
) -> tuple[np.ndarray, str]:
    """Targets, and what they are in words."""
    if classes == "parity":
        return np.where(label % 2 == 1, 1.0, -1.0)[:, None], "even (-1) or odd (+1)"
    if len(chosen) == 2:
        low, high = chosen
        target = np.where(label == high, 1.0, -1.0)[:, None]
        return target, f"{names[low]} (-1) or {names[high]} (+1)"
    target = (label[:, None] == np.array(chosen)).astype(float)
    if classes is not None:
        return target, f"{', '.join(names[i] for i in chosen)}; one-hot targets"
    count = {3: "three", 10: "ten"}[len(chosen)]
    return target, f"{count} classes, one-hot targets"
