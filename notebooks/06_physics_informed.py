# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Physics-informed networks: why the boundary is learned last, and what cures it
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/lazyjax/lazyjax/blob/main/notebooks/06_physics_informed.ipynb)
#
# **Question.** A network $u$ is trained to solve $u'' = -(4\pi)^2 \sin 4\pi x$ on
# $[0, 1]$ with $u(0) = u(1) = 0$: on the residual of the equation inside, and on the
# values at both ends. The residual falls at once, and yet the solution is wrong. Why?
#
# **Claim.** Both losses train with one kernel, of four blocks. The trace of its block of
# the residual is 90 times that of the boundary values at the start, and more than 10,000
# times in the course of training: these learn that much more slowly. Weights that make
# the traces equal (Wang, Yu and Perdikaris 2022) lower the error of the solution more
# than tenfold, for every seed.

# %%
# On Colab, this installs lazyjax; elsewhere it is there already.
import importlib.util

if importlib.util.find_spec("lazyjax") is None:
    source = "git+https://github.com/lazyjax/lazyjax"
    get_ipython().system(f'pip install -q "lazyjax[plot] @ {source}"')

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import lazyjax

FREQUENCY = 4 * np.pi
NUM_ROUNDS, STEPS_OF_ROUND, NUM_SEEDS = 20, 500, 3

# %% [markdown]
# ## Two functions of the same parameters
#
# Each takes the parameters and its own points, one row for each. The derivative by the
# point is JAX's.

# %%
network = lazyjax.nets.mlp(width=100, depth=1, activation="tanh", b_std=1.0)


def solution(x):
    """What the network should become."""
    return jnp.sin(FREQUENCY * x)


def at_point(params, x):
    """The network at one point."""
    return network.apply(params, x[None])[0, 0]


def residual(params, x):
    """What is left of the equation at some points."""
    second = jax.vmap(jax.hessian(at_point, argnums=1), (None, 0))(params, x)
    return second[:, :, 0] + FREQUENCY**2 * solution(x)


inside = jnp.linspace(0, 1, 100)[:, None]
ends = jnp.array([[0.0], [1.0]])
functions = {"residual": (residual, inside), "boundary": (network.apply, ends)}

# %% [markdown]
# ## Their kernel
#
# If $r$ are the residuals and $b$ the boundary values, gradient flow on
# $\tfrac12 \lVert r \rVert^2 + \tfrac12 \lVert b \rVert^2$ is
# $\dot r = -K_{rr} r - K_{rb} b$ and $\dot b = -K_{br} r - K_{bb} b$.

# %%
params = network.init(jax.random.key(0), inside)
blocks = lazyjax.ntk_blocks(functions, params)
print(blocks["residual", "boundary"].shape, blocks.matrix().shape)
traces = {name: float(trace) for name, trace in blocks.traces().items()}
print(traces)
print({name: f"{weight:.3g}" for name, weight in blocks.balance(mean=True).items()})

# %% [markdown]
# ## Trained with equal weights, and with those of the kernel
#
# The loss is a weighted sum of two mean squares, minimized by Adam. The weights are
# computed anew after every 500 steps.

# %%
optimizer = optax.adam(1e-3)
everywhere = jnp.linspace(0, 1, 1001)[:, None]


def loss(params, weights):
    """Weighted mean squares of both functions."""
    squares = {
        name: jnp.mean(fn(params, x) ** 2) for name, (fn, x) in functions.items()
    }
    return sum(weights[name] * squares[name] for name in squares)


@jax.jit
def train_round(params, state, weights):
    """Some steps, and the relative error of the solution after them."""

    def step(carry, _):
        params, state = carry
        gradient = jax.grad(loss)(params, weights)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(params, updates), state), None

    carry = (params, state)
    (params, state), _ = jax.lax.scan(step, carry, length=STEPS_OF_ROUND)
    wrong = network.apply(params, everywhere) - solution(everywhere)
    error = jnp.linalg.norm(wrong) / jnp.linalg.norm(solution(everywhere))
    return params, state, error


def errors(seed, *, is_balanced):
    """Relative errors after each round."""
    params = network.init(jax.random.key(seed), inside)
    state, found = optimizer.init(params), []
    weights = dict.fromkeys(functions, jnp.ones(()))
    for _ in range(NUM_ROUNDS):
        if is_balanced:
            weights = lazyjax.ntk_blocks(functions, params).balance(mean=True)
        params, state, error = train_round(params, state, weights)
        found.append(float(error))
    return params, found


def trace_ratio(params):
    """Trace of the block of the residual over that of the boundary values."""
    traces = lazyjax.ntk_blocks(functions, params).traces()
    return float(traces["residual"] / traces["boundary"])


plain, balanced = (
    [errors(seed, is_balanced=flag) for seed in range(NUM_SEEDS)]
    for flag in (False, True)
)

# %% [markdown]
# ## The picture

# %%
figure, (left, middle, right) = plt.subplots(
    1, 3, figsize=(12, 3.6), layout="constrained"
)
for name, color in (("residual", "tab:orange"), ("boundary", "tab:blue")):
    values = np.linalg.eigvalsh(np.asarray(blocks[name, name][..., 0, 0], np.float64))
    values = values[::-1]
    left.semilogy(
        np.arange(1, len(values) + 1), values, "o-", ms=4, c=color, label=name
    )
left.set(xlabel="index", ylabel="eigenvalue of the block", xlim=(0.5, 8.5))
left.set_ylim(1e-3, 1e3)
left.legend(title="at the start")
steps = STEPS_OF_ROUND * np.arange(1, NUM_ROUNDS + 1)
for label, runs, color in (
    ("equal weights", plain, "tab:gray"),
    ("weights of the kernel", balanced, "tab:green"),
):
    logs = np.log([found for _, found in runs])
    mean, sem = logs.mean(axis=0), logs.std(axis=0, ddof=1) / NUM_SEEDS**0.5
    right.semilogy(steps, np.exp(mean), color=color, label=label)
    right.fill_between(
        steps, np.exp(mean - sem), np.exp(mean + sem), color=color, alpha=0.3
    )
right.set(xlabel="step of Adam", ylabel="relative error of the solution")
right.set_ylim(3e-5, 20)
right.legend(loc="lower left", title=f"geometric mean of {NUM_SEEDS} seeds")
for label, runs, color in (
    ("equal weights", plain, "tab:gray"),
    ("weights of the kernel", balanced, "tab:green"),
):
    outputs = network.apply(runs[0][0], everywhere)
    middle.plot(everywhere, outputs - solution(everywhere), color=color, label=label)
middle.set(xlabel="x", ylabel="error of the solution, at the end", title="seed 0")
plt.show()

# %% [markdown]
# ## What the claim rests on

# %%
last = {
    name: [found[-1] for _, found in runs]
    for name, runs in (("plain", plain), ("balanced", balanced))
}
at_start, *at_end = map(trace_ratio, [params, *(p for p, _ in plain + balanced)])
print(
    f"ratio of traces: {at_start:.0f} at the start, then", *map("{:.0f}".format, at_end)
)
for name, values in last.items():
    print(name, [f"{value:.2g}" for value in values])

assert 50 < at_start < 200
assert min(at_end) > 1e4
for before, after in zip(last["plain"], last["balanced"], strict=True):
    assert after < before / 10
