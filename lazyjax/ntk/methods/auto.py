"""The kernel by the method that is modelled to take the least time."""

from jaxtyping import Array

from lazyjax.ntk.methods.jacobian import jacobian_ntk
from lazyjax.ntk.methods.plan import build_plan
from lazyjax.ntk.methods.structured import build_problem, contract
from lazyjax.ntk.methods.vjp import vector_product_ntk
from lazyjax.ntk.requests.request import KernelRequest


def auto_ntk(request: KernelRequest) -> Array:
    """Kernel by the method of `ntk_plan`, structured unless another is far better."""
    problem = build_problem(request)
    method = build_plan(problem).method
    if method == "jacobian":
        return jacobian_ntk(request)
    if method == "vjp":
        try:
            return vector_product_ntk(request)
        except TypeError:  # the network cannot be differentiated forwards
            pass
    return contract(problem)
