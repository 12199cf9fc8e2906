"""The network of one example as parameter and example programs, with its sites found."""

import functools
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from lazyjax.jaxpr.equations import aval_of, called, evaluate, opened, scan_counts
from lazyjax.jaxpr.registry import primitive_of
from lazyjax.ntk.trace.pooling import with_pools
from lazyjax.ntk.trace.rules import form_of
from lazyjax.ntk.trace.sharing import with_shared
from lazyjax.ntk.trace.sites import (
    ExampleRef,
    ExampleStep,
    ParamRef,
    ParamStep,
    Perturbation,
    Program,
    Ref,
    ScanStep,
    Site,
    TracedNetwork,
)


def trace_network(
    apply_fn: Callable[..., Array], params: Any, example: Any
) -> TracedNetwork:
    """The network `apply_fn` at one example, a batch of one by shapes, with its sites."""
    leaves, structure = jax.tree.flatten(params)

    def of_leaves(leaves: list[Array], x: Any) -> Array:
        return apply_fn(jax.tree.unflatten(structure, leaves), x)

    shapes = [jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves]
    closed = jax.make_jaxpr(of_leaves)(shapes, example)
    return _Tracer().network(closed, len(leaves))


class _Scope:
    """The steps of one level: the whole network, or the body of one `scan`."""

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self.steps: list[ExampleStep | ScanStep] = []

    def program(
        self, results: Sequence[Ref], perturbations: Sequence[Perturbation]
    ) -> Program:
        parameters: set[ParamRef] = {
            ref for ref in results if isinstance(ref, ParamRef)
        }
        inside: dict[int, tuple[bool, ...]] = {}
        for step in self.steps:
            if isinstance(step, ScanStep):
                depth = self.depth
                parameters |= {ref for ref in step.carry if isinstance(ref, ParamRef)}
                parameters |= {
                    ParamRef(r.id, r.stack[:depth]) for r in step.body.parameters
                }
                inside.update(step.body.perturbations)
            else:
                parameters |= {ref for ref in step.inputs if isinstance(ref, ParamRef)}
                added = [*step.perturbed.values(), step.perturbation]
                inside.update(
                    {s: perturbations[s].stack for s in added if s is not None}
                )
        return Program(tuple(self.steps), tuple(results), frozenset(parameters), inside)


class _Tracer:
    """All that is collected while the jaxpr is walked, once, forward."""

    def __init__(self) -> None:
        self.avals: list[Any] = []
        self.depends_on: list[frozenset[int]] = []
        self.constants: dict[int, Any] = {}
        self.param_steps: list[ParamStep] = []
        self.producers: dict[int, ParamStep] = {}
        self.perturbations: list[Perturbation] = []
        self.sites: list[Site] = []
        self.example_avals: dict[int, Any] = {}
        self.example_ids = itertools.count()
        self.records = itertools.count()
        self.lengths: list[int] = []
        # For each perturbed example value, its perturbation.
        self.added_to: dict[int, int] = {}
        self.uses: Counter[int] = Counter()

    def network(self, closed: Any, num_leaves: int) -> TracedNetwork:
        jaxpr, consts = opened(closed)
        scope = _Scope(0)
        leaves = []
        for number, var in enumerate(jaxpr.invars[:num_leaves]):
            differentiable = jnp.issubdtype(aval_of(var).dtype, jnp.inexact)
            depends_on = frozenset({number} if differentiable else ())
            leaves.append(self.new_param(var.aval, depends_on))
        examples = [self.new_value(var.aval) for var in jaxpr.invars[num_leaves:]]
        refs = [*(ParamRef(leaf) for leaf in leaves), *examples]
        (result,) = self.walk(scope, jaxpr, consts, refs)
        result = self.as_value(scope, result)
        program = scope.program((result,), self.perturbations)
        self.count_uses(program)
        program, sites = with_shared(
            program, self.sites, self.perturbations, self.added_to, self.uses
        )
        program, sites = with_pools(
            program,
            sites,
            {perturbation: value for value, perturbation in self.added_to.items()},
            self.uses,
            self.aval_inside,
            lambda aval: self.perturb(aval.shape, aval.dtype, ()),
            lambda: next(self.records),
        )
        return TracedNetwork(
            param_steps=tuple(self.param_steps),
            program=program,
            constants=self.constants,
            leaves=tuple(leaves),
            examples=tuple(example.id for example in examples),
            depends_on=tuple(self.depends_on),
            producers=self.producers,
            avals=tuple(self.avals),
            perturbations=tuple(self.perturbations),
            sites=tuple(sites),
            result=self.example_avals[result.id],
        )

    # Values.

    def new_param(self, aval: Any, depends_on: frozenset[int]) -> int:
        self.avals.append(jax.ShapeDtypeStruct(aval.shape, aval.dtype))
        self.depends_on.append(depends_on)
        return len(self.avals) - 1

    def constant(self, value: Any, depth: int) -> ParamRef:
        ref = self.new_param(jax.typeof(value), frozenset())
        self.constants[ref] = value
        return ParamRef(ref, (False,) * depth)

    def new_value(self, aval: Any) -> ExampleRef:
        ref = ExampleRef(next(self.example_ids))
        self.example_avals[ref.id] = jax.ShapeDtypeStruct(aval.shape, aval.dtype)
        return ref

    def aval_inside(self, ref: Ref) -> jax.ShapeDtypeStruct:
        if isinstance(ref, ExampleRef):
            return self.example_avals[ref.id]
        aval = self.avals[ref.id]
        return jax.ShapeDtypeStruct(aval.shape[sum(ref.stack) :], aval.dtype)

    def perturb(self, shape: Sequence[int], dtype: Any, stack: tuple) -> int:
        self.perturbations.append(Perturbation(tuple(shape), dtype, stack))
        return len(self.perturbations) - 1

    def is_weight(self, ref: Ref) -> bool:
        return isinstance(ref, ParamRef) and bool(self.depends_on[ref.id])

    # Equations.

    def walk(
        self, scope: _Scope, jaxpr: jex.Jaxpr, consts: Sequence, inputs: Sequence[Ref]
    ) -> list[Ref]:
        env: dict[Any, Ref] = dict(zip(jaxpr.invars, inputs, strict=True))
        for var, value in zip(jaxpr.constvars, consts, strict=True):
            env[var] = self.constant(value, scope.depth)

        def read(atom: Any) -> Ref:
            if isinstance(atom, jex.Literal):
                return self.constant(_array(atom), scope.depth)
            return env[atom]

        for eqn in jaxpr.eqns:
            refs = [read(atom) for atom in eqn.invars]
            results = self.equation(scope, eqn, refs, jaxpr.debug_info)
            env.update(zip(eqn.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def equation(
        self, scope: _Scope, eqn: jex.JaxprEqn, refs: list[Ref], debug_info: Any
    ) -> list[Ref]:
        inlined = called(eqn)
        if inlined is not None:
            return self.walk(scope, *opened(inlined), refs)
        run = functools.partial(evaluate, eqn, debug_info)
        parameters = [ref for ref in refs if isinstance(ref, ParamRef)]
        if len(parameters) == len(refs):
            return list(self.hoist(scope, eqn, run, parameters))
        if any(self.is_weight(ref) for ref in refs):
            if eqn.primitive.name == "scan":
                return self.scan(scope, eqn, refs)
            if eqn.primitive.name == "cond" and isinstance(refs[0], ExampleRef):
                return self.choose(scope, eqn, refs)
        return list(self.emit(scope, eqn, run, refs))

    def hoist(
        self, scope: _Scope, eqn: jex.JaxprEqn, run: Callable, refs: list[ParamRef]
    ) -> list[ParamRef]:
        # Nothing here depends on x: done once, for all iterations of enclosing scans.
        stack = tuple(
            any(ref.stack[level] for ref in refs) for level in range(scope.depth)
        )
        for level in reversed(range(scope.depth)):
            if stack[level]:
                axes = [0 if ref.stack[level] else None for ref in refs]
                run = jax.vmap(run, in_axes=axes)
        lengths = [n for n, s in zip(self.lengths, stack, strict=True) if s]
        depends_on = frozenset().union(*(self.depends_on[ref.id] for ref in refs))
        is_blocked = primitive_of(eqn).dependence == "zero"
        outputs = []
        for var in eqn.outvars:
            aval = aval_of(var)
            aval = jax.ShapeDtypeStruct((*lengths, *aval.shape), aval.dtype)
            smooth = jnp.issubdtype(aval.dtype, jnp.inexact)
            smooth = smooth and not is_blocked
            outputs.append(self.new_param(aval, depends_on if smooth else frozenset()))
        inputs = tuple(ref.id for ref in refs)
        step = ParamStep(run, inputs, tuple(outputs), eqn, len(lengths))
        self.param_steps.append(step)
        self.producers.update(dict.fromkeys(outputs, step))
        return [ParamRef(output, stack) for output in outputs]

    def emit(
        self, scope: _Scope, eqn: jex.JaxprEqn, run: Callable, refs: list[Ref]
    ) -> list[ExampleRef]:
        outputs = [self.new_value(var.aval) for var in eqn.outvars]
        weights = [i for i, ref in enumerate(refs) if self.is_weight(ref)]
        if primitive_of(eqn).dependence == "zero":
            weights = []
        if len(weights) == 1:
            (position,) = weights
            form = form_of(eqn, position)
            if form is not None:
                self.emit_site(scope, eqn, run, refs, outputs[0], position, form)
                return outputs
        perturbed = {
            position: self.dense_site(scope, refs[position], eqn.primitive.name)
            for position in weights
        }
        ids = tuple(output.id for output in outputs)
        scope.steps.append(ExampleStep(run, tuple(refs), ids, perturbed, eqn=eqn))
        return outputs

    def emit_site(
        self,
        scope: _Scope,
        eqn: jex.JaxprEqn,
        run: Callable,
        refs: list[Ref],
        output: ExampleRef,
        position: int,
        form: Any,
    ) -> None:
        aval, operand = aval_of(eqn.outvars[0]), refs[position]
        assert isinstance(operand, ParamRef)
        stack = (True,) * scope.depth
        perturbation = self.perturb((*self.lengths, *aval.shape), aval.dtype, stack)
        recorded, record, record_aval = {}, None, None
        if form.act is not None:
            record = next(self.records)
            recorded = {form.act_position: record}
            act = aval_of(eqn.invars[form.act_position])
            record_aval = jax.ShapeDtypeStruct((*self.lengths, *act.shape), act.dtype)
        step = ExampleStep(
            run, tuple(refs), (output.id,), {}, perturbation, recorded, eqn
        )
        scope.steps.append(step)
        self.added_to[output.id] = perturbation
        self.sites.append(
            Site(
                operand=operand,
                perturbation=perturbation,
                record=record,
                record_aval=record_aval,
                form=form,
                depth=scope.depth,
                primitive=eqn.primitive.name,
            )
        )

    def dense_site(self, scope: _Scope, ref: Ref, primitive: str) -> int:
        assert isinstance(ref, ParamRef)
        aval = self.avals[ref.id]
        perturbation = self.perturb(aval.shape, aval.dtype, ref.stack)
        self.sites.append(
            Site(ref, perturbation, None, None, None, scope.depth, primitive)
        )
        return perturbation

    def as_value(self, scope: _Scope, ref: Ref) -> ExampleRef:
        # A parameter value that is wanted as an example value: its use is a site.
        if isinstance(ref, ExampleRef):
            return ref
        output = self.new_value(self.aval_inside(ref))
        perturbed = {}
        if self.is_weight(ref):
            perturbed = {0: self.dense_site(scope, ref, "identity")}
        scope.steps.append(ExampleStep(lambda v: (v,), (ref,), (output.id,), perturbed))
        return output

    # Control flow.

    def choose(self, scope: _Scope, eqn: jex.JaxprEqn, refs: list[Ref]) -> list[Ref]:
        # A branch chosen by the example: under `vmap` JAX runs all branches anyway.
        index, *operands = refs
        branches = [
            self.walk(scope, *opened(branch), operands)
            for branch in eqn.params["branches"]
        ]
        results: list[Ref] = []
        for number, var in enumerate(eqn.outvars):
            cases = [self.as_value(scope, branch[number]) for branch in branches]
            output = self.new_value(var.aval)
            step = ExampleStep(_select, (index, *cases), (output.id,))
            scope.steps.append(step)
            results.append(output)
        return results

    def scan(self, scope: _Scope, eqn: jex.JaxprEqn, refs: list[Ref]) -> list[Ref]:
        jaxpr, consts = opened(eqn.params["jaxpr"])
        num_consts, num_carry = scan_counts(eqn)
        constant = refs[:num_consts]
        carry = refs[num_consts : num_consts + num_carry]
        scanned = refs[num_consts + num_carry :]
        carry = [self.as_value(scope, r) if self.is_weight(r) else r for r in carry]
        body = _Scope(scope.depth + 1)
        self.lengths.append(eqn.params["length"])
        carried = [
            self.new_value(var.aval)
            for var in jaxpr.invars[num_consts : num_consts + num_carry]
        ]
        inputs: list[Ref] = [_deeper(ref, stacked=False) for ref in constant]
        inputs += carried
        pieces = []
        for ref, var in zip(
            scanned, jaxpr.invars[num_consts + num_carry :], strict=True
        ):
            if isinstance(ref, ExampleRef):
                pieces.append((ref, self.new_value(var.aval)))
                inputs.append(pieces[-1][1])
            else:
                inputs.append(_deeper(ref, stacked=True))
        results = self.walk(body, jaxpr, consts, inputs)
        results = [self.as_value(body, ref) for ref in results]
        self.lengths.pop()
        outputs = [self.new_value(var.aval) for var in eqn.outvars]
        options = {key: eqn.params[key] for key in ("length", "reverse", "unroll")}
        scope.steps.append(
            ScanStep(
                carry=tuple(carry),
                scanned=tuple(ref for ref, _ in pieces),
                outputs=tuple(output.id for output in outputs),
                carry_ids=tuple(ref.id for ref in carried),
                scanned_ids=tuple(ref.id for _, ref in pieces),
                body=body.program(results, self.perturbations),
                num_carry=num_carry,
                options=options,
            )
        )
        return list(outputs)

    def count_uses(self, program: Program) -> None:
        for step in program.steps:
            if isinstance(step, ScanStep):
                self.count(step.carry)
                self.count(step.scanned)
                self.count_uses(step.body)
            else:
                self.count(step.inputs)
        self.count(program.results)

    def count(self, refs: Iterable[Ref]) -> None:
        self.uses.update(ref.id for ref in refs if isinstance(ref, ExampleRef))


def _deeper(ref: Ref, *, stacked: bool) -> Ref:
    return ParamRef(ref.id, (*ref.stack, stacked)) if isinstance(ref, ParamRef) else ref


def _select(index: Array, *cases: Array) -> tuple[Array]:
    if len(cases) == 1:
        return cases
    index = jnp.clip(index, 0, len(cases) - 1)
    which = index.astype(bool) if len(cases) == 2 else index
    return (lax.select_n(which, *cases),)


def _array(literal: Any) -> Array:
    return jnp.asarray(literal.val, dtype=literal.aval.dtype)
