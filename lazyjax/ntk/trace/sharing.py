"""One cotangent for a site and for the bias added to its output."""

import dataclasses
from collections.abc import Mapping, Sequence

from lazyjax.ntk.trace.sites import ExampleRef, Perturbation, Program, ScanStep, Site


def with_shared(
    program: Program,
    sites: Sequence[Site],
    perturbations: Sequence[Perturbation],
    added_to: Mapping[int, int],
    uses: Mapping[int, int],
) -> tuple[Program, list[Site]]:
    """The network with one perturbation for a site and the bias added to it."""
    # Where the output of a site is only used in a sum, its cotangent and that of the
    # sum are one and the same, so they (and their products) are computed once.
    same: dict[int, int] = {}
    sums = {
        site.perturbation: site.primitive
        for site in sites
        if site.form is not None and site.primitive in ("add", "sub")
    }

    def shared(program: Program) -> Program:
        steps = []
        for step in program.steps:
            if isinstance(step, ScanStep):
                steps.append(dataclasses.replace(step, body=shared(step.body)))
                continue
            own = step.perturbation
            if own in sums:
                (before,) = (r for r in step.inputs if isinstance(r, ExampleRef))
                earlier = added_to.get(before.id)
                if (
                    earlier is not None
                    and (sums[own] == "add" or step.inputs[0] == before)
                    and uses[before.id] == 1
                    and perturbations[earlier].shape == perturbations[own].shape
                ):
                    same[own] = same.get(earlier, earlier)
                    step = dataclasses.replace(step, perturbation=None)
            steps.append(step)
        left = {s: stack for s, stack in program.perturbations.items() if s not in same}
        return dataclasses.replace(program, steps=tuple(steps), perturbations=left)

    program = shared(program)
    numbers = (same.get(site.perturbation, site.perturbation) for site in sites)
    return program, [
        dataclasses.replace(site, perturbation=number)
        for site, number in zip(sites, numbers, strict=True)
    ]
