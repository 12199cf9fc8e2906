"""Results as data: what JSON can hold, with arrays written apart or among it.

| value | in JSON |
|---|---|
| `None`, booleans, integers, finite numbers, strings | themselves |
| NaN and infinities | the words "nan", "inf" and "-inf" |
| tuples | arrays |
| dictionaries with strings for keys | objects |
| all else: results, arrays, lists, other dictionaries, strings like those words | objects with a "class" |
"""

import math
import types
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from lazyjax.files.archive import FileError

Data: TypeAlias = Any

# Puts an array somewhere, given its path in the result; the answer leads back to it.
Keep: TypeAlias = Callable[[str, np.ndarray], dict[str, Data]]
Fetch: TypeAlias = Callable[[dict[str, Data]], np.ndarray]

_NOT_FINITE = ("nan", "inf", "-inf")
_JAX, _NUMPY = "jax.Array", "numpy.ndarray"


def encode(
    value: object, path: str, keep: Keep, encode_result: Callable[..., Data]
) -> Data:
    """What JSON can hold of a value; `path`, where it is, names arrays and errors."""

    def inside(value: object, name: object) -> Data:
        return encode(value, f"{path}/{name}", keep, encode_result)

    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(value)
    if isinstance(value, str):
        is_word = value in _NOT_FINITE
        return {"class": "str", "value": value} if is_word else value
    if isinstance(value, jax.Array | np.ndarray):
        if jnp.issubdtype(value.dtype, jax.dtypes.extended) or value.dtype.hasobject:
            raise TypeError(f"`{path}` must hold numbers; got dtype {value.dtype}.")
        library = _JAX if isinstance(value, jax.Array) else _NUMPY
        return {"class": library} | keep(path, np.asarray(value))
    if type(value) is tuple:
        return [inside(item, i) for i, item in enumerate(value)]
    if type(value) is list:
        items = [inside(item, i) for i, item in enumerate(value)]
        return {"class": "list", "items": items}
    if type(value) in (dict, types.MappingProxyType):
        assert isinstance(value, Mapping)
        if all(isinstance(key, str) and key != "class" for key in value):
            return {key: inside(item, key) for key, item in value.items()}
        pairs = [[inside(key, "key"), inside(item, key)] for key, item in value.items()]
        return {"class": "dict", "items": pairs}
    return encode_result(value, path)


def decode(
    data: Data, fetch: Fetch, make_result: Callable[[str, dict[str, Any]], Any]
) -> Any:
    """The value that `encode` made into data; `fetch` finds its arrays."""

    def decoded(data: Data) -> Any:
        if isinstance(data, list):
            return tuple(map(decoded, data))
        if isinstance(data, str) and data in _NOT_FINITE:
            return float(data)
        if not isinstance(data, dict):
            return data
        name = data.get("class")
        if name == "str":
            return data["value"]
        if name == "list":
            return list(map(decoded, data["items"]))
        if name == "dict":
            return {decoded(key): decoded(item) for key, item in data["items"]}
        if name in (_JAX, _NUMPY):
            array = fetch(data)
            return array if name == _NUMPY else _as_jax(array)
        fields = {key: decoded(item) for key, item in data.items() if key != "class"}
        return fields if name is None else make_result(name, fields)

    return decoded(data)


def keep_inline(path: str, array: np.ndarray) -> dict[str, Data]:
    """An array among the data, as nested lists."""
    del path
    plain = array
    if array.dtype.kind == "c":
        plain = np.stack([np.real(array), np.imag(array)], axis=-1)
    if plain.dtype.kind not in "biu":
        plain = plain.astype(np.float64)
    values = plain.tolist()
    if plain.dtype.kind == "f" and not np.isfinite(plain).all():
        values = _in_words(values)
    return {"dtype": array.dtype.name, "shape": list(array.shape), "values": values}


def fetch_inline(data: dict[str, Data]) -> np.ndarray:
    """The array that `keep_inline` made into data."""
    dtype = jnp.dtype(data["dtype"])
    values = np.array(data["values"], dtype if dtype.kind in "biu" else np.float64)
    if dtype.kind == "c":
        values = values.reshape(*data["shape"], 2)
        values = values[..., 0] + 1j * values[..., 1]
    return values.reshape(data["shape"]).astype(dtype)


def _in_words(values: Any) -> Any:
    if isinstance(values, list):
        return [_in_words(value) for value in values]
    return values if math.isfinite(values) else repr(values)


def _as_jax(array: np.ndarray) -> jax.Array:
    result = jnp.asarray(array)
    if result.dtype != array.dtype:
        raise FileError(
            f"it holds numbers of {array.dtype}, which JAX keeps with 64-bit types "
            "only: load it under `jax.enable_x64(True)`"
        )
    return result
