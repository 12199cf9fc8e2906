"""The experiments that there are: one line each, open to those of others."""

import importlib
from collections.abc import Iterator, Mapping

from lazyjax.experiments.record import Experiment

# Modules are imported when their experiment is asked for: each defines `EXPERIMENT`.
_MODULES = {
    "exact-vs-linearized": "lazy.exact_vs_linearized",
    "du2019": "convergence.du2019",
    "du2019-deep": "convergence.du2019_deep",
    "zou2018": "convergence.zou2018",
    "random-labels": "convergence.random_labels",
    "chatterjee": "convergence.chatterjee",
    "allen-zhu": "convergence.allen_zhu",
    "piecewise-affine": "convergence.piecewise_affine",
    "how-wide": "convergence.how_wide",
    "chizat-bach": "lazy.chizat_bach",
    "chizat-bach-images": "lazy.chizat_bach_images",
    "geiger": "lazy.geiger",
    "kernel-drift": "lazy.kernel_drift",
    "lee2019": "lazy.lee2019",
    "richness": "lazy.richness",
    "simon2023": "generalization.simon2023",
    "ghorbani": "generalization.ghorbani",
    "symmetry": "generalization.symmetry",
    "finite-width": "lazy.finite_width",
    "spectra": "spectra.weight_spectra",
    "hessian": "spectra.hessian",
    "cross-entropy": "lazy.cross_entropy",
}
_registered: dict[str, Experiment] = {}


class _Experiments(Mapping[str, Experiment]):
    def __getitem__(self, name: str) -> Experiment:
        if name not in _registered and name in _MODULES:
            module = importlib.import_module(f"lazyjax.experiments.{_MODULES[name]}")
            register(module.EXPERIMENT)
        return _registered[name]

    def __iter__(self) -> Iterator[str]:
        return iter([*_MODULES, *(_registered.keys() - _MODULES)])

    def __len__(self) -> int:
        return len(list(iter(self)))


EXPERIMENTS: Mapping[str, Experiment] = _Experiments()
"""All registered experiments by name."""


def register(experiment: Experiment) -> Experiment:
    """Add an experiment to `EXPERIMENTS`.

    Args:
        experiment: The experiment.

    Returns:
        The experiment.

    Raises:
        ValueError: If there is another of that name.
    """
    name = experiment.name
    if name in _MODULES:
        module = importlib.import_module(f"lazyjax.experiments.{_MODULES[name]}")
        known = module.EXPERIMENT
    else:
        known = experiment
    known = _registered.setdefault(name, known)
    if known != experiment:
        raise ValueError(
            f"`experiment` must have a name of its own; {name!r} is {known.title!r} "
            "already."
        )
    return experiment
