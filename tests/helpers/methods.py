"""Kernels by one method, without the checks of the verbs."""

from lazyjax.ntk.methods import structured
from lazyjax.ntk.requests.request import KernelRequest


def structured_ntk(apply_fn, params, x1, x2=None, **options):
    request = KernelRequest(apply_fn=apply_fn, params=params, x1=x1, x2=x2, **options)
    return structured.structured_ntk(request)
