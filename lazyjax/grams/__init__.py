"""Gram matrices larger than memory: tiles on disk, resumed after any end, by workers."""

from lazyjax.grams.checks import GramAudit as GramAudit, GramCheck as GramCheck
from lazyjax.grams.gram import gram as gram
from lazyjax.grams.plan import GramPlan as GramPlan
from lazyjax.grams.solving import (
    GramFactor as GramFactor,
    GramSolution as GramSolution,
    SketchedFeatures as SketchedFeatures,
    SketchedRegression as SketchedRegression,
    factorize as factorize,
    sketched_features as sketched_features,
    solve as solve,
)
from lazyjax.grams.store import GramStore as GramStore
