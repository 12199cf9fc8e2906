"""The command for Gram matrices: run, resume, verify, info."""

import jax
import numpy as np
import pytest
from typer.testing import CliRunner

import lazyjax
from lazyjax.cli.app import app
from tests.helpers.compare import assert_close

pytestmark = pytest.mark.once

NET = lazyjax.nets.mlp(width=4, num_outputs=2)
X = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)


def limit(x):
    return NET.architecture


def network(x):
    return NET.apply, NET.init(jax.random.key(0), x)


def call(*arguments):
    return CliRunner().invoke(app, ["gram", *map(str, arguments)])


def test_a_matrix_is_planned_computed_checked_and_mended(tmp_path):
    data, path = tmp_path / "x.npz", tmp_path / "k"
    np.savez(data, X=X)
    options = ["tests.test_gram_cli:limit", "--data", data, "--path", path, "--tile", 4]
    planned = call("run", *options, "--plan")
    assert planned.exit_code == 0, planned.output
    assert "tiles    6 of 4 x 4 examples" in planned.output
    assert not path.exists()
    assert call("resume", *options).exit_code == 2  # there is nothing yet
    done = call("run", *options)
    assert done.exit_code == 0, done.output
    assert "tile 6 of 6" in done.output
    store = lazyjax.grams.GramStore.open(path)
    assert_close(
        store.to_array(), lazyjax.infinite_ntk(NET.architecture, X), "same_algebra"
    )
    assert done.output.count("tiles    6 of 4 x 4 examples") == 1
    again = call("run", *options)
    assert again.exit_code == 2
    told = " ".join(again.output.replace("│", " ").split())
    assert "holds a Gram matrix already. `lazyjax gram resume`" in told
    assert call("verify", path).exit_code == 0
    told = call("info", path).output
    assert "tiles     6 of 6" in told
    assert "JAX" in told
    names = {line.split()[0] for line in told.splitlines()}
    assert names == {"matrix", "tiles", "versions", "platform", "kernel", "x1", "x2"}
    (path / "c" / "0" / "1").write_bytes(b"")
    found = call("verify", path)
    assert found.exit_code == 1
    assert "1 of 6 tiles damaged: (0, 1)" in found.output
    assert call("resume", *options).exit_code == 0
    assert call("verify", path).exit_code == 0


@pytest.mark.parametrize(
    ("changes", "message", "code"),
    [
        ({"factory": "tests.nowhere:limit"}, "cannot be imported", 2),
        ({"factory": "tests.test_gram_cli:X"}, "must be a function", 2),
        ({"--memory": "much"}, "Invalid value for --memory: `memory` must be", 2),
        ({"--outputs": "sum"}, "Invalid value for --outputs: `outputs` must be", 2),
        ({"--outputs": "trace"}, "Invalid value: `outputs` is for", 2),
        ({"factory": "tests.test_gram_cli:network", "--outputs": "2"}, "in 0..1", 2),
        ({"--data": "nowhere.npz"}, "cannot be read", 2),
    ],
)
def test_misuse_is_told_in_one_line(tmp_path, changes, message, code):
    data = tmp_path / "x.npz"
    np.savez(data, X=X)
    options = {"--data": data, "--path": tmp_path / "k"} | changes
    factory = options.pop("factory", "tests.test_gram_cli:limit")
    result = call("run", factory, *(part for pair in options.items() for part in pair))
    assert result.exit_code == code
    assert message in " ".join(result.output.replace("│", " ").split())
    assert not (tmp_path / "k").exists()


def test_what_holds_no_matrix_is_told(tmp_path):
    for command in ("verify", "info"):
        result = call(command, tmp_path)
        assert result.exit_code == 1
        assert "holds no Gram matrix" in result.output
