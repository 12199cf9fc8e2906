"""Published experiments, one file each, and the registry that names them."""

import types
from collections.abc import Mapping

from lazyjax.experiments import du2019
from lazyjax.experiments.result import Experiment as Experiment, Result as Result

EXPERIMENTS: Mapping[str, Experiment] = types.MappingProxyType(
    {
        "du2019": Experiment(
            run=du2019.run,
            title="Two-layer ReLU networks on real digits, step by step",
            source="Du, Zhai, Poczos and Singh (2019), arXiv:1810.02054",
        ),
    }
)
