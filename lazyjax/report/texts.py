"""Numbers and tables as text: strict JSON, and tables for a terminal."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from rich.table import Table

from lazyjax.laziness import mean_and_sem
from lazyjax.typing import AnyArray


def to_json(value: object) -> Any:
    """What JSON can say of `value`: numbers, strings, lists and mappings only.

    JSON has no NaN and no infinity: they become `None`. Floating-point numbers are
    written with the digits of their own precision.

    Args:
        value: Anything made of arrays, numbers, strings, mappings, sequences and
            dataclasses.

    Returns:
        The same structure for `json.dumps(..., allow_nan=False)`.

    Raises:
        TypeError: If `value` holds anything else, or a key that is not a string.

    Example:
        >>> import numpy as np
        >>> to_json({"loss": np.array([0.5, np.nan]), "width": np.int32(8)})
        {'loss': [0.5, None], 'width': 8}
    """
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        array = np.asarray(value)
        if array.ndim:
            return [to_json(item) for item in array]
        # str is the shortest text that names this number in its own precision.
        is_float = np.issubdtype(array.dtype, np.floating)
        return to_json(float(str(array[()])) if is_float else array.item())
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"`value` must have strings for keys; got {key!r}.")
        return {key: to_json(item) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: to_json(getattr(value, field.name))
            for field in dataclasses.fields(value)
        }
    if isinstance(value, Sequence):
        return [to_json(item) for item in value]
    raise TypeError(f"`value` must be made of data; got {type(value).__name__}.")


def json_bytes(value: object) -> bytes:
    r"""Strict JSON text of `value`.

    Args:
        value: Whatever `to_json` takes.

    Returns:
        One line of UTF-8 text.

    Example:
        >>> import math
        >>> json_bytes({"width": 8, "loss": math.inf})
        b'{"width": 8, "loss": null}\n'
    """
    return (json.dumps(to_json(value), allow_nan=False) + "\n").encode()


def table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    caption: str | None = None,
) -> Table:
    """Rich table of `rows`, the first column to the left and the others to the right.

    Args:
        title: Shown above.
        columns: Headings.
        rows: Cells, one per column.
        caption: Shown below.

    Returns:
        The table, for a `rich.console.Console` to print.

    Raises:
        ValueError: If a row has another number of cells than there are columns.
    """
    result = Table(title=title, caption=caption, caption_justify="left")
    for index, column in enumerate(columns):
        result.add_column(column, justify="right" if index else "left")
    for row in rows:
        if len(row) != len(columns):
            raise ValueError(
                f"`rows` must have {len(columns)} cells each; got {len(row)}: {row!r}."
            )
        result.add_row(*row)
    return result


def means_table(
    title: str,
    first: str,
    names: Sequence[object],
    columns: Mapping[str, AnyArray],
    *,
    caption: str | None = None,
) -> Table:
    """Table of means over seeds with their standard errors.

    Args:
        title: Shown above.
        first: Heading of the first column.
        names: Names of the rows.
        columns: Values `(rows, seeds)` by heading.
        caption: Shown below; what is in brackets is explained there anyway.

    Returns:
        The table.
    """
    shown = [mean_and_sem(np.asarray(values, float)) for values in columns.values()]
    rows = [
        [str(name), *(with_error(float(m[i]), float(s[i])) for m, s in shown)]
        for i, name in enumerate(names)
    ]
    note = "0.123(45) is a mean over seeds and its standard error in the last digits."
    return table(
        title, [first, *columns], rows, caption=f"{note} {caption or ''}".rstrip()
    )


def table_contents(table: Table) -> dict[str, Any]:
    """What a table says, as plain data.

    Args:
        table: Of texts, such as `table` makes.

    Returns:
        Its title, columns, rows and caption.

    Example:
        >>> table_contents(table("Runs", ["width", "loss"], [["8", "0.5"]]))["rows"]
        [['8', '0.5']]
    """
    cells = [list(map(str, column.cells)) for column in table.columns]
    return {
        "title": str(table.title or ""),
        "columns": [str(column.header) for column in table.columns],
        "rows": [list(row) for row in zip(*cells, strict=True)],
        "caption": str(table.caption or ""),
    }


def with_error(mean: float, sem: float) -> str:
    """Mean and its standard error in units of the last digits shown, as `0.123(45)`.

    Args:
        mean: The mean.
        sem: Its standard error; left out if it is zero or not finite.

    Returns:
        The text, with two digits of the error.

    Example:
        >>> with_error(0.123456, 0.00123), with_error(1234.5, 67.8), with_error(1.0, 0.0)
        ('0.1235(12)', '1234(68)', '1')
        >>> with_error(5.31e-5, 2.2e-6), with_error(float("nan"), 1.0)
        ('5.31(22)e-05', 'not finite')
    """
    mean, sem = float(mean), float(sem)
    if not math.isfinite(mean):
        return "not finite"
    if not math.isfinite(sem) or sem == 0:
        return f"{mean:.3g}"
    exponent = math.floor(math.log10(abs(mean))) if mean else 0
    if -4 < exponent < 5:
        exponent = 0
    mean, sem = mean / 10.0**exponent, sem / 10.0**exponent
    # Two digits of the error; an error of 0.996 is 1.00, so round before counting.
    places = max(0, 1 - math.floor(math.log10(float(f"{sem:.1e}"))))
    digits = round(sem * 10**places)
    suffix = f"e{exponent:+03d}" if exponent else ""
    return f"{mean:.{places}f}({digits}){suffix}"
