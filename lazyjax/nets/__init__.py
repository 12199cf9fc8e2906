"""Finite networks: pure functions built from an `Architecture` and a width."""

from lazyjax.nets.block_resnet import block_resnet as block_resnet
from lazyjax.nets.build import build as build
from lazyjax.nets.cnn import cnn as cnn, conv_resnet as conv_resnet
from lazyjax.nets.images import resnet18 as resnet18, vgg11 as vgg11
from lazyjax.nets.mlp import mlp as mlp, resnet as resnet
from lazyjax.nets.network import (
    Network as Network,
    from_module as from_module,
    pre_activations as pre_activations,
    symmetrize as symmetrize,
)
from lazyjax.nets.rnn import rnn as rnn
from lazyjax.nets.vit import vit as vit
