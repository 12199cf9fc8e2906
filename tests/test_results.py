"""Every result of a public verb has the one normal form, and is read back bit by bit."""

import dataclasses
import inspect
import json
import pydoc
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lazyjax.certify import Certificate
from lazyjax.certify.bounds.start import Start
from lazyjax.dynamics import Run
from lazyjax.files.archive import FileError, header
from lazyjax.files.results import Storable
from lazyjax.laziness import PredictedExponent, SlopeFit
from lazyjax.nets import mlp
from lazyjax.ntk import ntk_operator
from lazyjax.sweeps import Sweep

pytestmark = pytest.mark.once

# Where public verbs are found.
NAMESPACES = [
    "lazyjax",
    "lazyjax.certify",
    "lazyjax.certify.adversary",
    "lazyjax.certify.theorems",
    "lazyjax.certify.theorems.chizat2019",
    "lazyjax.certify.theorems.positive_start",
    "lazyjax.certify.measured.allen_zhu2019",
    "lazyjax.certify.measured.du2019",
    "lazyjax.certify.measured.zou2018",
    "lazyjax.certify.widths",
    "lazyjax.certify.widths.arora2019",
    "lazyjax.certify.widths.du2019",
    "lazyjax.certify.widths.separation",
    "lazyjax.data",
    "lazyjax.dynamics",
    "lazyjax.experiments.convergence.du2019",
    "lazyjax.infinite.predict",
    "lazyjax.interop.neural_tangents",
    "lazyjax.laziness",
    "lazyjax.ntk",
    "lazyjax.sweeps",
]

# Dataclasses that verbs return and that are no results: functions, and what asks.
NO_RESULTS = {
    "Form",
    "Network",
    "NTKOperator",
    "ProgramStart",
    "Start",
}

# Results that hold functions, and the field that the refusal names.
WITH_FUNCTIONS = {
    "LocalBounds": "lipschitz",
    "PositiveStart": "network",
}

# Fields whose values are restricted.
CHOSEN = {
    ("Attack", "radii"): np.array([0.0, 0.5]),
    ("Attack", "ratio"): np.ones(2),
    ("Certificate", "refutation"): None,
}


def dataclasses_in(hint: Any) -> Iterator[type]:
    if inspect.isclass(hint) and dataclasses.is_dataclass(hint):
        yield hint
    for part in typing.get_args(hint):
        yield from dataclasses_in(part)


def returned() -> dict[str, type]:
    """Dataclasses that public verbs and methods of their results return."""
    todo = []
    for name in NAMESPACES:
        namespace = pydoc.locate(name)
        for public, function in vars(namespace).items():
            # Packages export what is defined in their modules.
            is_public = inspect.isfunction(function) and not public.startswith("_")
            if is_public and (
                hasattr(namespace, "__path__") or function.__module__ == name
            ):
                todo.append(function)
    found: dict[str, type] = {}
    while todo:
        function = inspect.unwrap(todo.pop())
        if not function.__module__.startswith("lazyjax"):
            continue
        hint = function.__annotations__.get("return")
        if isinstance(hint, str):
            hint = function.__globals__.get(hint)
        for cls in dataclasses_in(hint):
            if cls.__name__ not in found:
                found[cls.__name__] = cls
                todo += [f for f in vars(cls).values() if inspect.isfunction(f)]
    return found


RETURNED = returned()
RESULTS = [name for name in RETURNED if name not in {*NO_RESULTS, *WITH_FUNCTIONS}]


def numbers(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    values = np.resize([0.1, np.nan, -np.inf, -0.0, 3.0], shape)
    if dtype != "float32":
        values = np.ones(shape)
    return np.asarray(values.astype(dtype))


def example(hint: Any) -> Any:
    """Some value of a type."""
    simple = {float: 0.1, int: 3, bool: True, str: "nan", np.ndarray: np.arange(2)}
    if hint in simple:
        return simple[hint]
    if hasattr(hint, "dim_str"):  # an array of jaxtyping
        shape = tuple(2 for dim in hint.dim_str.split() if dim[0] not in "*.#")
        dtypes = {"float32", "int32", "bool"}.intersection(hint.dtypes)
        array = numbers(shape, dtypes.pop())
        return array if hint.array_type is np.ndarray else jnp.asarray(array)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return args[0]
    if origin in (typing.Union, types.UnionType):
        return example(args[0])
    if origin is tuple:
        return tuple(example(arg) for arg in args if arg is not Ellipsis)
    if origin in (dict, Mapping):
        return {example(args[0]): example(args[1])}
    if inspect.isclass(hint) and issubclass(hint, Storable):
        return made(hint)
    tree = [jnp.asarray(numbers((3, 2), "float32")), (np.arange(3), {"class": 1})]
    return {"layer/1": {"kernel": tree}, "layer": {"1": {}}}


def made(cls: type) -> Any:
    hints = typing.get_type_hints(cls)
    fields = {f.name for f in dataclasses.fields(cls)}  # pyright: ignore[reportArgumentType]
    values = {name: example(hints[name]) for name in fields}
    return cls(**{k: CHOSEN.get((cls.__name__, k), v) for k, v in values.items()})


def assert_same(found: Any, expected: Any) -> None:
    """Equal to the bit, of the same types, NaN equal to itself."""
    assert type(found) is type(expected)
    if isinstance(expected, jax.Array | np.ndarray):
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert np.asarray(found).tobytes() == np.asarray(expected).tobytes()
    elif dataclasses.is_dataclass(expected):
        for field in dataclasses.fields(expected):
            assert_same(getattr(found, field.name), getattr(expected, field.name))
    elif isinstance(expected, Mapping):
        assert list(found) == list(expected)
        for key in expected:
            assert_same(found[key], expected[key])
    elif isinstance(expected, list | tuple):
        for pair in zip(found, expected, strict=True):
            assert_same(*pair)
    else:
        assert repr(found) == repr(expected)


def test_the_comparison_notices_other_bits_types_and_keys():
    one = np.float32(1)
    for other in ({"a": np.array(1.0)}, {"b": np.array(one)}, {"a": jnp.array(one)}):
        with pytest.raises(AssertionError):
            assert_same(other, {"a": np.array(one)})
    with pytest.raises(AssertionError):
        assert_same(np.array([0.0]), np.array([-0.0]))


def test_there_are_results_to_test():
    assert {"Run", "Flow", "Sweep", "Certificate", "Kappa", "Plan"} <= set(RESULTS)
    assert set(RETURNED) >= {*NO_RESULTS, *WITH_FUNCTIONS}


@pytest.mark.parametrize("name", RESULTS)
def test_every_result_comes_back_from_either_file(tmp_path, name):
    cls = RETURNED[name]
    assert issubclass(cls, Storable), f"{name} has no normal form"
    result = made(cls)
    for suffix in (".npz", ".json"):
        path = result.save(tmp_path / f"result{suffix}")
        assert_same(cls.load(path), result)
    text = result.to_json()
    content = json.loads(text, parse_constant=lambda word: pytest.fail(word))
    assert content["class"] == name
    assert_same(cls.from_json(text), result)
    fields = {field.name for field in dataclasses.fields(result)}
    assert set(result.to_dict()) >= fields
    assert not any(isinstance(v, Storable) for v in result.to_dict().values())


@pytest.mark.parametrize("name", RESULTS)
def test_every_result_shows_shapes_in_one_line(name):
    text = repr(made(RETURNED[name]))
    assert text.startswith(f"{name}(")
    assert "\n" not in text
    assert "rray(" not in text


@pytest.mark.parametrize("name", WITH_FUNCTIONS)
def test_functions_are_refused_by_the_name_of_their_field(tmp_path, name):
    cls = RETURNED[name]
    assert issubclass(cls, Storable)
    result = object.__new__(cls)
    for field in dataclasses.fields(cls):  # pyright: ignore[reportArgumentType]
        value = abs if field.name == WITH_FUNCTIONS[name] else 0.0
        object.__setattr__(result, field.name, value)
    with pytest.raises(TypeError, match=f"`{WITH_FUNCTIONS[name]}` is a function"):
        result.save(tmp_path / "result.npz")
    assert list(tmp_path.iterdir()) == []
    assert set(result.to_dict()) == {f.name for f in dataclasses.fields(cls)}  # pyright: ignore[reportArgumentType]


RUN = Run(
    params={"w": jnp.ones((2, 3))},
    loss=jnp.arange(4.0),
    observed_at=jnp.array([0, 3]),
    observations={},
    stopped_at=jnp.array(-1),
    diverged_at=jnp.array(2),
)


def test_a_run_is_shown_by_shapes_and_single_numbers():
    start = "Run(last_loss=3.0, params={'w': float32[2,3]}, loss=float32[4], observ"
    with jax.enable_x64(False):
        run = jax.tree.map(lambda leaf: leaf.astype(leaf.dtype.name[:-2] + "32"), RUN)
    assert repr(run).startswith(start)
    assert repr(run).endswith("stopped_at=-1, diverged_at=2)")
    seen = []
    jax.jit(lambda run: seen.append(repr(run)))(run)  # has no numbers to show
    assert seen[0].endswith("stopped_at=int32[], diverged_at=int32[])")


def test_many_arrays_are_counted_when_shown():
    layers = {f"layer_{i}": {"kernel": np.ones((2, 3))} for i in range(10)}
    run = dataclasses.replace(RUN, params=layers)
    assert "params=<10 arrays of 60 numbers>, loss=" in repr(run)


def test_what_is_no_result_is_shown_by_shapes_too():
    net = mlp(width=16, depth=2)
    x = np.ones((3, 4), np.float32)
    params = net.init(jax.random.key(0), x)
    described = "Architecture(kind='mlp', depth=2, activation='relu')"
    assert repr(net) == f"Network(width=16, architecture={described})"
    assert repr(net.architecture) == described
    shown = repr(ntk_operator(net.apply, params, x))
    assert shown.startswith("NTKOperator(shape=(3, 3), dtype='float32', params={'lay")
    start = Start(net, params, x, (), x, x[:, :1], "float")
    assert repr(start).startswith("Start(network=<Network>, params={'layer_1': {'ke")
    assert repr(start).endswith(", x=float32[3,4])")


def test_verdicts_are_shown_and_must_follow():
    found = made(Certificate)
    assert repr(found).startswith(f"Certificate(verdict='{found.verdict.value}', ")
    assert found.to_dict()["verdict"] == found.verdict.value
    content = json.loads(found.to_json())
    del content["format"], content["class"], content["checksum"]
    forged = header("Certificate", content | {"verdict": "REFUTED"}, {})
    with pytest.raises(FileError, match="it says verdict 'REFUTED', but"):
        Certificate.from_json(json.dumps(forged))


@pytest.mark.parametrize("suffix", [".npz", ".json"])
def test_files_of_another_class_are_refused(tmp_path, suffix):
    path = RUN.save(tmp_path / f"run{suffix}")
    message = "cannot be used: it is no file of a Sweep, but of a Run. Save"
    with pytest.raises(FileError, match=message) as error:
        Sweep.load(path)
    assert str(path) in str(error.value)


def test_text_that_is_damaged_changed_or_of_another_version_is_refused():
    text = made(PredictedExponent).to_json()
    with pytest.raises(FileError, match="`text` is damaged"):
        PredictedExponent.from_json(text[:-5])
    with pytest.raises(FileError, match="not what was written"):
        PredictedExponent.from_json(text.replace("0.1", "0.2"))
    newer = text.replace('"format": 3', '"format": 9')
    with pytest.raises(FileError, match="by a newer version of lazyjax, in format 9"):
        PredictedExponent.from_json(newer)


def test_other_suffixes_and_missing_files_are_told(tmp_path):
    for act in (RUN.save, Run.load):
        with pytest.raises(
            ValueError, match=r"`path` must end in one of \.npz, \.json"
        ):
            act(tmp_path / "run.pkl")
    for suffix in (".npz", ".json"):
        with pytest.raises(FileNotFoundError):
            Run.load(tmp_path / f"none{suffix}")


def test_keys_are_refused_and_small_floats_kept(tmp_path):
    keys = dataclasses.replace(RUN, params={"key": jax.random.key(0)})
    with pytest.raises(
        TypeError, match="`params/key` must hold numbers; got dtype key"
    ):
        keys.save(tmp_path / "run.npz")
    half = {"a": jnp.array([0.1, jnp.nan], jnp.bfloat16), "b": np.array([1 + 2j])}
    run = dataclasses.replace(RUN, params=half)
    for suffix in (".npz", ".json"):
        found = Run.load(run.save(tmp_path / f"run{suffix}")).params
        assert_same(found["b"], half["b"])
        assert found["a"].dtype == jnp.bfloat16
        assert found["a"].tolist()[0] == half["a"].tolist()[0]


def test_double_precision_is_kept_or_refused(tmp_path):
    with jax.enable_x64(True):
        fields = ["slope", "intercept", "slope_sem", "low", "high"]
        fit = SlopeFit(
            **{k: jnp.array(0.1) for k in fields},
            confidence=0.9,
        )
        path = fit.save(tmp_path / "fit.json")
        assert_same(SlopeFit.load(path), fit)
    with (
        jax.enable_x64(False),
        pytest.raises(FileError, match=r"load it under `jax.enable_x64\(True\)`"),
    ):
        SlopeFit.load(path)


def test_two_classes_of_one_name_are_an_error():
    with pytest.raises(TypeError, match="there is another class Run"):
        type("Run", (Storable,), {"__module__": "elsewhere"})
