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
# # A Flax network of your own: trained, observed, kept and plotted
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/lazyjax/lazyjax/blob/main/notebooks/05_training_your_own.ipynb)
#
# **Question.** A convolutional network written in Flax, with max pooling and biases,
# learns ten classes of digits by Adam on minibatches. Does its kernel stay what it was?
#
# **Claim.** Not in size: while the network learns to tell 19 of 20 test images, its
# kernel grows more than twentyfold, so it is far from lazy. In shape it does, after a
# beginning: within a third of the training it turns away from that of the start a little,
# to a centred alignment (CKA) near 0.9, and then stays there.

# %%
# On Colab, this installs lazyjax; elsewhere it is there already.
import importlib.util

if importlib.util.find_spec("lazyjax") is None:
    source = "git+https://github.com/lazyjax/lazyjax"
    get_ipython().system(f'pip install -q "lazyjax[data,plot,tables] @ {source}"')

# %%
import os
import tempfile
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import lazyjax
from lazyjax.dynamics import Run, observers, train
from lazyjax.dynamics.losses import cross_entropy_loss
from lazyjax.interop.flax import from_linen

IS_FAST = bool(os.environ.get("LAZYJAX_FAST"))  # smaller, for continuous integration
NUM_TRAIN, NUM_PROBES = 500, 60
NUM_STEPS, BATCH_SIZE = (400, 50) if IS_FAST else (1000, 50)

# %% [markdown]
# ## The network and the data
#
# `from_linen` makes the module a function of parameters and inputs, as all of lazyjax
# takes it. `from_nnx` and `from_equinox` do the same for models of their kinds.


# %%
class CNN(nn.Module):
    """Two convolutions, each followed by pooling, and one dense layer."""

    @nn.compact
    def __call__(self, x):
        for num_channels in (16, 32):
            x = nn.relu(nn.Conv(num_channels, (3, 3))(x))
            x = nn.max_pool(x, (2, 2), strides=(2, 2))
        return nn.Dense(10)(x.reshape(len(x), -1))


data = lazyjax.data.digits(NUM_TRAIN, num_test=500)
x, x_test = (rows.reshape(-1, 8, 8, 1) for rows in (data.x_train, data.x_test))
label, label_test = (np.argmax(rows, axis=1) for rows in (data.y_train, data.y_test))

module = CNN()
apply_fn, params = from_linen(module, module.init(jax.random.key(0), x[:1]))
print({name: leaf.shape for name, leaf in params["Conv_0"].items()}, x.shape)

# %% [markdown]
# ## Training, observed
#
# Observers look at the network between updates; those of your own are functions of a
# snapshot. Here one tells test images, and one keeps the kernel on a few training images.
# Labels are taken as they are. The bar shows loss, speed and the time left, and
# `callback` is where loggers go: `lambda step, metrics: wandb.log(metrics, step=step)`.


# %%
def test_accuracy(snapshot):
    """Share of the test images that are told."""
    found = jnp.argmax(snapshot.apply_fn(snapshot.params, x_test), axis=1)
    return jnp.mean(found == label_test)


def kernel(snapshot):
    """Trace over outputs of the kernel on some training images."""
    return lazyjax.empirical_ntk(
        snapshot.apply_fn, snapshot.params, x[:NUM_PROBES], outputs="trace"
    )


log = []
run = train(
    apply_fn,
    params,
    x,
    label,
    loss_fn=cross_entropy_loss,
    optimizer=optax.adam(1e-3),
    num_steps=NUM_STEPS,
    batch_size=BATCH_SIZE,
    key=jax.random.key(1),
    observe=[test_accuracy, kernel, observers.relative_parameter_distance],
    observe_at=np.linspace(0, NUM_STEPS, 21).astype(int),
    progress=True,
    callback=lambda step, metrics: log.append((step, metrics)),
)
print(run)
print(run.explain())
print(log[-1])

# %% [markdown]
# ## Kept, and read back
#
# The file holds arrays and JSON, nothing that is executed. `Run.load` gives the same
# run; `to_pandas` and `to_xarray` give it to other tools.

# %%
with tempfile.TemporaryDirectory() as folder:
    path = run.save(Path(folder) / "digits_cnn.npz")
    print(f"{path.stat().st_size / 1e6:.1f} MB")
    kept = Run.load(path)

table = kept.to_pandas()
table.dropna().iloc[::4]

# %%
dataset = kept.to_xarray()
print(dataset)

# %% [markdown]
# ## The picture

# %%
kernels = dataset["kernel"].values
growth = np.linalg.norm(kernels, axis=(1, 2)) / np.linalg.norm(kernels[0])

with_start = np.array([lazyjax.spectrum.alignment(k, kernels[0]) for k in kernels])
epochs = dataset.observed_at.values * BATCH_SIZE / NUM_TRAIN

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
left.semilogy(
    table.index * BATCH_SIZE / NUM_TRAIN,
    table.loss.rolling(10, min_periods=1).mean() / BATCH_SIZE,
    color="tab:gray",
)
left.set(xlabel="epoch", ylabel="cross-entropy of an example")
accuracy = left.twinx()
accuracy.plot(epochs, dataset["test_accuracy"], "o-", color="tab:blue")
accuracy.set_ylabel("test accuracy", color="tab:blue")
right.semilogy(epochs, growth, "o-", color="tab:orange")
right.set_xlabel("epoch")
right.set_ylabel("norm of the kernel, against the start", color="tab:orange")
shape = right.twinx()
shape.plot(epochs, with_start, "s--", color="tab:green")
shape.set_ylim(0, 1.05)
shape.set_ylabel("alignment with the start", color="tab:green")
plt.show()

# %% [markdown]
# ## What the claim rests on

# %%
third = len(with_start) // 3
print(f"test accuracy {float(dataset['test_accuracy'][-1]):.3f}")
print(f"the kernel grew {growth[-1]:.0f}fold")
print(
    f"alignment: {with_start[third]:.3f} after a third, {with_start[-1]:.3f} at the end"
)

assert dataset["test_accuracy"][-1] > 0.94
assert growth[-1] > 20  # a lazy network would have stayed near 1
assert 0.8 < with_start[-1] < 0.95
assert np.ptp(with_start[third:]) < 0.04
for leaf in jax.tree.leaves(kept.params):
    assert np.all(np.isfinite(leaf))
np.testing.assert_array_equal(kept.loss, run.loss)
assert [step for step, _ in log] == dataset.observed_at.values.tolist()
