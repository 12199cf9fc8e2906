"""When training becomes provable: zero loss and zero training error, along training.

    python -m benchmarks.certify_along > rows.json

Each row is one network on real data, trained by gradient descent with momentum: the
earliest step at which zero loss, and zero training error, is certified, with proofs of
all bounds, the loss there, and seconds for training, certificates and compilation. A row
is not printed before the run that was promised has been looked at.
"""

import argparse
import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

import lazyjax
from benchmarks import _harness
from lazyjax import certify

WIDTHS = (64, 128, 256, 512, 1024)
GRID = {
    f"digits-20/depth-{depth}/width-{width}": ("digits", 20, depth, width)
    for depth in (1, 2, 4)
    for width in WIDTHS
}
CLASSES = {
    "digits-100": ("digits", 100, 1, 512),
    "digits-500": ("digits", 500, 1, 512),
    "breast-cancer-200": ("breast cancer", 200, 1, 512),
}
TOY = {"toy": ("digits", 4, 1, 16)}


def examples(data: str, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and labels -1 and 1."""
    if data == "digits":
        key = jax.random.key(0)
        found = lazyjax.data.digits(n, num_test=0, classes="parity", key=key)
        return np.asarray(found.x_train), np.asarray(found.y_train)
    from sklearn.datasets import load_breast_cancer

    x, label = load_breast_cancer(return_X_y=True)
    x = (x - x.mean(0)) / x.std(0)
    return x[:n], 2.0 * label[:n, None] - 1


def measure(name: str, case: tuple[str, int, int, int], num_steps: int) -> dict:
    """The earliest certified steps of one case.

    Args:
        name: Name of the case.
        case: Data, number of examples, depth and width.
        num_steps: Number of steps, at most.

    Returns:
        One row.

    Raises:
        WrongAnswerError: If the residual is not what the certificate says.
    """
    data, n, depth, width = case
    x, y = examples(data, n)
    network = lazyjax.nets.mlp(width=width, depth=depth, activation="tanh")
    params = network.init(jax.random.key(1), x)
    stable = lazyjax.dynamics.largest_stable_rate(network.apply, params, x, y)
    optimizer = optax.sgd(float(stable) / 4, momentum=0.9)

    def along(certify_fn: Callable[..., certify.Certificate]) -> dict[str, Any]:
        seconds, found = _harness.timed(
            lambda: certify.along(
                network,
                params,
                x,
                y,
                optimizer=optimizer,
                num_steps=num_steps,
                certify_fn=certify_fn,
            )
        )
        row = {"step": found.earliest, "loss": found.earliest_loss}
        if found.certificate is not None:
            residual = np.linalg.norm(network.apply(found.params, x) - y)
            if not residual <= found.certificate["residual"]:
                raise _harness.WrongAnswerError(f"{name}: residual {residual}")
        return row | {
            "tries": len(found.steps),
            "seconds": seconds,
            "steps": found.steps.tolist(),
            "margins": [float(m) if np.isfinite(m) else None for m in found.margin],
        }

    rows = {
        "zero_loss": along(certify.gradient_flow),
        "zero_error": along(certify.zero_training_error),
    }
    both = rows["zero_loss"]["step"], rows["zero_error"]["step"]
    return {
        "case": name,
        "data": data,
        "n": n,
        "depth": depth,
        "width": width,
        "factor": both[0] / both[1] if all(both) else None,
        **rows,
    }


def main() -> None:
    """Print one JSON row for each case."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", choices=("full", "toy"), default="full")
    parser.add_argument("--case", nargs="*", choices=[*GRID, *CLASSES])
    parser.add_argument("--steps", type=int, default=8192)
    options = parser.parse_args()
    cases = GRID | CLASSES if options.size == "full" else TOY
    with jax.enable_x64(True):
        for name in options.case or cases:
            print(json.dumps(measure(name, cases[name], options.steps)), flush=True)


if __name__ == "__main__":
    main()
