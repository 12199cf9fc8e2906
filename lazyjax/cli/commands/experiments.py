"""`lazyjax experiments`: what can be reproduced."""


def experiments() -> None:
    """The experiments of the registry."""
    from lazyjax.experiments import EXPERIMENTS

    for name, experiment in EXPERIMENTS.items():
        print(f"{name}: {experiment.title}. {experiment.source}.")
