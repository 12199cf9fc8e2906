"""The description of a network, and what is known of each kind of network."""

from lazyjax.architecture.description import (
    NORMALIZATION_EPS as NORMALIZATION_EPS,
    Architecture as Architecture,
)
from lazyjax.architecture.kinds import (
    KINDS as KINDS,
    ArchitectureKind as ArchitectureKind,
    InfiniteLimit as InfiniteLimit,
    register as register,
)
