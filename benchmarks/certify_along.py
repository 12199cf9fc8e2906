"""When training becomes provable: zero loss and zero training error, along training.

    python -m benchmarks.certify_along > rows.json
    python -m benchmarks.certify_along --figure rows.png < rows.json

Each row is one network on real data, trained by gradient descent with momentum: the
earliest step at which zero loss, and zero training error, is certified, with proofs of
all bounds, the loss there, and seconds for training, certificates and compilation; and how
far the method of Levenberg and Marquardt goes before the same is certified.
"""

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import lazyjax
from benchmarks import _harness
from lazyjax import certify

WIDTHS = (64, 128, 256, 512, 1024)
# Data, number of examples, depth, width and number of steps, at most.
Case = tuple[str, int, int, int, int]

GRID = {
    f"digits-20/depth-{depth}/width-{width}": ("digits", 20, depth, width, 8192)
    for depth in (1, 2, 4)
    for width in WIDTHS
}
CLASSES = {
    "digits-100": ("digits", 100, 1, 512, 32768),
    "breast-cancer-200": ("breast cancer", 200, 1, 512, 65536),
    "digits-500": ("digits", 500, 1, 512, 0),
}
TOY = {"toy": ("digits", 4, 1, 16, 256)}


def examples(data: str, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and labels -1 and 1."""
    if data == "digits":
        key = jax.random.key(0)
        found = lazyjax.data.digits(n, num_test=0, classes="parity", key=key)
        return np.asarray(found.x_train), np.asarray(found.y_train)
    from sklearn.datasets import load_breast_cancer

    found = load_breast_cancer(return_X_y=True)
    x, label = (np.asarray(array, float) for array in found)
    x = (x - np.mean(x, axis=0)) / np.std(x, axis=0)
    return x[:n], 2.0 * label[:n, None] - 1


def measure(name: str, case: Case) -> dict:
    """The earliest certified steps of one case.

    Args:
        name: Name of the case.
        case: The case.

    Returns:
        One row.

    Raises:
        WrongAnswerError: If a residual is larger than its certificate says.
    """
    data, n, depth, width, num_steps = case
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
            residual = np.linalg.norm(network.apply(found.params, jnp.asarray(x)) - y)
            if not residual <= found.certificate["residual"]:
                raise _harness.WrongAnswerError(f"{name}: residual {residual}")
        return row | {
            "tries": len(found.steps),
            "seconds": seconds,
            "steps": found.steps.tolist(),
            "margins": [float(m) if np.isfinite(m) else None for m in found.margin],
        }

    def warm_start(certify_fn: Callable[..., certify.Certificate]) -> dict[str, Any]:
        seconds, found = _harness.timed(
            lambda: certify.warm_start(network, params, x, y, certify_fn=certify_fn)
        )
        return {
            "verdict": found.certificate.verdict.name,
            "steps": len(found.residual) - 1,
            "residual": float(found.residual[-1]),
            "seconds": seconds,
        }

    verbs = {
        "zero_loss": certify.gradient_flow,
        "zero_error": certify.zero_training_error,
    }
    rows = {key: along(verb) for key, verb in verbs.items()}
    both = rows["zero_loss"]["step"], rows["zero_error"]["step"]
    return {
        "case": name,
        "data": data,
        "n": n,
        "depth": depth,
        "width": width,
        "factor": both[0] / both[1] if all(both) else None,
        **rows,
        "warm_start": {key: warm_start(verb) for key, verb in verbs.items()},
    }


def draw(rows: list[dict], path: str) -> None:
    """Figure of margins along training, and of the earliest steps by width.

    Args:
        rows: Of the digits at several depths and widths.
        path: Where to.
    """
    from lazyjax import plot

    rows = [row for row in rows if row["case"] in GRID]
    figure = plot.figure()
    left, right = figure.subplots(1, 2)
    depths = sorted({row["depth"] for row in rows})
    for color, depth in zip(("#D55E00", "#0072B2", "#009E73"), depths, strict=True):
        of_depth = [row for row in rows if row["depth"] == depth]
        widest = max(of_depth, key=lambda row: row["width"])
        for key, line in (("zero_loss", "-"), ("zero_error", "--")):
            label = f"depth {depth}, {key.replace('_', ' ')}"
            style = {"color": color, "linestyle": line, "label": label}
            margins = np.array(widest[key]["margins"], float)
            left.plot(widest[key]["steps"], 1 - margins, **style)
            widths = [row["width"] for row in of_depth]
            right.plot(
                widths, [row[key]["step"] for row in of_depth], marker="o", **style
            )
    left.axhline(1, color="black", linewidth=1)
    left.set_xscale("symlog", linthresh=1)
    left.set_xlim(left=0)
    left.set_yscale("log")
    right.set_xscale("log", base=2)
    right.set_yscale("log")
    right.legend(fontsize=6, frameon=False, ncols=2)
    title = f"Width {max(row['width'] for row in rows)}: certified below 1"
    plot.style_axes(left, xlabel="step", ylabel="1 - margin", title=title)
    plot.style_axes(
        right, xlabel="width", ylabel="step", title="Earliest certified step"
    )
    figure.savefig(path, dpi=120)


def main() -> None:
    """Print one JSON row for each case."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", choices=("full", "toy"), default="full")
    parser.add_argument("--case", nargs="*", choices=[*GRID, *CLASSES])
    parser.add_argument("--figure", help="draws rows that are read from standard input")
    options = parser.parse_args()
    if options.figure:
        draw([json.loads(line) for line in sys.stdin], options.figure)
        return
    cases = GRID | CLASSES if options.size == "full" else TOY
    with jax.enable_x64(True):
        for name in options.case or cases:
            print(json.dumps(measure(name, cases[name])), flush=True)


if __name__ == "__main__":
    main()
