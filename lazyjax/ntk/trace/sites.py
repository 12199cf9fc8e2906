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
    """A reference to a parameter value."""

    id: int  # which value; all parameter values of a network are numbered together
    # For each enclosing `scan`, outermost first, whether the value has a leading axis
    # that is scanned over.
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
    """

    start: int  # number of the example value $z$
    # Elementwise steps that make $\phi(z)$ of it, the last being that value's.
    steps: tuple["ExampleStep", ...]
    axes: tuple[int, ...]  # axes of $z$ that are summed over
    perturbation: int  # perturbation at the sum
    record: int  # number of the record of derivatives


@dataclasses.dataclass(frozen=True, eq=False)
class ExampleStep:
    """One equation that makes example values."""

    evaluate: Callable[..., tuple[Array, ...]]  # the equation as a function
    inputs: tuple[Ref, ...]  # operands
    outputs: tuple[int, ...]  # numbers of the example values made
    # Perturbations that are added to an operand, by position.
    perturbed: Mapping[int, int] = dataclasses.field(default_factory=dict)
    # The one that is added to the first output.
    perturbation: int | None = None
    # Positions of operands to be kept, with the number of each record.
    recorded: Mapping[int, int] = dataclasses.field(default_factory=dict)
    eqn: jex.JaxprEqn | None = None  # the equation, if it is one of the network's own
    pools: tuple[Pool, ...] = ()  # what comes to its end in this step, a sum


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
    """One use of a parameter value."""

    operand: ParamRef  # the parameter value used
    perturbation: int  # where its cotangent is taken
    record: int | None  # number of the recorded operand that multiplies it, if any
    # Shape and dtype of that record, outside of all scans.
    record_aval: jax.ShapeDtypeStruct | None
    # How the gradient is made of cotangent and record; `None` if the perturbation is at
    # the operand itself, so that the cotangent is the gradient.
    form: Form | None
    depth: int  # number of enclosing scans
    primitive: str  # name of the equation's primitive
    # What becomes of the output, if that is an elementwise function and a sum.
    pool: Pool | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class TracedNetwork:
    """A network of one example, `(leaves, x) -> f`, split and with its sites."""

    param_steps: tuple[ParamStep, ...]  # the parameter program, in order
    program: Program  # the example program; its one result is `f`, of shape `(1, k)`
    constants: Mapping[int, Any]  # known parameter values
    # Numbers of the parameter values that are the parameter leaves.
    leaves: tuple[int, ...]
    # Numbers of the example values that are the leaves of the input.
    examples: tuple[int, ...]
    # For each parameter value, the leaves that it is differentiable in.
    depends_on: tuple[frozenset[int], ...]
    # For each computed parameter value, the step that makes it.
    producers: Mapping[int, ParamStep]
    avals: tuple[Any, ...]  # shape and dtype of each parameter value
    perturbations: tuple[Perturbation, ...]  # where perturbations are added
    sites: tuple[Site, ...]  # all uses of parameter values that depend on parameters
    result: jax.ShapeDtypeStruct  # shape and dtype of `f`
