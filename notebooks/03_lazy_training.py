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
# # What makes training lazy, and whether that is good
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/lazyjax/lazyjax/blob/main/notebooks/03_lazy_training.ipynb)
#
# **Question.** A network $h$ is multiplied by a scale $\alpha$ and trained on the loss
# $\alpha^{-2} R(\alpha h)$ from $h(w_0) = 0$ (Chizat, Oyallon and Bach, 2019). How do
# $\alpha$ and the width $m$ make it follow its linear model, and does it learn digits
# better when it does?
#
# **Claim.** The gap to the linear model and the drift of the kernel fall at least like
# $1/\alpha$ at every width, and at $\alpha = 10$ at least like $m^{-1/2}$. On digits not
# trained on, after as many steps, lazy gelu networks are worse than those of
# $\alpha = 0.3$, in part as they train more slowly; with tanh there is little to choose.

# %%
# On Colab, this installs lazyjax; elsewhere it is there already.
import importlib.util

if importlib.util.find_spec("lazyjax") is None:
    source = "git+https://github.com/lazyjax/lazyjax"
    get_ipython().system(f'pip install -q "lazyjax[data,plot] @ {source}"')

# %%
import os

import jax

jax.config.update("jax_enable_x64", True)  # the smallest gaps are below 1e-3

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import lazyjax
from lazyjax.dynamics import linear_dynamics, observers
from lazyjax.laziness import kappa, linearization_gap, scaling

IS_FAST = bool(os.environ.get("LAZYJAX_FAST"))  # smaller, for continuous integration
WIDTHS = (32, 128) if IS_FAST else (64, 256, 1024)
NUM_SEEDS = 3 if IS_FAST else 5
ALPHAS = (0.3, 1.0, 10.0, 100.0) if IS_FAST else (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
NUM_TRAIN, NUM_STEPS = (40, 200) if IS_FAST else (100, 1000)

data = lazyjax.data.digits(NUM_TRAIN, num_test=400, classes="parity")
x, y, x_test, y_test = data.x_train, data.y_train, data.x_test, data.y_test

# %% [markdown]
# ## Every width, seed and scale in one call
#
# `center=True` subtracts $h(w_0)$. Divergence is a result, not an error: the means below
# leave out members that diverged, and say so.

# %%
NETWORKS = {
    "gelu": lazyjax.Architecture(depth=1, activation="gelu", w_std=1.5),
    "tanh": lazyjax.Architecture(depth=1, activation="tanh", w_std=1.5),
}
if IS_FAST:
    del NETWORKS["tanh"]
key = jax.random.key(0)
steps = np.unique(np.geomspace(1, NUM_STEPS, 12).astype(int))  # that are looked at
learning_rates, sweeps = {}, {}
for name, architecture in NETWORKS.items():
    net = lazyjax.nets.mlp(width=1024, depth=1, activation=name, w_std=1.5)
    kernel = lazyjax.empirical_ntk(net.apply, net.init(key, x), x, outputs=0)
    learning_rates[name] = float(0.5 / jnp.linalg.eigvalsh(kernel)[-1])
    sweeps[name] = lazyjax.sweep(
        architecture,
        x,
        y,
        widths=WIDTHS,
        num_seeds=NUM_SEEDS,
        key=key,
        alphas=ALPHAS,
        learning_rates=[learning_rates[name]],
        num_steps=NUM_STEPS,
        center=True,
        observe={
            "f": observers.outputs,
            "f_test": observers.on_inputs(observers.outputs, x_test),
            "ntk_drift": observers.ntk_drift,
        },
        observe_at=steps,
    ).sel(learning_rate=learning_rates[name])
    print(name, dict(zip(sweeps[name].axes, sweeps[name].shape, strict=True)))
    print(sweeps[name].mean().explain())

# %% [markdown]
# ## The linear model of each
#
# A member's key is `fold_in(fold_in(key, width), seed)`, so that its start can be made
# again. From $h(w_0) = 0$ the linear model of $\alpha h$ is the same for all $\alpha$, and
# known in closed form at every step, on other digits too, and after infinite time.


# %%
def linear_model(net, rate, seed):
    """Outputs on training digits at `steps`, and on the others at the last and ever."""
    start = jax.random.fold_in(jax.random.fold_in(key, net.width), seed)
    params = net.init(start, x)
    model = linear_dynamics(lazyjax.empirical_ntk(net.apply, params, x), y, 0 * y)
    new = {
        "ntk_test_train": lazyjax.empirical_ntk(net.apply, params, x_test, x),
        "f0_test": 0 * y_test,
    }
    return (
        model.gradient_descent(jnp.asarray(steps), rate),
        model.gradient_descent(NUM_STEPS, rate, **new),
        model.gradient_flow(jnp.inf, **new),
    )


def share_right(f):
    """Share of the test digits on the right side of zero."""
    return jnp.mean(jnp.sign(f) == y_test, axis=(-2, -1))


gaps, right_linear, right_ever = {}, {}, {}
for name, sweep in sweeps.items():
    for width in WIDTHS:
        net = lazyjax.nets.mlp(width=width, depth=1, activation=name, w_std=1.5)
        run = jax.vmap(
            lambda seed, net=net, name=name: linear_model(
                net, learning_rates[name], seed
            )
        )
        f_linear, f_test, f_ever = jax.jit(run)(jnp.arange(NUM_SEEDS))
        by_alpha = jax.vmap(linearization_gap, in_axes=(0, None))
        gaps[name, width] = jax.vmap(by_alpha)(
            jnp.asarray(sweep.sel(width=width).observations["f"]), f_linear
        ).T  # by alpha and seed
        right_linear[name, width] = share_right(f_test)
        right_ever[name, width] = share_right(f_ever)

# %% [markdown]
# ## Powers of $\alpha$ and of the width, beside theory
#
# Theory is about lazy networks: powers of $\alpha$ are fitted to $\alpha \ge 10$.

# %%
is_lazy = np.array(ALPHAS) >= (1.0 if IS_FAST else 10.0)
lazy_alphas = jnp.asarray(ALPHAS)[is_lazy]
laws = []
for name, sweep in sweeps.items():
    drift = np.moveaxis(sweep.observations["ntk_drift"][..., -1], 1, 2)
    drifts = dict(zip(WIDTHS, jnp.asarray(drift), strict=True))
    for width in WIDTHS:
        measured = {"linearization_gap": gaps[name, width], "ntk_drift": drifts[width]}
        for quantity, values in measured.items():
            law = scaling(quantity, lazy_alphas, values[is_lazy], against="alpha")
            print(f"{name}, width {width}: {law.explain()}")
            laws.append(law)
    at_ten = ALPHAS.index(10.0)
    measured = {
        "linearization_gap": jnp.stack([gaps[name, w][at_ten] for w in WIDTHS]),
        "ntk_drift": jnp.stack([drifts[w][at_ten] for w in WIDTHS]),
    }
    for quantity, values in measured.items():
        law = scaling(quantity, jnp.asarray(WIDTHS, float), values, against="width")
        print(f"{name}, alpha 10: {law.explain()}")
        laws.append(law)

# %% [markdown]
# Chizat et al.'s $\kappa_{\alpha h}(w_0)$ says before training how lazy it will be: far
# below 1 is lazy. From $h(w_0) = 0$ it is exactly $\kappa_h / \alpha$.

# %%
kappas = {}
for width in WIDTHS:
    net = lazyjax.nets.mlp(width=width, depth=1, activation="gelu", w_std=1.5)
    params = net.init(jax.random.fold_in(jax.random.fold_in(key, width), 0), x)
    at_start = lambda x, net=net, params=params: net.apply(params, x)
    h = lambda params, x, net=net, at_start=at_start: net.apply(params, x) - at_start(x)
    kappas[width] = kappa(h, params, x, y, key=jax.random.key(1), num_starts=2).value
    print(f"width {width}: kappa at alpha = 1 is at least {kappas[width]:.2g}")

# %% [markdown]
# ## On digits not trained on

# %%
right = {
    name: share_right(jnp.asarray(s.observations["f_test"][..., -1, :, :]))
    for name, s in sweeps.items()
}  # by width, seed and alpha
for name, values in right.items():
    for width, rows in zip(WIDTHS, values, strict=True):
        cells = "  ".join(f"{v:.1%}" for v in rows.mean(0))
        linear, ever = right_linear[name, width].mean(), right_ever[name, width].mean()
        print(f"{name} {width:5d}: {cells} | linear {linear:.1%}, ever {ever:.1%}")

# %% [markdown]
# ## The picture

# %%
figure, (left, middle, last) = plt.subplots(
    1, 3, figsize=(11, 3.6), layout="constrained"
)
colors = dict(zip(WIDTHS, ("tab:orange", "tab:green", "tab:blue"), strict=False))
drift = sweeps["gelu"].observations["ntk_drift"][..., -1]
for index, (width, color) in enumerate(colors.items()):
    relative = gaps["gelu", width] / jnp.linalg.norm(y)
    left.loglog(ALPHAS, jnp.nanmean(relative, 1), "o-", color=color, label=f"{width}")
    middle.loglog(ALPHAS, np.nanmean(drift[index], 0), "o-", color=color)
left.loglog(ALPHAS, 0.3 / np.array(ALPHAS), "k:", label=r"$1/\alpha$")
middle.loglog(ALPHAS, 0.3 / np.array(ALPHAS), "k:")
left.legend(frameon=False, title="width")
for name, style in zip(NETWORKS, ("o-", "s--"), strict=False):
    means = right[name][-1].mean(0)
    errors = right[name][-1].std(0, ddof=1) / NUM_SEEDS**0.5
    bar = last.errorbar(ALPHAS, means, errors, fmt=style, label=name)
    ever = float(right_linear[name, WIDTHS[-1]].mean())
    last.axhline(ever, color=bar[0].get_color(), lw=0.8, ls=":")
last.set_xscale("log")
last.legend(frameon=False)
for axis, title, ylabel in (
    (left, "gelu: gap to the linear model", r"$\max_t \|f - f_{lin}\| / \|y\|$"),
    (middle, "gelu: drift of the kernel", r"$\|H(T) - H(0)\| / \|H(0)\|$"),
    (last, f"width {WIDTHS[-1]} (dotted: linear model)", "test digits right"),
):
    axis.set(title=title, xlabel=r"output scale $\alpha$", ylabel=ylabel)

# %% [markdown]
# ## What the claim rests on

# %%
for law in laws:
    assert law.agrees(), law.explain()
