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
# # Certain to reach zero loss: certificates for real networks
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/lazyjax/lazyjax/blob/main/notebooks/04_certificates.ipynb)
#
# **Question.** Theorems say that wide networks train to zero loss. Is *this* network, on
# *these* digits, from *this* start, certain to?
#
# **Claim.** A certificate, with rounding accounted for, holds for widths that fit into any
# computer, where theorems about random starts ask for widths that fit into none. Gradient
# descent keeps below the loss that it promises.

# %%
# On Colab, this installs lazyjax; elsewhere it is there already.
import importlib.util

if importlib.util.find_spec("lazyjax") is None:
    source = "git+https://github.com/lazyjax/lazyjax"
    get_ipython().system(f'pip install -q "lazyjax[data,plot] @ {source}"')

# %%
import os

import jax

jax.config.update("jax_enable_x64", True)  # losses down to 1e-20 are followed

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import lazyjax
from lazyjax import certify

IS_FAST = bool(os.environ.get("LAZYJAX_FAST"))  # smaller, for continuous integration
NUM_TRAIN, WIDTH = (8, 256) if IS_FAST else (10, 1024)
NUM_STEPS = 500 if IS_FAST else 1000

data = lazyjax.data.digits(NUM_TRAIN, num_test=20, classes="parity")
x, y, x_test = data.x_train, data.y_train, data.x_test


def descend(network, params, learning_rate, num_steps):
    """Loss at every step of gradient descent, from before the first on."""
    optimizer = optax.sgd(learning_rate)
    return lazyjax.train(
        network.apply, params, x, y, optimizer=optimizer, num_steps=num_steps
    ).loss


# %% [markdown]
# ## From a random start
#
# Two layers, the first of them trained, doubled so that the output starts at zero. The
# certificate bounds the Jacobian's smallest singular value and Lipschitz constant; if they
# are good enough, nothing can go wrong on the way to zero loss.

# %%
network = lazyjax.nets.mlp(
    width=WIDTH,
    activation="softplus",
    w_std=8.0,
    input_scaling="none",
    trained="first",
    readout="sign",
    symmetrized=True,
)
params = network.init(jax.random.key(1), x)
flow = certify.gradient_flow(network, params, x, y)
print(flow.explain())

# %% [markdown]
# Gradient descent as computers run it, with the learning rate of the best guarantee:

# %%
descent = certify.gradient_descent(network, params, x, y)
loss = descend(network, params, descent.step_size, NUM_STEPS)
bound = loss[0] * np.array([descent.loss_bound(k) for k in range(NUM_STEPS + 1)])
print(f"{descent.verdict.value}, learning rate {descent.step_size:.3g}")
print(f"after {NUM_STEPS} steps: loss {loss[-1]:.3g}, certified {bound[-1]:.3g}")

# %% [markdown]
# The same bounds limit how far the network gets from its linear model at any time, on
# digits that it is not trained on too. They hold, but are not tight.

# %%
gap = certify.lazy_gap(network, params, x, y, x_test)
print(f"from the linear model, at most: {gap.train:.3g} on all training digits,")
print(f"{gap.test.min():.3g} to {gap.test.max():.3g} on each of the others")

# %% [markdown]
# ## Deep networks, from trained weights
#
# A deep network of ordinary width is not certified from its start. Trained first, in
# floating point, it is: exact zeros of the loss are a tiny step away.

# %%
deep = lazyjax.nets.mlp(width=64, depth=3, activation="tanh", w_std=1.5)
deep_params = deep.init(jax.random.key(3), x)
at_start = certify.gradient_flow(deep, deep_params, x, y)
trained = certify.warm_start(deep, deep_params, x, y, until="converged")
print(f"at the start: {at_start.verdict.value}")
print(
    f"trained: {trained.certificate.verdict.value}; weights moved {trained.moved:.3g},"
)
print(f"a zero of the loss is within {trained.certificate.radius:.1e}")

# %% [markdown]
# ## Deep networks, from a start made for it
#
# Chatterjee (2022) gives a criterion that $\inf \|\nabla L\|^2 / L$ in a ball decides, and
# starts that meet it at any width: a first layer of zeros, positive hidden weights and
# large output weights. Inputs must be independent, so there cannot be many digits.

# %%
positive = certify.positive_start.positive_init(x, y, width=4, depth=2)
print(positive.descent.explain())

# %% [markdown]
# Gradient descent with this learning rate, until the loss is below $10^{-20}$:

# %%
positive_loss = descend(
    positive.network,
    jax.tree.map(jnp.asarray, positive.params),
    positive.descent.step_size,
    20_000 if IS_FAST else 100_000,
)
below = np.flatnonzero(np.asarray(positive_loss) < 1e-20)
print(
    f"loss {positive_loss[0]:.3g}, then {positive_loss[-1]:.3g}; first below: {below[:1]}"
)

# %% [markdown]
# ## Widths: asked for, certified, seen to do
#
# Each theorem's width on these very digits (with ~, for constants of 1 where it states
# none), beside the smallest that is certified and the smallest at which gradient descent
# was seen to converge. Which sizes do depends on the start.

# %%
table = certify.widths.width_table(
    x, y, key=jax.random.key(2), max_width=4096, num_steps=1000
)
for row in table.rows():
    print(f"{row[0]:58.58s} {row[1]:>12.12s}  {row[-1]}")

# %% [markdown]
# ## The picture

# %%
figure, (left, right) = plt.subplots(
    1, 2, figsize=(11, 3.8), layout="constrained", width_ratios=(2, 3)
)
left.semilogy(bound / loss[0], "k--", label="certified bound")
left.semilogy(loss / loss[0], label="gradient descent")
left.set(
    title=f"Width {WIDTH}: the loss", xlabel="step", ylabel="relative to its start"
)
left.legend(frameon=False)
asked = sorted(
    (
        (needed.width, needed.theorem)
        for needed in table.requirements
        if needed.applies and needed.width and needed.width > 1
        if ", step (B" not in needed.theorem  # of a proof, no theorem by itself
    ),
    reverse=True,
)
bars = [
    *((width, name, "0.6") for width, name in asked),
    (table.certified, "certified here", "tab:blue"),
    (table.converged, "seen to converge here", "tab:orange"),
]
right.barh(
    [name for _, name, _ in bars],
    [np.log10(width) for width, _, _ in bars],
    color=[color for _, _, color in bars],
)
right.invert_yaxis()
right.tick_params(axis="y", labelsize="x-small")
right.set(title="Width asked for by theorems, and needed", xlabel=r"$\log_{10}$ width")

# %% [markdown]
# ## What the claim rests on

# %%
assert flow.is_certified
assert descent.is_certified
assert np.all(np.asarray(loss) <= bound * (1 + 1e-9))
assert not at_start.is_certified
assert trained.certificate.is_certified
assert positive.descent.is_certified
assert len(below)
assert table.converged is not None
assert table.certified is not None
assert table.converged <= table.certified
assert min(width for width, _ in asked) > 1000 * table.certified
