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
# # How lazy is a two-layer network on real digits?
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/lazyjax/lazyjax/blob/main/notebooks/01_quickstart.ipynb)
#
# **Question.** A network in the *lazy* regime trains as if its neural tangent kernel
# $H = J J^\top$ never changed. How true is that of networks of ordinary width, trained
# by gradient descent on real images?
#
# **Claim.** On 100 handwritten digits, odd against even, three numbers fall together as
# the width $m$ grows: the distance of the kernel from its infinite-width limit (like
# $m^{-1/2}$), how far it moves in training, and the gap between the network and its own
# linear model.

# %%
# On Colab, this installs lazyjax; elsewhere it is there already.
import importlib.util

if importlib.util.find_spec("lazyjax") is None:
    source = "git+https://github.com/lazyjax/lazyjax"
    get_ipython().system(f'pip install -q "lazyjax[data,plot] @ {source}"')

# %%
import os

import jax

jax.config.update("jax_enable_x64", True)  # eigenvalues near 1e-3 of a norm near 10

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import lazyjax
from lazyjax.dynamics import linear_dynamics, observers, train

IS_FAST = bool(os.environ.get("LAZYJAX_FAST"))  # smaller, for continuous integration
WIDTHS = (64, 256, 1024) if IS_FAST else (64, 256, 1024, 4096)
NUM_SEEDS = 4
NUM_STEPS = 200 if IS_FAST else 1000

# %% [markdown]
# ## Data: 100 real digits on the unit sphere

# %%
data = lazyjax.data.digits(100, classes="parity")
x, y = data.x_train, data.y_train
print(x.shape, y.shape, data.description)

# %%
figure, axes = plt.subplots(1, 8, figsize=(8, 1.4))
for axis, image, target in zip(axes, x[:8], y[:8, 0], strict=True):
    axis.imshow(image.reshape(8, 8), cmap="gray_r")
    axis.set_title(f"{target:+.0f}")
    axis.axis("off")

# %% [markdown]
# ## One network: its kernel, and the limit of that kernel
#
# The network of Du et al. (2019): $f(x) = m^{-1/2} \sum_r a_r \max(0, w_r \cdot x)$ with
# random signs $a_r$ held fixed. `architecture` describes it without a width, and both
# the finite and the infinite kernel are read from the same description.

# %%
OPTIONS = {"trained": "first", "input_scaling": "none", "readout": "sign"}
net = lazyjax.nets.mlp(width=1024, **OPTIONS)
params = net.init(jax.random.key(0), x)
ntk = lazyjax.empirical_ntk(net.apply, params, x, outputs=0)
ntk_infinite = lazyjax.infinite_ntk(net.architecture, x)
cosine = jnp.clip(x @ x.T, -1, 1)
closed_form = cosine * (jnp.pi - jnp.arccos(cosine)) / (2 * jnp.pi)

print("finite:  ", ntk[0, :4])
print("infinite:", ntk_infinite[0, :4])
# Rounding of the cosines of nearly parallel digits costs half the digits of arccos.
assert jnp.allclose(ntk_infinite, closed_form, atol=1e-7)

# %% [markdown]
# ## Widths and seeds
#
# All seeds of a width train in one compiled program. $H(0)$ gives each run its own
# linear model, solved in closed form.

# %%
learning_rate = 1 / jnp.linalg.eigvalsh(ntk_infinite)[-1]
optimizer = optax.sgd(float(learning_rate))


def run_seed(net, seed):
    """Kernel error at the start, drift, gap to the linear model, and both losses."""
    run = train(
        net.apply,
        net.init(jax.random.fold_in(jax.random.key(1), seed), x),
        x,
        y,
        optimizer=optimizer,
        num_steps=NUM_STEPS,
        observe=[observers.outputs, observers.ntk, observers.ntk_drift],
    )
    seen = run.observations
    model = linear_dynamics(seen["ntk"][0], y, seen["outputs"][0])
    f_linear = model.gradient_descent(NUM_STEPS, learning_rate)
    start = lazyjax.laziness.relative_distance(seen["ntk"][0, ..., 0, 0], ntk_infinite)
    gap = jnp.linalg.norm(seen["outputs"][-1] - f_linear) / jnp.sqrt(len(x))
    loss_linear = model.gradient_descent_loss(jnp.arange(NUM_STEPS + 1), learning_rate)
    return start, seen["ntk_drift"][-1], gap, run.loss, loss_linear


results = {}
for width in WIDTHS:
    net = lazyjax.nets.mlp(width=width, **OPTIONS)
    runs = jax.jit(jax.vmap(lambda seed, net=net: run_seed(net, seed)))
    results[width] = runs(jnp.arange(NUM_SEEDS))

# %%
NAMES = ("kernel error at start", "kernel drift", "gap to linear model")
for index, name in enumerate(NAMES):
    values = jnp.stack([results[width][index] for width in WIDTHS])
    fit = lazyjax.laziness.log_log_slope(jnp.asarray(WIDTHS, float), values)
    print(f"{name:24s} ~ width^({fit.slope:+.2f} ± {fit.slope_sem:.2f})")

# %% [markdown]
# ## The picture

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
time = float(learning_rate) * np.arange(NUM_STEPS + 1)
for width, color in ((WIDTHS[0], "tab:orange"), (WIDTHS[-1], "tab:blue")):
    *_, loss, loss_linear = results[width]
    left.semilogy(time, loss.mean(0), color=color, label=f"width {width}")
    left.semilogy(
        time, loss_linear.mean(0), "--", color=color, label="its linear model"
    )
left.set(
    xlabel="time (learning rate times step)", ylabel=r"loss $\frac{1}{2}\|f-y\|^2$"
)
left.legend(frameon=False)
for index, name in enumerate(NAMES):
    mean = [float(results[width][index].mean()) for width in WIDTHS]
    right.loglog(WIDTHS, mean, "o-", label=name)
right.set(xlabel="width", ylabel="relative size")
right.legend(frameon=False)

# %% [markdown]
# ## What the claim rests on

# %%
start, drift, gap = (
    np.array([float(results[width][index].mean()) for width in WIDTHS])
    for index in range(3)
)
for values in (start, drift, gap):
    assert np.all(np.diff(values) < 0)  # each falls with every widening
slope = np.polyfit(np.log(WIDTHS), np.log(start), 1)[0]
assert abs(slope + 0.5) < 0.15  # the kernel error like one over the root of the width
