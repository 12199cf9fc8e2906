"""All that is known of JAX's primitives: one record each."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, TypeAlias, TypeVar

import jax.extend.core as jex

from lazyjax.callables.static import forget_programs
from lazyjax.jaxpr.axes import ALIGNED, AxisAction
from lazyjax.jaxpr.labels import RowRule, common_rows

Dependence: TypeAlias = Literal["every", "zero"]
Entries: TypeAlias = Literal["permuted", "repeated", "selected"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Primitive:
    """What is known of a primitive. What is not known costs speed, or is refused.

    Attributes:
        is_elementwise: Whether it makes each entry of its results of the same entries of
            its operands.
        call: Name of the parameter that holds a jaxpr, if it does nothing but call it.
        dependence: "every" if all results have a derivative by each operand, "zero" if
            none has by any; `None` means that JAX is asked.
        rows: How it keeps the rows of a batch apart.
        created_rows: Label of a result of FIXED operands whose shape holds the batch
            size.
        batch_param: Parameter that may hold the batch size. Rules check its value.
        axis_action: What it does to axes, to compare batches with single rows.
        entries: How entries of its operand become those of its results, unchanged:
            "permuted", "repeated" or "selected"; `None` if they are not.
        follows_dtype: Whether it computes in the dtype of its operands.
        has_finite_derivative: Whether its derivative is finite wherever its value is,
            unless it overflows.
        branch: Which branch it takes where, see `lazyjax.activations.breakpoints`; not
            of those that make integers.
        gradient: Form of the gradient by an operand, see `lazyjax.ntk.register_rule`.
        relabel: How labels of a result's axes become those of its operand's, see
            `lazyjax.ntk.trace.views`.
        limit: What it does to values of infinitely wide networks, see
            `lazyjax.infinite.lifting.rules`.
    """

    is_elementwise: bool = False
    call: str | None = None
    dependence: Dependence | None = None
    rows: RowRule | None = None
    created_rows: RowRule | None = None
    batch_param: str | None = None
    axis_action: AxisAction | None = None
    entries: Entries | None = None
    follows_dtype: bool = False
    has_finite_derivative: bool = False
    branch: Callable[..., Any] | None = None
    gradient: Callable[..., Any] | None = None
    relabel: Callable[..., Any] | None = None
    limit: Callable[..., Any] | None = None


Rule = TypeVar("Rule", bound=Callable[..., Any])

_RECORDS: dict[str, Primitive] = {}
_UNKNOWN = Primitive()


def primitive_of(eqn: jex.JaxprEqn) -> Primitive:
    """The record of an equation's primitive; all is unknown if it has none."""
    return _RECORDS.get(eqn.primitive.name, _UNKNOWN)


def register_primitive(
    primitive: str | jex.Primitive,
    *,
    elementwise: bool | None = None,
    dependence: Dependence | None = None,
    rows: RowRule | None = None,
    gradient: Callable[..., Any] | None = None,
    limit: Callable[..., Any] | None = None,
) -> None:
    """Make a primitive known to all of lazyjax, or more of one that is known.

    Everything takes effect from the next call of a verb on; programs that were made by a
    `jax.jit` outside of this package keep what they were made with. A later registration
    replaces what an earlier one, or lazyjax itself, says of the same thing.

    Args:
        primitive: The primitive, or its name as jaxprs show it.
        elementwise: Whether it makes each entry of its results of the same entries of
            its operands. If so, its rows are independent, sums over it may be pooled,
            and it is an activation in `infinite_ntk_of`.
        dependence: "every" if all results have a derivative by each operand, "zero" if
            none has by any. By default JAX is asked.
        rows: How rows of a batch are kept apart, if it is not elementwise: a function of
            an `EquationPair` that returns the `Rows` of all results, or `None`.
        gradient: A rule as `lazyjax.ntk.register_rule` takes it, if it is linear in an
            operand. By default JAX differentiates it.
        limit: What it does to values of an infinitely wide network, if it is not
            elementwise: a function of the `lazyjax.infinite.lifting.rules.Context`, the
            equation and its operands that returns the value of its result.

    Example:
        >>> import lazyjax
        >>> lazyjax.jaxpr.register_primitive("my_activation", elementwise=True)
    """
    given = {
        "is_elementwise": elementwise,
        "dependence": dependence,
        "rows": rows,
        "gradient": gradient,
        "limit": limit,
    }
    fields = {key: value for key, value in given.items() if value is not None}
    if elementwise:
        fields = {"rows": common_rows, "axis_action": ALIGNED, **fields}
    name = primitive if isinstance(primitive, str) else primitive.name
    _RECORDS[name] = dataclasses.replace(_RECORDS.get(name, _UNKNOWN), **fields)
    forget_programs()


def describe(*names: str, **fields: Any) -> None:
    """Enter what lazyjax itself knows of primitives; what is registered stays."""
    for name in names:
        record = _RECORDS.get(name, _UNKNOWN)
        unset = {
            key: value
            for key, value in fields.items()
            if getattr(record, key) == getattr(_UNKNOWN, key)
        }
        _RECORDS[name] = dataclasses.replace(record, **unset)


def describe_elementwise(*names: str, **fields: Any) -> None:
    """`describe` primitives that are elementwise in the dtype of their operands."""
    describe(
        *names,
        **{
            "is_elementwise": True,
            "dependence": "every",
            "rows": common_rows,
            "axis_action": ALIGNED,
            "follows_dtype": True,
            **fields,
        },
    )


def described_by(field: str, *names: str, **fields: Any) -> Callable[[Rule], Rule]:
    """Decorator that makes a function a field of primitives, and describes them."""

    def enter(rule: Rule) -> Rule:
        describe(*names, **{field: rule}, **fields)
        return rule

    return enter


described_by_rows = partial(described_by, "rows", follows_dtype=True)
