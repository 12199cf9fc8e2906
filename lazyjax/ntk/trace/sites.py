"""A network split in two programs, with its sites.

Parameter values do not depend on the input `x`: they are parameters, constants and what
is computed of these alone, and are evaluated once. Example values depend on `x` and are
evaluated for each example. A site is a use of a parameter value that depends on
parameters by an equation that makes an example value: the parameters act on the output
through sites alone. Cotangents are taken by perturbations: zeros that are added where the
cotangent is wanted.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.extend.core as jex
from jaxtyping import Array

from lazyjax.ntk.trace.rules import Form


@dataclasses.dataclass(frozen=True)
class ParamRef:
    """A reference to a parameter value.

    Attributes:
        id: Which value; all parameter values of a network are numbered together.
        stack: For each enclosing `scan`, outermost first, whether the value has a
            leading axis that is scanned over.
    """

    id: int
    stack: tuple[bool, ...] = ()


@dataclasses.dataclass(frozen=True)
class ExampleRef:
    """A reference to an example value, numbered over the whole network."""

    id: int


Ref = ParamRef | ExampleRef


@dataclasses.dataclass(frozen=True, eq=False)
class ParamStep:
    """One equation among parameter values, mapped over `num_stacked` leading axes."""

    evaluate: Callable[..., tuple[Array, ...]]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    eqn: jex.JaxprEqn
    num_stacked: int


@dataclasses.dataclass(frozen=True, eq=False)
class Pool:
    r"""Elementwise functions and a sum after a perturbation: $\sum_p \phi_p(z_p)$.

    The cotangent at $z$ is that of the sum times the derivatives $\phi_p'(z_p)$, which
    are the same for all outputs.

    Attributes:
        start: Number of the example value $z$.
        steps: Elementwise steps that make $\phi(z)$ of it, the last being that value's.
        axes: Axes of $z$ that are summed over.
        perturbation: Perturbation at the sum.
        record: Number of the record of derivatives.
    """

    start: int
    steps: tuple["ExampleStep", ...]
    axes: tuple[int, ...]
    perturbation: int
    record: int


@dataclasses.dataclass(frozen=True, eq=False)
class ExampleStep:
    """One equation that makes example values.

    Attributes:
        evaluate: The equation as a function.
        inputs: Operands.
        outputs: Numbers of the example values made.
        perturbed: Perturbations whose perturbation is added to an operand, by position.
        perturbation: Perturbation whose perturbation is added to the first output.
        recorded: Positions of operands to be kept, with the number of each record.
        eqn: The equation, if it is one of the network's own.
        pools: What comes to its end in this step, a sum.
    """

    evaluate: Callable[..., tuple[Array, ...]]
    inputs: tuple[Ref, ...]
    outputs: tuple[int, ...]
    perturbed: Mapping[int, int] = dataclasses.field(default_factory=dict)
    perturbation: int | None = None
    recorded: Mapping[int, int] = dataclasses.field(default_factory=dict)
    eqn: jex.JaxprEqn | None = None
    pools: tuple[Pool, ...] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class ScanStep:
    """A `scan` whose body contains sites."""

    carry: tuple[Ref, ...]
    scanned: tuple[ExampleRef, ...]
    outputs: tuple[int, ...]
    carry_ids: tuple[int, ...]
    scanned_ids: tuple[int, ...]
    body: "Program"
    num_carry: int
    options: Mapping[str, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """Steps in order, the values that come out, and what is in it at any depth."""

    steps: tuple[ExampleStep | ScanStep, ...]
    results: tuple[Ref, ...]
    parameters: frozenset[ParamRef]
    perturbations: Mapping[int, tuple[bool, ...]]


@dataclasses.dataclass(frozen=True)
class Perturbation:
    """Where a perturbation is added: its shape outside of all scans, and its stack."""

    shape: tuple[int, ...]
    dtype: Any
    stack: tuple[bool, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Site:
    """One use of a parameter value.

    Attributes:
        operand: The parameter value used.
        perturbation: Where its cotangent is taken.
        record: Number of the recorded operand that multiplies it, if any.
        record_aval: Shape and dtype of that record, outside of all scans.
        form: How the gradient is made of cotangent and record; `None` if the perturbation
            is at the operand itself, so that the cotangent is the gradient.
        depth: Number of enclosing scans.
        primitive: Name of the equation's primitive.
        pool: What becomes of the output, if that is an elementwise function and a sum.
    """

    operand: ParamRef
    perturbation: int
    record: int | None
    record_aval: jax.ShapeDtypeStruct | None
    form: Form | None
    depth: int
    primitive: str
    pool: Pool | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class TracedNetwork:
    """A network of one example, `(leaves, x) -> f`, split and with its sites.

    Attributes:
        param_steps: The parameter program, in order.
        program: The example program; its one result is `f`, of shape `(1, k)`.
        constants: Known parameter values.
        leaves: Numbers of the parameter values that are the parameter leaves.
        example: Number of the example value that is the input.
        depends_on: For each parameter value, the leaves that it is differentiable in.
        producers: For each computed parameter value, the step that makes it.
        avals: Shape and dtype of each parameter value.
        perturbations: Where perturbations are added.
        sites: All uses of parameter values that depend on parameters.
        result: Shape and dtype of `f`.
    """

    param_steps: tuple[ParamStep, ...]
    program: Program
    constants: Mapping[int, Any]
    leaves: tuple[int, ...]
    example: int
    depends_on: tuple[frozenset[int], ...]
    producers: Mapping[int, ParamStep]
    avals: tuple[Any, ...]
    perturbations: tuple[Perturbation, ...]
    sites: tuple[Site, ...]
    result: jax.ShapeDtypeStruct
