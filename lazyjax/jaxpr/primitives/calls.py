"""Primitives that only call another jaxpr.

They are inlined: they change neither what is computed nor how it is differentiated,
unlike `custom_jvp_call` and `custom_vjp_call`.
"""

from lazyjax.jaxpr.registry import describe

describe("jit", "pjit", "remat", "remat2", "checkpoint", call="jaxpr")
describe("closed_call", "core_call", call="call_jaxpr")
describe("optimization_barrier", follows_dtype=True)
