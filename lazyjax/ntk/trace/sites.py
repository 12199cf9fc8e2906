"""What is known of a network after its sites have been found.

A network is split in two programs. **Outer** values do not depend on the input `x`:
parameters, constants, and everything computed of these alone; they are evaluated once.
**Inner** values depend on `x` and are evaluated per example. A **site** is a use of an
outer value that depends on parameters, by an equation that makes an inner value: all
influence of the parameters on the output goes through sites.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.extend.core as jex
from jaxtyping import Array

from lazyjax.ntk.trace.rules import Form


@dataclasses.dataclass(frozen=True)
class Outer:
    """A reference to an outer value.

    Attributes:
        id: Which value; all outer values of a network are numbered together.
        stack: For each enclosing `scan`, outermost first, whether the value has a
            leading axis that is scanned over.
    """

    id: int
    stack: tuple[bool, ...] = ()


@dataclasses.dataclass(frozen=True)
class Inner:
    """A reference to an inner value, numbered over the whole network."""

    id: int


Ref = Outer | Inner


@dataclasses.dataclass(frozen=True, eq=False)
class OuterStep:
    """One equation among outer values, mapped over `num_stacked` leading axes."""

    evaluate: Callable[..., tuple[Array, ...]]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    eqn: jex.JaxprEqn
    num_stacked: int


@dataclasses.dataclass(frozen=True, eq=False)
class Pool:
    r"""What a slot's value goes through until it is summed: $\sum_p \phi_p(z_p)$.

    The cotangent at $z$ is that of the sum times the derivatives $\phi_p'(z_p)$, which
    are the same for all outputs.

    Attributes:
        start: Number of the inner value $z$.
        steps: Elementwise steps that make $\phi(z)$ of it, the last being that value's.
        axes: Axes of $z$ that are summed over.
        slot: Slot at the sum.
        record: Number of the record of derivatives.
    """

    start: int
    steps: tuple["InnerStep", ...]
    axes: tuple[int, ...]
    slot: int
    record: int


@dataclasses.dataclass(frozen=True, eq=False)
class InnerStep:
    """One equation that makes inner values.

    Attributes:
        evaluate: The equation as a function.
        inputs: Operands.
        outputs: Numbers of the inner values made.
        nudged: Slots whose perturbation is added to an operand, by position.
        slot: Slot whose perturbation is added to the first output.
        recorded: Positions of operands to be kept, with the number of each record.
        eqn: The equation, if it is one of the network's own.
        pools: What comes to its end in this step, a sum.
    """

    evaluate: Callable[..., tuple[Array, ...]]
    inputs: tuple[Ref, ...]
    outputs: tuple[int, ...]
    nudged: Mapping[int, int] = dataclasses.field(default_factory=dict)
    slot: int | None = None
    recorded: Mapping[int, int] = dataclasses.field(default_factory=dict)
    eqn: jex.JaxprEqn | None = None
    pools: tuple[Pool, ...] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class ScanStep:
    """A `scan` whose body contains sites."""

    carry: tuple[Ref, ...]
    scanned: tuple[Inner, ...]
    outputs: tuple[int, ...]
    carry_ids: tuple[int, ...]
    scanned_ids: tuple[int, ...]
    body: "Program"
    num_carry: int
    options: Mapping[str, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """Steps in order, the values that come out, and what is in it at any depth."""

    steps: tuple[InnerStep | ScanStep, ...]
    results: tuple[Ref, ...]
    outer: frozenset[Outer]
    slots: Mapping[int, tuple[bool, ...]]


@dataclasses.dataclass(frozen=True)
class Slot:
    """Where a perturbation is added: its shape outside of all scans, and its stack."""

    shape: tuple[int, ...]
    dtype: Any
    stack: tuple[bool, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Site:
    """One use of an outer value.

    Attributes:
        operand: The outer value used.
        slot: Where its cotangent is taken.
        record: Number of the recorded operand that it meets, if any.
        record_aval: Shape and dtype of that record, outside of all scans.
        form: How the gradient is made of cotangent and record; `None` where the slot
            is at the operand itself, so that the cotangent is the gradient.
        depth: Number of enclosing scans.
        primitive: Name of the equation's primitive.
        pool: What becomes of the output, if that is an elementwise function and a sum.
    """

    operand: Outer
    slot: int
    record: int | None
    record_aval: jax.ShapeDtypeStruct | None
    form: Form | None
    depth: int
    primitive: str
    pool: Pool | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """A network of one example, `(leaves, x) -> f`, split and with its sites.

    Attributes:
        outer_steps: The outer program, in order.
        program: The inner program; its one result is `f`, of shape `(1, k)`.
        constants: Known outer values.
        leaves: Numbers of the outer values that are the parameter leaves.
        example: Number of the inner value that is the input.
        depends_on: For each outer value, the leaves that it is differentiable in.
        producers: For each computed outer value, the step that makes it.
        avals: Shape and dtype of each outer value.
        slots: Where perturbations are added.
        sites: All uses of outer values that depend on parameters.
        result: Shape and dtype of `f`.
    """

    outer_steps: tuple[OuterStep, ...]
    program: Program
    constants: Mapping[int, Any]
    leaves: tuple[int, ...]
    example: int
    depends_on: tuple[frozenset[int], ...]
    producers: Mapping[int, OuterStep]
    avals: tuple[Any, ...]
    slots: tuple[Slot, ...]
    sites: tuple[Site, ...]
    result: jax.ShapeDtypeStruct
