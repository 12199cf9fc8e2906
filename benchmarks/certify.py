"""How long certificates take, from parameters to verdict, with proofs of all bounds.

    python -m benchmarks.certify

Each case has a process of its own, so that its peak memory is its own. The kernel's
smallest eigenvalue is checked against the one computed before anything is reported.
"""

import argparse
import json
import subprocess
import sys

import jax
import numpy as np

import lazyjax
from benchmarks import _harness

# n examples of d features, width, depth and what is trained.
CASES = {
    "softplus-first": (500, 784, 4096, 1, "softplus", "first"),
    "gelu-all": (500, 784, 4096, 1, "gelu", "all"),
    "relu-first": (500, 784, 4096, 1, "relu", "first"),
    "tanh-depth3": (200, 784, 1024, 3, "tanh", "all"),
}
TOY = {name: (6, 8, 16, *rest) for name, (_, _, _, *rest) in CASES.items()}


def measure(name: str, sizes: tuple, num_calls: int) -> dict:
    """Time and memory of `gradient_descent` certificates of one case.

    Args:
        name: Name of the case.
        sizes: Its sizes.
        num_calls: Number of timed calls.

    Returns:
        One row.

    Raises:
        WrongAnswerError: If a bound is above the eigenvalue that it bounds.
    """
    n, d, width, depth, activation, trained = sizes
    data = lazyjax.data.sphere(n, d, key=jax.random.key(0))
    x, y = np.asarray(data.x_train), np.asarray(data.y_train)
    network = lazyjax.nets.mlp(
        width=width, depth=depth, activation=activation, trained=trained
    )
    params = jax.tree.map(np.asarray, network.init(jax.random.key(1), x))

    def certificate() -> lazyjax.certify.Certificate:
        return lazyjax.certify.gradient_descent(network, params, x, y)

    peak_bytes, found = _harness.peak_bytes_of(certificate)
    plain = lazyjax.certify.gradient_descent(network, params, x, y, rigor="float")
    if not 0.99 * plain["sigma_min"] <= found["sigma_min"] <= plain["sigma_min"]:
        raise _harness.WrongAnswerError(
            f"{name}: sigma_min {found['sigma_min']} against {plain['sigma_min']}"
        )
    seconds = [_harness.timed(certificate)[0] for _ in range(num_calls)]
    return {
        "case": name,
        "n": n,
        "d": d,
        "width": width,
        "depth": depth,
        "activation": activation,
        "trained": trained,
        "verdict": found.verdict.name,
        "sigma_min": found["sigma_min"],
        "median_s": float(np.median(seconds)),
        "num_calls": num_calls,
        "peak_bytes": peak_bytes,
    }


def main() -> None:
    """Print one JSON row for each case."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", choices=("full", "toy"), default="full")
    parser.add_argument("--case", nargs="*", choices=list(CASES), default=list(CASES))
    parser.add_argument("--calls", type=int, default=3)
    parser.add_argument("--in-process", action="store_true")
    options = parser.parse_args()
    cases = CASES if options.size == "full" else TOY
    for name in options.case:
        if options.in_process:
            print(json.dumps(measure(name, cases[name], options.calls)), flush=True)
            continue
        command = [sys.executable, "-m", "benchmarks.certify", "--in-process"]
        command += ["--size", options.size, "--calls", str(options.calls)]
        subprocess.run([*command, "--case", name], check=True)


if __name__ == "__main__":
    main()
