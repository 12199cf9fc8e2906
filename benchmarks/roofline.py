r"""The least a task can take, by arithmetic and traffic counted by hand.

XLA's own count is used in a test only, as a check of the forward pass.
"""

import dataclasses

from benchmarks.workloads import Site, Workload


@dataclasses.dataclass(frozen=True)
class Cost:
    """Floating-point operations, and bytes that must be moved to and from memory."""

    flops: float
    num_bytes: float

    def seconds(self, peak: "Cost") -> float:
        """Least time at the rates `peak`, both per second."""
        return max(self.flops / peak.flops, self.num_bytes / peak.num_bytes)


def forward_flops(work: Workload) -> int:
    """Operations of the network on one example, elementwise ones left out."""
    sites = sum(2 * s.positions * s.d_in * s.d_out for s in work.sites)
    return sites + work.mixing_flops


def backward_flops(work: Workload) -> int:
    """Operations to propagate one cotangent of one example to every site."""
    sites = sum(
        2 * s.positions * s.d_in * s.d_out for s in work.sites if not s.is_first
    )
    return sites + 2 * work.mixing_flops


def kernel_cost(work: Workload, itemsize: int = 4) -> Cost:
    r"""Floor of the whole kernel of a batch with itself.

    One forward pass, one cotangent for each of the `k` outputs, and at each site the
    cheapest order of contraction, of which symmetry saves half. With `s` positions, and
    `a`, `\delta` what a site reads and the cotangents of what it gives:

    - per-example gradients, $2 n k s\, d_{in} d_{out}$, then their Gram matrix,
      $n^2 k^2 d_{in} d_{out}$;
    - or Gram matrices of `a` and `\delta` over all pairs of positions, multiplied:
      $n^2 s^2 d_{in} + n^2 k^2 s^2 (d_{out} + 1)$;
    - or the first of these times the `\delta` of one example, times those of the other:
      $n^2 s^2 (d_{in} + k d_{out}) + n^2 k^2 s d_{out}$;
    - or, before an activation and a mean over positions, where cotangents differ between
      outputs by one number for each of `d_out`: operands weighted and summed,
      $2 n s\, d_{in} d_{out}$, and their products, $n^2 d_{out} (d_{in} + k^2)$.

    Vectors added or multiplied (biases, gains) cost less than the weights beside them
    and are left out, as is the lookup of an embedding. The bytes are parameters,
    inputs and result, once: what lies between them might stay in cache.
    """
    n, k = work.n, work.k
    flops = n * forward_flops(work) + n * k * backward_flops(work)
    flops += sum(_contraction_flops(s, n, k) for s in work.sites)
    return Cost(flops, itemsize * (_read(work) + n * n * k * k))


def gradient_cost(work: Workload, itemsize: int = 4) -> Cost:
    """Floor of the gradient of a loss over the batch: weights cost one more product."""
    n = work.n
    flops = n * (2 * forward_flops(work) + backward_flops(work) - work.mixing_flops)
    return Cost(flops, itemsize * (_read(work) + work.num_params))


def _contraction_flops(site: Site, n: int, k: int) -> int:
    s, weights = site.positions, site.d_in * site.d_out
    by_gradients = (2 if s > 1 else 1) * n * k * s * weights + n**2 * k**2 * weights
    by_grams = n**2 * s**2 * (site.d_in + k**2 * (site.d_out + 1))
    in_a_chain = n**2 * s * (s * (site.d_in + k * site.d_out) + k**2 * site.d_out)
    pooled = 2 * n * s * weights + n**2 * site.d_out * (site.d_in + k**2)
    least = min(by_gradients, by_grams, in_a_chain)
    return min(least, pooled) if site.is_pooled else least


def _read(work: Workload) -> int:
    num_inputs = work.n
    for size in work.input_shape:
        num_inputs *= size
    return work.num_params + num_inputs
