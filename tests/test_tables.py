"""Runs, flows and sweeps as tables: every number at its labels, compared one by one."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lazyjax
from lazyjax.dynamics import gradient_flow, observers, train
from tests.helpers import two_layer

pytest.importorskip("pandas")
pytest.importorskip("xarray")

pytestmark = pytest.mark.once

PARAMS, X, Y = two_layer.problem(np.float32)


def parts(snapshot):
    """A tree of numbers and arrays."""
    return {"mean": snapshot.outputs.mean(), "rows": snapshot.outputs}


OBSERVERS = [observers.loss, parts]


def run_of(params=PARAMS):
    return train(
        two_layer.apply,
        params,
        X,
        Y,
        optimizer=optax.sgd(0.05),
        num_steps=5,
        observe=OBSERVERS,
        observe_at=[1, 4],
    )


def test_a_run_is_a_row_for_each_step():
    run, table = run_of(), run_of().to_pandas()
    assert list(table.columns) == ["loss", "observed/loss", "parts/mean"]
    assert table.index.name == "step"
    assert table.index.tolist() == list(range(6))
    assert table.loss.tolist() == run.loss.tolist()
    assert table["parts/mean"].isna().tolist() == [True, False, True, True, False, True]
    for index, step in enumerate([1, 4]):
        assert table["parts/mean"][step] == run.observations["parts"]["mean"][index]
        assert table["observed/loss"][step] == run.observations["loss"][index]


def test_mapped_runs_have_an_axis_of_their_own():
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), PARAMS)
    runs = jax.vmap(run_of)(stacked)
    table, data = runs.to_pandas(), runs.to_xarray()
    assert table.index.names == ["run", "step"]
    assert dict(data.sizes) | {"parts/rows_0": 5, "parts/rows_1": 2} == {
        "run": 2,
        "step": 6,
        "observed_at": 2,
        "parts/rows_0": 5,
        "parts/rows_1": 2,
    }
    for number in range(2):
        for step in range(6):
            assert table.loss[number, step] == runs.loss[number, step]
            assert data.loss.sel(run=number, step=step) == runs.loss[number, step]
        for index, step in enumerate([1, 4]):
            mean = runs.observations["parts"]["mean"][number, index]
            assert table["parts/mean"][number, step] == mean
            rows = data["parts/rows"].sel(run=number, observed_at=step)
            expected = runs.observations["parts"]["rows"][number, index]
            np.testing.assert_array_equal(rows, expected)
    twice = jax.vmap(jax.vmap(run_of))(jax.tree.map(lambda leaf: leaf[None], stacked))
    assert twice.to_pandas().index.names == ["run_0", "run_1", "step"]


def test_flow_has_times():
    pytest.importorskip("diffrax")
    flow = gradient_flow(two_layer.apply, PARAMS, X, Y, [0.0, 0.5], observe=OBSERVERS)
    table, data = flow.to_pandas(), flow.to_xarray()
    assert list(table.columns) == ["loss", "observed/loss", "parts/mean", "is_solved"]
    assert table.loss[0.5] == flow.loss[1]
    assert data.loss.sel(time=0.5) == flow.loss[1]
    assert data.status == 0


def test_a_sweep_has_its_labels():
    sweep = lazyjax.sweep(
        lazyjax.Architecture(num_outputs=2),
        X,
        Y,
        widths=[4, 8],
        num_seeds=2,
        key=jax.random.key(0),
        learning_rates=[0.1, 1e6],
        num_steps=40,
        observe=[parts],
    )
    table, data = sweep.to_pandas(), sweep.to_xarray()
    assert table.index.names == [*sweep.axes, "step"]
    for i, width in enumerate((4, 8)):
        for j, rate in enumerate((0.1, 1e6)):
            for step in (0, 40):
                expected = sweep.loss[i, 1, 0, j, step]
                found = table.loss[width, 1, 1.0, rate, step]
                where = {"width": width, "seed": 1, "alpha": 1.0, "learning_rate": rate}
                also = data.loss.sel(**where, step=step)
                np.testing.assert_array_equal([found, also], [expected, expected])
    np.testing.assert_array_equal(data.diverged_at, sweep.diverged_at)
    num_diverged = len(sweep.diverged)
    assert num_diverged >= 1
    assert f"num_diverged={num_diverged}, " in repr(sweep)
    one = sweep.sel(width=8, seed=0, alpha=1.0, learning_rate=0.1)
    assert one.to_pandas().loss.tolist() == one.loss.tolist()


def test_what_is_saved_gives_the_same_tables(tmp_path):
    run = run_of()
    again = type(run).load(run.save(tmp_path / "run.npz"))
    assert again.to_pandas().equals(run.to_pandas())
    assert again.to_xarray().identical(run.to_xarray())


@pytest.mark.parametrize(
    ("package", "method"), [("pandas", "to_pandas"), ("xarray", "to_xarray")]
)
def test_a_package_that_is_missing_is_named(monkeypatch, package, method):
    monkeypatch.setitem(sys.modules, package, None)
    message = rf'`{method}` needs {package}: pip install "lazyjax\[tables\]"'
    with pytest.raises(ImportError, match=message):
        getattr(run_of(), method)()
