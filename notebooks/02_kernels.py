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
# # Kernels of networks, finite and infinite
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/lazyjax/lazyjax/blob/main/notebooks/02_kernels.ipynb)
#
# **Question.** What is the neural tangent kernel of *my* network, and how much of what it
# does on real data does the kernel of an infinitely wide one predict?
#
# **Claim.** The exact kernel of any network takes one call. Kernels of random fully
# connected, residual and convolutional networks approach their limit like $m^{-1/2}$ in
# the width $m$. On digits never seen, the limit predicts the mean of an ensemble of
# trained networks, and their spread.

# %%
# On Colab, this installs lazyjax; elsewhere it is there already.
import importlib.util

if importlib.util.find_spec("lazyjax") is None:
    source = "git+https://github.com/lazyjax/lazyjax"
    get_ipython().system(f'pip install -q "lazyjax[data,plot] @ {source}"')

# %%
import os

import jax

jax.config.update("jax_enable_x64", True)  # kernels are inverted below

import flax.linen as nn
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import lazyjax
from lazyjax.infinite import predict
from lazyjax.interop.flax import from_linen

IS_FAST = bool(os.environ.get("LAZYJAX_FAST"))  # smaller, for continuous integration
WIDTHS = (32, 512) if IS_FAST else (32, 128, 512, 2048)
NUM_SEEDS = 8
TRAINED_WIDTH, NUM_TRAINED = (128, 8) if IS_FAST else (1024, 64)

data = lazyjax.data.digits(60, num_test=100, classes="parity")
x, y = data.x_train, data.y_train
images = 8 * x.reshape(-1, 8, 8, 1)  # pixels of mean square 1

# %% [markdown]
# ## Your model
#
# Any pure function will do; here it is a small vision transformer, written in Flax without
# a thought of kernels. `ntk_plan` shows what will be done for each parameter.


# %%
class Transformer(nn.Module):
    @nn.compact
    def __call__(self, images):
        patches = images.reshape(-1, 4, 2, 4, 2).transpose(0, 1, 3, 2, 4)
        h = nn.Dense(32)(patches.reshape(-1, 16, 4))
        h = h + self.param("position", nn.initializers.normal(0.1), (16, 32))
        for _ in range(1 if IS_FAST else 2):
            h = h + nn.SelfAttention(num_heads=4)(nn.LayerNorm()(h))
            h = h + nn.Dense(32)(nn.gelu(nn.Dense(64)(nn.LayerNorm()(h))))
        return nn.Dense(1)(nn.LayerNorm()(h).mean(1))


model = Transformer()
model_fn, params = from_linen(model, model.init(jax.random.key(0), images))
kernel = lazyjax.empirical_ntk(model_fn, params, images)
print(kernel.shape)
print(lazyjax.ntk_plan(model_fn, params, images))

# %% [markdown]
# Layer by layer, the kernels sum to the whole.

# %%
layers = lazyjax.layerwise_ntk(model_fn, params, images, outputs=0)
assert jnp.allclose(sum(layers.values()), kernel[..., 0, 0])
for name, part in layers.items():
    share = jnp.trace(part) / jnp.trace(kernel[..., 0, 0])
    print(f"{name:16s} {share:6.1%} of the trace")

# %% [markdown]
# ## Three kinds of network and their limits
#
# An architecture has no width: networks of any width, and the limit, are read from it.

# %%
KINDS = {
    "fully connected": (
        lambda width: lazyjax.nets.mlp(width=width, depth=3, w_std=2**0.5),
        x,
    ),
    "residual": (
        lambda width: lazyjax.nets.resnet(width=width, depth=3, activation="erf"),
        x,
    ),
    "convolutional": (
        lambda width: lazyjax.nets.cnn(
            width=width // 4, depth=2, w_std=2**0.5, head="average"
        ),
        images[:20],
    ),
}

error, laws = {}, {}
for kind, (build, inputs) in KINDS.items():
    limit = lazyjax.infinite_ntk(build(32).architecture, inputs)
    rows = []
    for width in WIDTHS:
        net = build(width)
        key = jax.random.fold_in(jax.random.key(1), width)

        def one(key, net=net, inputs=inputs, limit=limit):
            kernel = lazyjax.empirical_ntk(
                net.apply, net.init(key, inputs), inputs, outputs=0
            )
            return lazyjax.laziness.relative_distance(kernel, limit)

        rows.append(jax.lax.map(jax.jit(one), jax.random.split(key, NUM_SEEDS)))
    error[kind] = jnp.stack(rows)
    laws[kind] = lazyjax.laziness.log_log_slope(jnp.asarray(WIDTHS, float), error[kind])
    fit = laws[kind]
    print(f"{kind:16s} ~ width^{fit.slope:.2f} (95%: {fit.low:.2f} to {fit.high:.2f})")

# %% [markdown]
# ## What the limit predicts of trained networks
#
# An ensemble of networks is trained by gradient descent, all members in one compiled
# program. The limit gives the distribution of their outputs on digits none of
# them saw, without training any.

# %%
net = lazyjax.nets.mlp(
    width=TRAINED_WIDTH, depth=1, activation="erf", w_std=1.5, b_std=0.1
)
nngp = predict.nngp_grams(net.architecture, x, data.x_test)
ntk = predict.ntk_grams(net.architecture, x, data.x_test)
rate = float(1 / jnp.linalg.eigvalsh(ntk.train)[-1])
num_steps = 500
limit = predict.trained_ensemble(nngp, ntk, y, time=rate * num_steps)


@jax.jit
@jax.vmap
def member(key):
    run = lazyjax.train(
        net.apply,
        net.init(key, x),
        x,
        y,
        optimizer=optax.sgd(rate),
        num_steps=num_steps,
    )
    return net.apply(run.params, data.x_test)[:, 0]


outputs = member(jax.random.split(jax.random.key(2), NUM_TRAINED))
mean, spread = outputs.mean(0), outputs.std(0, ddof=1)
predicted, deviation = limit.mean[:, 0], jnp.sqrt(limit.variance)
is_right = jnp.sign(predicted) == data.y_test[:, 0]
correlation = jnp.corrcoef(mean, predicted)[0, 1]
ratio = jnp.mean(spread) / jnp.mean(deviation)
print(f"The limit is right on {is_right.mean():.0%} of the test digits.")
print(f"Correlation of its mean with that of the ensemble: {correlation:.4f}")
print(f"Spread of the ensemble over the one predicted: {ratio:.2f}")

# %% [markdown]
# ## The picture

# %%
figure, (left, middle, right) = plt.subplots(
    1, 3, figsize=(11, 3.5), layout="constrained"
)
for kind, values in error.items():
    left.loglog(WIDTHS, values.mean(1), "o-", label=f"{kind}: {laws[kind].slope:.2f}")
left.loglog(WIDTHS, 0.9 * np.array(WIDTHS) ** -0.5, "k:", label="slope $-1/2$")
left.set(
    title="Kernel: distance from its limit",
    xlabel="width",
    ylabel=r"$\|H - H^\infty\| / \|H^\infty\|$",
)
left.legend(frameon=False, fontsize="small")
for axis, of_limit, of_networks, what in (
    (middle, predicted, mean, "Mean on each test digit"),
    (right, deviation, spread, "Standard deviation"),
):
    axis.plot(of_limit, of_networks, "o", ms=3, alpha=0.7)
    axis.axline((of_limit.mean(), of_limit.mean()), slope=1, color="k", lw=0.8)
    axis.set(
        title=what,
        xlabel="predicted at infinite width",
        ylabel=f"of {NUM_TRAINED} trained networks",
    )

# %% [markdown]
# ## What the claim rests on

# %%
for values in error.values():
    assert np.all(np.diff(values.mean(1)) < 0)  # falls with every widening
    fall = float(values[0].mean() / values[-1].mean())
    assert fall > 0.5 * (WIDTHS[-1] / WIDTHS[0]) ** 0.5
assert correlation > 0.98
# A few narrow networks, as continuous integration trains, scatter more.
assert abs(ratio - 1) < (0.6 if IS_FAST else 0.2)
