"""Reports of progress: what is told, to whom, and that they change no number."""

import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lazyjax.dynamics import gradient_flow, observers, train
from lazyjax.montecarlo import monte_carlo_ntk
from lazyjax.progress import progress_reporter
from tests.helpers import two_layer
from tests.helpers.compare import assert_trees_close

pytestmark = pytest.mark.once

PARAMS, X, Y = two_layer.problem(np.float32)


def run_of(params=PARAMS, **options):
    return train(
        two_layer.apply,
        params,
        X,
        Y,
        optimizer=optax.sgd(0.05, 0.9),
        num_steps=250,
        observe=[observers.residual_norm],
        observe_at=[0, 101],
        **options,
    )


@pytest.fixture
def told():
    return []


@pytest.fixture
def tell(told):
    return lambda share, message: told.append((share, message))


def test_training_tells_every_hundredth_part_and_changes_no_bit(told, tell):
    assert_trees_close(run_of(progress=tell), run_of())
    shares = [share for share, _ in told]
    assert shares == sorted(shares)
    assert 100 <= len(told) <= 130
    loss = run_of().loss
    assert told[0] == (pytest.approx(2 / 250), f"step 2 of 250, loss {loss[1]:.3g}")
    last = f"step 250 of 250, loss {loss[249]:.3g}, "
    assert told[-2][0] == 1.0
    assert told[-2][1].startswith(last)
    speed = told[-2][1].removeprefix(last)
    assert float(speed.removesuffix(" steps/s")) > 0
    assert told[-1] == (1.0, "done")


def test_a_run_with_checkpoints_tells_of_the_whole_run(tmp_path, told, tell):
    options = {"checkpoint": tmp_path, "checkpoint_every": 125}
    assert_trees_close(run_of(progress=tell, **options), run_of())
    message = f"step 125 of 250, loss {run_of().loss[124]:.3g}, "
    assert any(share == 0.5 and text.startswith(message) for share, text in told)
    del told[:]
    run_of(progress=tell, **options)  # is read
    assert told == [(1.0, "done")]


def test_several_runs_tell_once_for_all(told, tell):
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), PARAMS)
    runs = jax.vmap(lambda params: run_of(params, progress=tell))(stacked)
    assert len({message for _, message in told}) == len(told)
    assert told[0][1] == f"step 2 of 250, loss {np.mean(runs.loss[:, 1]):.3g}"


def test_flow_tells_each_time(told, tell):
    flow = lambda **options: gradient_flow(
        two_layer.apply, PARAMS, X, Y, [0.5, 1.0], **options
    )
    assert_trees_close(flow(progress=tell), flow())
    half, one = (f"{loss:.3g}" for loss in flow().loss.tolist())
    assert told == [
        (0.5, f"time 0.5 of 1, loss {half}"),
        (1.0, f"time 1 of 1, loss {one}"),
        (1.0, "done"),
    ]


def test_kernels_over_seeds_tell_of_each_seed(told, tell):
    kernel = lambda **options: monte_carlo_ntk(
        two_layer.apply,
        lambda key, x: jax.tree.map(
            lambda leaf: leaf * jax.random.uniform(key, dtype=leaf.dtype), PARAMS
        ),
        X,
        key=jax.random.key(0),
        num_seeds=3,
        **options,
    )
    assert_trees_close(kernel(progress=tell), kernel())
    assert [share for share, _ in told] == [pytest.approx(i / 3) for i in (1, 2, 3, 3)]
    assert [text.split(",")[0] for _, text in told] == [
        *(f"seed {i} of 3" for i in (1, 2, 3)),
        "done",
    ]


def test_what_the_function_raises_is_raised_once_the_program_is_over():
    calls = []

    def failing(share, message):
        calls.append(share)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        run_of(progress=failing)
    assert len(calls) == 1
    run_of(progress=lambda share, message: None)  # nothing is left of it


@pytest.mark.usefixtures("own_errors")
def test_what_is_neither_a_flag_nor_a_function_is_refused():
    for wrong in (1, "bar", np.ones(3)):
        with pytest.raises(
            TypeError, match="`progress` must be True, False or a funct"
        ):
            run_of(progress=wrong)


def test_in_notebooks_one_line_is_written_over(capsys, monkeypatch):
    lines = []
    shown = types.SimpleNamespace(
        update=lambda data, raw: lines.append(data["text/plain"])
    )
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setattr("IPython.display.display", lambda *args, **kwargs: shown)
    run_of(progress=True)
    assert capsys.readouterr() == ("", "")
    assert lines[0].startswith("train 1% step 2 of 250, loss ")
    assert lines[0].endswith(" s left")
    assert re.fullmatch(r"train 100% done, \d+ s", lines[-1])


def test_a_bar_is_on_terminals_only(capsys, monkeypatch):
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    run_of(progress=True)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("FORCE_COLOR", "1")
    run_of(progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "train" in err
    assert "done" in err
    run_of()
    assert capsys.readouterr() == ("", "")


def test_whoever_listened_hears_nothing_of_later_calls(told, tell):
    run_of(progress=tell)
    count, later = len(told), []
    run_of(progress=lambda share, message: later.append(message))
    assert len(told) == count == len(later)


def test_a_function_is_called_as_it_is(tell):
    with progress_reporter(tell, "work") as report:
        assert report is tell
