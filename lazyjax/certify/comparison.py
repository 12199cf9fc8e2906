r"""Conditions for convergence side by side, on one network, data set and start.

For $L = \tfrac12\lVert r\rVert^2$: Polyak and Lojasiewicz' inequality for all parameters,
PL* in the ball of Liu et al., the theorem of Oymak and Soltanolkotabi, Chatterjee's
criterion, and the certificate of gradient flow. Either of PL* and Oymak and
Soltanolkotabi's theorem implies Chatterjee's criterion, which implies the certificate of
flow; none of these implications can be turned round. The inequality for all parameters
fails for nearly all networks, which tells nothing of this start, and Lojasiewicz' own
inequality says less than any: not that the loss goes to zero.
"""

import dataclasses
from collections.abc import Iterator, Mapping

from jaxtyping import Float, Shaped

from lazyjax.certify.bounds.start import bounds_at
from lazyjax.certify.certificate import Certificate, Rigor
from lazyjax.certify.theorems import THEOREMS
from lazyjax.files.results import Storable
from lazyjax.nets import Network
from lazyjax.typing import AnyArray, ApplyFn, Params


@dataclasses.dataclass(frozen=True, kw_only=True)
class TheoremComparison(Storable):
    """Certificates of several theorems for one start.

    A certificate is an attribute under the name of its theorem, too: `found.flow`.

    Attributes:
        certificates: The certificates, by the names of `lazyjax.certify.theorems.THEOREMS`.
    """

    certificates: Mapping[str, Certificate]

    def __iter__(self) -> Iterator[Certificate]:
        return iter(self.certificates.values())

    def __getattr__(self, name: str) -> Certificate:
        certificates = self.__dict__.get("certificates", {})
        if name not in certificates:
            known = ", ".join(certificates)
            raise AttributeError(f"no certificate {name!r}; there are: {known}")
        return certificates[name]

    def explain(self) -> str:
        """One line for each theorem."""
        return "\n".join(f"{found.verdict.value:<12} {found.theorem}" for found in self)


def compare(
    network: Network | ApplyFn,
    params: Params,
    x: Shaped[AnyArray, "n *d"],
    y: Float[AnyArray, "n k"],
    *,
    rigor: Rigor = "proof",
) -> TheoremComparison:
    r"""Verdicts of all registered theorems that are about such a network, on one start.

    Args:
        network: Network, or a function `apply_fn(params, x)`.
        params: The start.
        x: Training inputs.
        y: Training targets.
        rigor: "proof" to account for rounding, "float" to save time.

    Returns:
        The certificates. That of Polyak and Lojasiewicz' inequality is REFUTED where
        parameters of zero, of trained layers, have zero gradient and positive loss.

    Raises:
        ValueError: If no theorem is about such a network, or arguments do not fit.
        TypeError: If an array is not floating point.

    Example:
        >>> import jax, lazyjax
        >>> data = lazyjax.data.sphere(4, 32, key=jax.random.key(0))
        >>> net = lazyjax.nets.mlp(
        ...     width=4096,
        ...     activation="tanh",
        ...     w_std=12.0,
        ...     input_scaling="none",
        ...     symmetrized=True,
        ... )
        >>> params = net.init(jax.random.key(1), data.x_train)
        >>> print(compare(net, params, data.x_train, data.y_train).explain())
        REFUTED      Polyak-Lojasiewicz inequality for all parameters
        INCONCLUSIVE PL* condition of Liu, Zhu and Belkin (2022)
        INCONCLUSIVE gradient descent by Oymak and Soltanolkotabi (2019)
        CERTIFIED    Chatterjee's criterion (2022), gradient flow
        CERTIFIED    gradient flow from bounds at the start
        INCONCLUSIVE Lojasiewicz inequality

    References:
        Polyak (1963) and Lojasiewicz (1963), for their inequalities; those of the
        theorems stand with them.
    """
    start = bounds_at(network, params, x, y, rigor=rigor)
    found = {
        name: theorem.certify(start)
        for name, theorem in THEOREMS.items()
        if theorem.needs(start).holds is True
    }
    if not found:
        raise ValueError(
            "`network` must be one that a theorem of `certify.theorems` is about: "
            f"{start.smooth.statement} ({start.smooth.detail})."
        )
    return TheoremComparison(certificates=found)
