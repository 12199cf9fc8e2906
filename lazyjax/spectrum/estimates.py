"""Numbers with their errors."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from lazyjax.files.results import Storable


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate(Storable):
    """A number and its standard error.

    Attributes:
        value: The number.
        standard_error: From the scatter over random vectors; 0 if the number is exact to
            rounding.
        num_samples: Number of random vectors; 0 if the number is exact to rounding.
    """

    value: Float[Array, "*batch"]
    standard_error: Float[Array, "*batch"]
    num_samples: int = dataclasses.field(metadata={"static": True})

    def interval(
        self, confidence: float = 0.95
    ) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"]]:
        """Confidence interval by Student's t distribution.

        Args:
            confidence: Probability with which the interval covers, if the estimate is
                normally distributed.

        Returns:
            Lower and upper end; both are `value` if it is exact.

        Raises:
            ValueError: If `confidence` is not between 0 and 1.
        """
        if not 0 < confidence < 1:
            raise ValueError(f"`confidence` must be between 0 and 1; got {confidence}.")
        if self.num_samples == 0:
            return self.value, self.value
        from scipy.special import stdtrit  # takes a tenth of a second, which few need

        quantile = -stdtrit(self.num_samples - 1, (1 - confidence) / 2)
        half = jnp.asarray(quantile, self.value.dtype) * self.standard_error
        return self.value - half, self.value + half


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class ConfidenceInterval(Storable):
    """An interval that holds a number.

    Attributes:
        value: Best guess at the number.
        lower: Lower end of the interval.
        upper: Upper end.
        confidence: Probability that the interval holds the number, over the random
            start of the iteration; 1 if nothing was drawn.
    """

    value: Float[Array, ""]
    lower: Float[Array, ""]
    upper: Float[Array, ""]
    confidence: float = dataclasses.field(metadata={"static": True})


def exact(value: Array) -> Estimate:
    """An estimate without error."""
    return Estimate(value=value, standard_error=jnp.zeros_like(value), num_samples=0)


def from_samples(
    samples: Float[Array, "samples quantities"], value: Array, gradient: Array
) -> Estimate:
    """Estimate of a function of means, its error propagated to first order.

    Args:
        samples: One row of quantities per random vector.
        value: The function at the means.
        gradient: Its derivatives by the means.

    Returns:
        The estimate.
    """
    num_samples = samples.shape[0]
    scatter = jnp.sum(
        (samples - jnp.mean(samples, axis=0, keepdims=True)) * gradient[None], axis=1
    )
    variance = jnp.sum(scatter**2) / (num_samples - 1)
    return Estimate(
        value=value,
        standard_error=jnp.sqrt(variance / num_samples),
        num_samples=num_samples,
    )
