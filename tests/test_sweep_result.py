"""Results of sweeps: labels, statistics over seeds, files."""

import dataclasses

import numpy as np
import pytest

from lazyjax.sweeps import Sweep
from tests.helpers.compare import assert_close

pytestmark = pytest.mark.once

AXES = {"width": (4, 8), "seed": (0, 1, 2), "alpha": (0.1, 1e7)}
SHAPE = (2, 3, 2)


def example(dtype=np.float64) -> Sweep:
    """A member of each kind: converged, diverged, and with an observation of NaN."""
    rng = np.random.default_rng(0)
    loss = rng.normal(size=(*SHAPE, 4)).astype(dtype)
    diverged_at = np.full(SHAPE, -1, np.int32)
    loss[1, 2, 0, 2:], diverged_at[1, 2, 0] = np.inf, 2
    loss[0, :, 1, 1:], diverged_at[0, :, 1] = np.nan, 1
    drift = rng.normal(size=(*SHAPE, 2)).astype(dtype)
    drift[0, 1, 0, 1] = np.nan
    kernel = {
        width: {"layer_1": {"kernel": rng.normal(size=(3, 2, 5, width)).astype(dtype)}}
        for width in (4, 8)
    }
    return Sweep(
        axes=dict(AXES),
        loss=loss,
        diverged_at=diverged_at,
        observed_at=np.array([0, 3], np.int32),
        observations={"drift": drift, "steps/seen": np.zeros((*SHAPE, 2), np.int32)},
        params=kernel,
    )


def assert_equal_sweeps(found: Sweep, expected: Sweep) -> None:
    assert found.axes == expected.axes
    for field in ("loss", "diverged_at", "observed_at"):
        assert_close(getattr(found, field), getattr(expected, field), "exact")
    assert list(found.observations) == list(expected.observations)
    for name, values in expected.observations.items():
        assert_close(found.observations[name], values, "exact")
    assert (found.params is None) == (expected.params is None)
    for width, tree in (expected.params or {}).items():
        assert found.params is not None
        assert list(found.params) == list(expected.params or {})
        assert_close(
            found.params[width]["layer_1"]["kernel"], tree["layer_1"]["kernel"], "exact"
        )


def test_labels_select_members():
    result = example()
    one = result.sel(width=8, alpha=1e7)
    assert one.axes == {"seed": (0, 1, 2)}
    assert_close(one.loss, result.loss[1, :, 1], "exact")
    assert_close(one.observations["drift"], result.observations["drift"][1, :, 1])
    assert one.params is not None
    assert result.params is not None
    kernel = result.params[8]["layer_1"]["kernel"]
    assert list(one.params) == [8]
    assert_close(one.params[8]["layer_1"]["kernel"], kernel[:, 1], "exact")
    several = result.sel(seed=[2, 0])
    assert several.axes["seed"] == (2, 0)
    assert_close(several.loss, result.loss[:, [2, 0]], "exact")
    assert several.shape == (2, 2, 2)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"depth": 1}, "`labels` must be one of 'width', 'seed', 'alpha'"),
        ({"width": 5}, "`width` must be among 4, 8; got 5"),
        ({"alpha": [1e7, 2.0]}, r"`alpha` must be among 0.1, 1e\+07; got 2.0"),
        ({"seed": []}, "`seed` must name one label at least"),
    ],
)
def test_unknown_labels_are_refused(own_errors, labels, message):
    with pytest.raises(ValueError, match=message):
        example().sel(**labels)


def test_mean_counts_and_names_what_it_leaves_out():
    result = example()
    found = result.mean()
    assert found.count.tolist() == [[3, 0], [2, 3]]
    assert_close(found.mean[0, 0], result.loss[0, :, 0].mean(0))
    assert_close(found.mean[1, 0], result.loss[1, :2, 0].mean(0))
    sem = result.loss[1, :2, 0].std(0, ddof=1) / 2**0.5
    assert_close(found.standard_error[1, 0], sem)
    assert_close(result.standard_error()[1, 0], sem)
    assert np.isnan(found.mean[0, 1]).all()  # nobody is left there, as `count` says
    named = [tuple(member.labels.values()) for member in found.left_out]
    assert named == [(4, 0, 1e7), (4, 1, 1e7), (4, 2, 1e7), (8, 2, 0.1)]
    assert found.explain().splitlines()[0] == "loss: 4 of 12 members are left out:"
    assert found.explain().splitlines()[-1].endswith("alpha 0.1: diverged at step 2")
    assert found.left_out == result.diverged


def test_mean_of_an_observation_leaves_out_what_is_not_finite():
    result = example()
    found = result.mean("drift")
    assert found.count[0, 0] == 2
    assert_close(found.mean[0, 0], result.observations["drift"][0, [0, 2], 0].mean(0))
    assert "width 4, seed 1, alpha 0.1: drift is not finite" in found.explain()
    calm = result.sel(width=8, alpha=1e7).mean()
    assert calm.explain() == "loss: mean of all 3 members."
    with pytest.raises(ValueError, match="`name` must be one of 'loss', 'drift'"):
        result.mean("drifts")
    with pytest.raises(ValueError, match="one seed was selected"):
        result.sel(seed=0).mean()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("suffix", [".npz", ".json", ".csv"])
def test_files_hold_every_bit(tmp_path, suffix, dtype):
    result = example(dtype)
    if suffix == ".csv":
        with pytest.raises(ValueError, match="must not end in"):
            result.save(tmp_path / f"s{suffix}")
        result = dataclasses.replace(result, params=None)
    path = result.save(tmp_path / f"s{suffix}")
    assert_equal_sweeps(Sweep.load(path), result)
    assert [p.name for p in tmp_path.iterdir()] == [f"s{suffix}"]
    one = result.sel(width=4, alpha=0.1, seed=1)
    assert_equal_sweeps(Sweep.load(one.save(path)), one)


def test_csv_has_one_labelled_number_a_row(tmp_path):
    result = dataclasses.replace(example(), params=None)
    lines = result.save(tmp_path / "s.csv").read_text().splitlines()
    assert lines[1] == "quantity,width,seed,alpha,step,index,value"
    assert lines[2] == f"loss,4,0,0.1,0,,{float(result.loss[0, 0, 0, 0])!r}"
    drift = float(result.observations["drift"][1, 2, 1, 1])
    assert f"observations/drift,8,2,10000000.0,3,,{drift!r}" in lines


def test_other_suffixes_are_refused(tmp_path):
    for act in (example().save, Sweep.load):
        with pytest.raises(ValueError, match="`path` must end in one of"):
            act(tmp_path / "s.parquet")
