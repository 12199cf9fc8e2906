"""One cotangent for a site and for the bias added to its output."""

import dataclasses
from collections.abc import Mapping, Sequence

from lazyjax.ntk.trace.sites import (
    Inner,
    Program,
    ScanStep,
    Site,
    Slot,
)


def share_slots(
    program: Program,
    sites: Sequence[Site],
    slots: Sequence[Slot],
    slot_of: Mapping[int, int],
    uses: Mapping[int, int],
) -> tuple[Program, list[Site]]:
    """The same network with one slot for a site and the bias added to its output.

    Where the output of a site is only used in a sum, its cotangent and that of the sum
    are one and the same, so they (and their products) are computed once.

    Returns:
        The program and the sites with fewer slots.
    """
    same: dict[int, int] = {}
    structured = {site.slot for site in sites if site.form is not None}
    sums = {s.slot: s.primitive for s in sites if s.primitive in ("add", "sub")}
    sums = {slot: name for slot, name in sums.items() if slot in structured}

    def shared(program: Program) -> Program:
        steps = []
        for step in program.steps:
            if isinstance(step, ScanStep):
                steps.append(dataclasses.replace(step, body=shared(step.body)))
                continue
            if step.slot in sums:
                (before,) = (r for r in step.inputs if isinstance(r, Inner))
                earlier = slot_of.get(before.id)
                passes_on = sums[step.slot] == "add" or step.inputs[0] == before
                if (
                    earlier is not None
                    and passes_on
                    and uses[before.id] == 1
                    and slots[earlier].shape == slots[step.slot].shape
                ):
                    same[step.slot] = same.get(earlier, earlier)
                    step = dataclasses.replace(step, slot=None)
            steps.append(step)
        left = {s: stack for s, stack in program.slots.items() if s not in same}
        return dataclasses.replace(program, steps=tuple(steps), slots=left)

    program = shared(program)
    sites = [
        dataclasses.replace(site, slot=same.get(site.slot, site.slot)) for site in sites
    ]
    return program, sites
