"""Finite networks: pure functions built from an `Architecture` and a width."""

from lazyjax.nets.build import build as build
from lazyjax.nets.cnn import cnn as cnn, conv_resnet as conv_resnet
from lazyjax.nets.mlp import mlp as mlp
from lazyjax.nets.network import Network as Network, symmetrize as symmetrize
from lazyjax.nets.padded import (
    PaddedNetwork as PaddedNetwork,
    can_be_padded as can_be_padded,
)
from lazyjax.nets.resnet import resnet as resnet
from lazyjax.nets.rnn import rnn as rnn
