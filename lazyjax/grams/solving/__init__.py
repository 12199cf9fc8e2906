"""Systems with Gram matrices: in memory, on disk, as operators, by features of parameters."""

from lazyjax.grams.solving.direct import (
    GramFactor as GramFactor,
    factorize as factorize,
)
from lazyjax.grams.solving.iterative import (
    GramSolution as GramSolution,
    solve as solve,
)
from lazyjax.grams.solving.sketched import (
    SketchedFeatures as SketchedFeatures,
    SketchedRegression as SketchedRegression,
    sketched_features as sketched_features,
)
