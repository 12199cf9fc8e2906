"""Random networks of all fields that certificates cover, and random problems for them."""

import dataclasses
import itertools
import math
from typing import Any

import numpy as np
from scipy.integrate import solve_ivp

from lazyjax import certify
from lazyjax.architecture import Architecture
from lazyjax.certify import Verdict
from lazyjax.nets import Network
from lazyjax.nets.build import build
from tests.helpers import certified_runs
from tests.helpers.certified_runs import Batch, Problem

SMOOTH = ("cos", "elu", "erf", "gaussian", "gelu", "identity", "sigmoid", "silu")
SMOOTH = (*SMOOTH, "sin", "softplus", "tanh")
KINKED = ("abs", "leaky_relu", "relu")
KINDS = (
    *certified_runs.KINDS,
    "plain",
    "plain",
    "contradiction",
    "denormal",
    "interpolating",
)
CONDITIONS = (0.2, 0.8, 0.98, 1.02, 1.5)


def random_network(rng: np.random.Generator) -> Network:
    """Of any values of all fields that fully connected networks have."""
    depth = int(rng.choice([0, 1, 1, 1, 2, 3]))
    activation = str(rng.choice(SMOOTH))
    num_layers = depth + 1
    trained: Any
    some = tuple(i for i in range(1, num_layers + 1) if rng.random() < 0.6)
    trained = str(rng.choice(["all", "all", "first", "last", "last_hidden", "some"]))
    if depth == 1 and rng.random() < 0.3:
        activation, trained = str(rng.choice(KINKED)), "first"
    if trained == "some":
        trained = some or (1,)
    return build(
        Architecture(
            kind="mlp",
            depth=depth,
            activation=activation,
            w_std=float(rng.choice([0.5, 1.0, 1.5])),
            b_std=float(rng.choice([0.0, 0.3])),
            parameterization=rng.choice(["ntk", "standard", "mup"]),
            num_outputs=int(rng.choice([1, 1, 2])),
            trained=trained,
            input_scaling=rng.choice(["fan_in", "none"]),
            readout=rng.choice(["normal", "sign"]),
            symmetrized=bool(rng.random() < 0.4),
            activation_scale=rng.choice(["none", "unit"]),
            output_scale=float(rng.choice([1.0, 1e-3, 1e3, 10 ** rng.uniform(-3, 3)])),
        ),
        width=int(rng.choice([6, 16, 40])),
    )


def drawn_params(network: Network, num_features: int, rng: np.random.Generator) -> dict:
    """A start of the usual size, without a program to be compiled."""
    spec, width = network.architecture, network.width
    sizes = [num_features, *[width] * spec.depth, spec.num_outputs]

    def layer(number: int, fan_in: int, units: int) -> dict:
        is_last = number == spec.num_layers
        size, of_bias = 1.0, 1.0
        if spec.parameterization == "standard":
            size, of_bias = spec.w_std / math.sqrt(fan_in), spec.b_std
        elif spec.parameterization == "mup" and spec.depth:
            size, of_bias = width**-0.5, 1.0 if is_last else width**-0.5
        value = rng.standard_normal((fan_in, units))
        if is_last and spec.readout == "sign":
            value = np.sign(value)
        arrays = {"kernel": size * value}
        if spec.b_std:
            arrays["bias"] = of_bias * rng.standard_normal(units)
        return arrays

    one = {
        f"layer_{number}": layer(number, *pair)
        for number, pair in enumerate(itertools.pairwise(sizes), start=1)
    }
    return {"minus": one, "plus": one} if spec.symmetrized else one


def random_problem(network: Network, rng: np.random.Generator) -> Problem:
    with np.errstate(all="ignore"):
        return _drawn(network, str(rng.choice(KINDS)), rng)


def _drawn(network: Network, kind: str, rng: np.random.Generator) -> Problem:
    shape = (3, 5)
    base = kind if kind in certified_runs.KINDS else "plain"
    if kind == "contradiction":
        base = "duplicates"
    found = certified_runs.problem(
        network,
        shape,
        base,
        int(rng.integers(10**9)),
        float(rng.choice(CONDITIONS)),
        drawn_params(network, shape[1], rng),
    )
    x, y = found.x, found.y
    if kind == "denormal":
        x = x * np.where(np.arange(len(x)) == 0, 1e-310, 1.0)[:, None]
    if kind == "contradiction":
        y = y + np.where(np.arange(len(y)) == 0, 1e-9, 0.0)[:, None]
    if kind == "interpolating":
        batch, copies = certified_runs.start_of(network, [found])
        y = y + batch.residual(copies).reshape(y.shape)
    return dataclasses.replace(found, x=x, y=y, kind=kind)


def flow_run(
    batch: Batch, copies: list, time: float, radius: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Times, losses and distances of gradient flow, by an integrator of SciPy's.

    It follows the way from the start, which may be much shorter than parameters are.
    """
    start = certified_runs.leaves(copies)
    sizes = np.cumsum([0] + [v.size for v in start])

    def unpacked(flat: np.ndarray) -> list:
        parts = iter(
            flat[a:b].reshape(v.shape)
            for a, b, v in zip(sizes[:-1], sizes[1:], start, strict=True)
        )
        return [
            [(next(parts), None if b is None else next(parts)) for _, b in state]
            for state in copies
        ]

    first = np.concatenate([v.ravel() for v in start])

    def velocity(_: float, way: np.ndarray) -> np.ndarray:
        gradient = batch.loss_and_gradient(unpacked(first + way))[1]
        return -np.concatenate([v.ravel() for v in certified_runs.leaves(gradient)])

    speed = float(np.linalg.norm(velocity(0.0, 0 * first)))
    size = float(np.max(np.abs(first), initial=0.0))
    run = solve_ivp(
        velocity,
        (0.0, time),
        0 * first,
        method="DOP853",
        rtol=1e-10,
        # About the length of the way, which the radius only bounds.
        atol=1e-10 * min(radius, time * speed) + 1e-15 * size,
    )
    # Its own steps, as it interpolates between them with less accuracy.
    losses = [batch.loss_and_gradient(unpacked(first + w))[0][0] for w in run.y.T]
    return run.t, np.array(losses), np.linalg.norm(run.y.T, axis=1)


def zero_nearby(batch: Batch, copies: list) -> float:
    """Distance of a zero of the loss that Newton's method finds; infinity if none."""
    start = copies
    size = math.sqrt(sum(np.sum(v**2) for v in certified_runs.leaves(start)))
    rounding = 1e-11 * (1 + float(np.linalg.norm(batch.y)))
    rounding += 1e-13 * size * float(np.linalg.norm(batch.jacobian(start), 2))
    for _ in range(60):
        residual = batch.residual(copies)
        if np.linalg.norm(residual) <= rounding:
            squares = [
                np.sum((a - b) ** 2)
                for a, b in zip(
                    certified_runs.leaves(copies),
                    certified_runs.leaves(start),
                    strict=True,
                )
            ]
            return math.sqrt(sum(squares))
        step = np.linalg.lstsq(batch.jacobian(copies), residual, rcond=1e-12)[0]
        at, parts = 0, []
        for state in copies:
            arrays = []
            for w, b in state:
                pair = []
                for v in (w, b):
                    pair.append(
                        None if v is None else step[at : at + v.size].reshape(v.shape)
                    )
                    at += 0 if v is None else v.size
                arrays.append(tuple(pair))
            parts.append(arrays)
        copies = certified_runs.moved(copies, parts, np.ones(1))
        if not np.all(np.isfinite(batch.residual(copies))):
            return math.inf
    return math.inf


def broken_promises(
    network: Network, problem: Problem, rng: np.random.Generator
) -> tuple[dict[str, Verdict], list[str]]:
    """Verdicts of all verbs on one problem, and what of them turned out to be false."""
    with np.errstate(all="ignore"):  # what overflows is not certified
        return _broken_promises(network, problem, rng)


def _broken_promises(
    network: Network, problem: Problem, rng: np.random.Generator
) -> tuple[dict[str, Verdict], list[str]]:
    batch, copies = certified_runs.start_of(network, [problem])
    rigor = "float" if rng.random() < 0.3 else "proof"
    arguments = (network, problem.params, problem.x, problem.y)
    norm = float(np.linalg.norm(batch.jacobian(copies), 2))
    # Rounding of the run itself, of outputs and of parameters.
    outputs = float(np.linalg.norm(batch.residual(copies) + batch.y.ravel()))
    size = math.sqrt(sum(np.sum(v**2) for v in certified_runs.leaves(copies)))
    floor = 1e-20 * (1 + np.sum(problem.y**2)) + 1e-18 * outputs**2
    floor += (1e-11 * size * norm) ** 2
    verdicts, broken = {}, []

    def check(name, certificate, times, loss, away):
        verdicts[name] = certificate.verdict
        if certificate.is_certified:
            bound = np.array([certificate.loss_bound(float(t)) for t in times])
            if not np.all(loss <= loss[0] * bound * (1 + 1e-7) + floor):
                broken.append(f"{name}: rate")
            if not np.all(away <= certificate.radius * (1 + 1e-7) + 1e-9 * (1 + size)):
                broken.append(f"{name}: radius")

    flow: Any = certify.gradient_flow(*arguments, rigor=rigor)
    times, loss, away = np.zeros(1), np.ones(1), np.zeros(1)
    if flow.is_certified:
        time = min(3 / max(flow.rate, 1e-300), 60 / (norm**2 + 1e-300))
        times, loss, away = flow_run(batch, copies, time, flow.radius)
    check("flow", flow, times, loss, away)

    # The rate found, and rates that are too large, or may be.
    wrong = float(rng.choice([0.5, 1.05, 4.0])) * 2 / (norm**2 + 1e-300)
    for name, step in (("descent", None), ("descent at a rate", wrong)):
        if step is not None and not 0 < step < math.inf:
            continue
        certificate = certify.gradient_descent(
            *arguments, learning_rate=step, rigor=rigor
        )
        loss, away = np.ones((1, 61)), np.zeros((1, 61))
        if certificate.is_certified:
            loss, away = certified_runs.runs(
                network, "descent", [problem], [certificate.step_size], 60
            )
        check(name, certificate, np.arange(61.0), loss[0], away[0])

    nearest = zero_nearby(batch, copies)
    radius = float(rng.choice([0.3, 0.9, 1.1, 3.0])) * (
        nearest if 0 < nearest < math.inf else 1.0
    )
    if network.architecture.activation in KINKED and network.architecture.depth:
        radius = math.nan
    else:
        exists = certify.existence(*arguments, rigor=rigor, radius=radius)
        verdicts["existence"] = exists.verdict
        slack = 1e-7 * (1 + radius) if rigor == "proof" else 1e-5 * (1 + radius)
        if exists.is_certified and not nearest <= radius + slack:
            broken.append(f"existence: no zero within {radius}, but at {nearest}")
        if exists.verdict is Verdict.REFUTED and nearest < radius - slack:
            broken.append(f"existence: refuted within {radius}, zero at {nearest}")
    if problem.kind in ("duplicates", "contradiction"):
        equal = np.array_equal(problem.y[0], problem.y[1])
        for name, verdict in verdicts.items():
            if verdict is Verdict.CERTIFIED:
                broken.append(f"{name}: certified with duplicates")
            if not equal and verdict is not Verdict.REFUTED:
                broken.append(f"{name}: a contradiction that is not refuted")
    return verdicts, broken
