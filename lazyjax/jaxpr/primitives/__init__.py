"""Records of JAX's own primitives, by kind."""

from lazyjax.jaxpr.primitives import (
    along_axes as along_axes,
    calls as calls,
    elementwise as elementwise,
    indexing as indexing,
    linear_algebra as linear_algebra,
    parts as parts,
    products as products,
    reductions as reductions,
    shaping as shaping,
)
