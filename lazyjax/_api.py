"""What `import lazyjax` offers."""

from lazyjax import (
    certify as certify,
    data as data,
    dynamics as dynamics,
    forecast as forecast,
    grams as grams,
    infinite as infinite,
    laziness as laziness,
    linalg as linalg,
    nets as nets,
    spectrum as spectrum,
    sweeps as sweeps,
)
from lazyjax.architecture import Architecture as Architecture
from lazyjax.dynamics import (
    gradient_flow as gradient_flow,
    linear_dynamics as linear_dynamics,
    train as train,
)
from lazyjax.grams import gram as gram
from lazyjax.infinite import (
    infinite_nngp as infinite_nngp,
    infinite_nngp_of as infinite_nngp_of,
    infinite_ntk as infinite_ntk,
    infinite_ntk_of as infinite_ntk_of,
)
from lazyjax.montecarlo import monte_carlo_ntk as monte_carlo_ntk
from lazyjax.nets import Network as Network
from lazyjax.ntk import (
    empirical_nngp as empirical_nngp,
    empirical_ntk as empirical_ntk,
    empirical_ntk_of_loss as empirical_ntk_of_loss,
    layerwise_ntk as layerwise_ntk,
    linearize as linearize,
    ntk_blocks as ntk_blocks,
    ntk_diagonal as ntk_diagonal,
    ntk_operator as ntk_operator,
    ntk_plan as ntk_plan,
    ntk_trace_estimate as ntk_trace_estimate,
    taylor_expand as taylor_expand,
)
from lazyjax.sweeps import sweep as sweep
