"""Inputs and shapes of parameters for tests of lifted kernels."""

import numpy as np

X = np.random.default_rng(0).normal(size=(3, 4))
IMAGES = np.random.default_rng(1).normal(size=(2, 5, 4, 2))


def shapes_of(**shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    return {name: np.zeros(shape) for name, shape in shapes.items()}
