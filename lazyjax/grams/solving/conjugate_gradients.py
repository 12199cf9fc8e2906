"""Conjugate gradients of many columns at once, refined until true residuals are small."""

from collections.abc import Callable
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from lazyjax.grams.solving.products import Product, Products

Status: TypeAlias = Literal["converged", "out of steps", "indefinite", "stalled"]

# Less than the tolerance is aimed at, so that rounding does not leave a bit too much.
_AIM = 0.9


class Refined(NamedTuple):
    """What was reached."""

    solution: np.ndarray
    residuals: np.ndarray  # relative norms of columns, at the start and after each step
    status: Status


def refined(
    products: Products,
    right: np.ndarray,
    invert: Product,
    *,
    ridge: float,
    tolerance: float,
    max_steps: int,
    tell: Callable[[int, float], None],
) -> Refined:
    """Solution of a system with its ridge; the last residuals are computed precisely."""
    peaks = np.abs(right).max(axis=0)  # squares of the numbers themselves may overflow
    scale = np.where(peaks > 0, peaks, 1.0)
    scale = scale * np.where(peaks > 0, _norms(right / scale), 1.0)
    right = right / scale
    solution, residual = np.zeros_like(right), right
    history = [_norms(residual)]
    end: Status = "converged"
    while end == "converged" and not (history[-1] <= tolerance).all():
        # The recursion for residuals loses sight of true ones where they have fallen so
        # far: then the system is solved anew, with the true residual on its right.
        before, start = history[-1], len(history)
        goal = np.maximum(_AIM * tolerance, np.sqrt(products.eps) * before)
        part, end = _steps(
            lambda v: products.quick(v) + ridge * v,
            residual,
            invert,
            goal=np.where(before <= tolerance, before, goal),
            max_steps=max_steps,
            history=history,
            tell=tell,
        )
        if len(history) == start:
            break
        solution = solution + part
        residual = right - products.precise(solution) - ridge * solution
        history[-1] = _norms(residual)
        fell = (history[-1] < before / 2)[~(before <= tolerance)]
        if end == "converged" and not fell.any():
            end = "stalled"
    if (history[-1] <= tolerance).all():
        end = "converged"
    return Refined(solution * scale, np.stack(history), end)


def _steps(
    multiply: Product,
    residual: np.ndarray,
    invert: Product,
    *,
    goal: np.ndarray,
    max_steps: int,
    history: list[np.ndarray],
    tell: Callable[[int, float], None],
) -> tuple[np.ndarray, Status]:
    """Solution by conjugate gradients, and how they ended; the history is gone on with."""
    solution = np.zeros_like(residual)
    precise = invert(residual)
    direction, energy = precise.copy(), _dots(residual, precise)
    # Columns that have converged stay as they are.
    while (is_open := ~(history[-1] <= goal)).any():
        if len(history) > max_steps:
            return solution, "out of steps"
        product = multiply(direction)
        curvature = _dots(direction, product)
        is_positive = (curvature > 0) & (curvature < np.inf)  # a number, too
        if not is_positive[is_open].all():
            return solution, "indefinite"
        length = np.where(is_open, energy / np.where(is_open, curvature, 1.0), 0.0)
        solution += length * direction
        residual = residual - length * product
        precise = invert(residual)
        last, energy = energy, _dots(residual, precise)
        direction = precise + energy / np.where(last > 0, last, 1.0) * direction
        history.append(_norms(residual))
        tell(len(history) - 1, float(history[-1].max()))
    return solution, "converged"


def _norms(columns: np.ndarray) -> np.ndarray:
    return np.linalg.norm(columns, axis=0)


def _dots(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    return np.einsum("nm,nm->m", one, two)
