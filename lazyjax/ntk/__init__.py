"""Finite-width neural tangent kernels of any pure function `apply_fn(params, x)`."""

from lazyjax.ntk.blocks import KernelBlocks as KernelBlocks, ntk_blocks as ntk_blocks
from lazyjax.ntk.diagonal import ntk_diagonal as ntk_diagonal
from lazyjax.ntk.empirical import empirical_ntk as empirical_ntk
from lazyjax.ntk.estimate import (
    TraceEstimate as TraceEstimate,
    ntk_trace_estimate as ntk_trace_estimate,
)
from lazyjax.ntk.layerwise import layerwise_ntk as layerwise_ntk
from lazyjax.ntk.loss import empirical_ntk_of_loss as empirical_ntk_of_loss
from lazyjax.ntk.methods.plan import Plan as Plan, PlanRow as PlanRow
from lazyjax.ntk.nngp import empirical_nngp as empirical_nngp
from lazyjax.ntk.operator import (
    NTKOperator as NTKOperator,
    ntk_operator as ntk_operator,
)
from lazyjax.ntk.plan import ntk_plan as ntk_plan
from lazyjax.ntk.taylor import linearize as linearize, taylor_expand as taylor_expand
from lazyjax.ntk.trace.rules import register_rule as register_rule
