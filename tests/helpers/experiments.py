"""What every published experiment must do, whatever it measures."""

import json

from lazyjax import experiments, plot, report
from lazyjax.experiments import Result


def checked_run(name: str, *, word: str, size: str = "brief", seed: int = 0) -> Result:
    """The result of an experiment, whose verdict is `word` and which can be shown."""
    result = experiments.run(name, size=size, seed=seed)
    assert result.verdict.word == word, result.verdict.line

    def refuse(token):
        raise AssertionError(token)

    written = json.loads(report.json_bytes(result.summary()), parse_constant=refuse)
    assert written["verdict"]["word"] == word
    assert written["measured"]
    for table in result.tables():
        assert table.row_count
    figure = result.figure()
    for axes in figure.axes:
        assert axes.get_xlabel() or axes.get_label() == "<colorbar>"
        assert axes.get_ylabel() or axes.get_label() == "<colorbar>"
    assert plot.png_bytes(figure, dpi=50).startswith(b"\x89PNG")
    return result


def check_control(name: str, *, size: str = "brief", seed: int = 0) -> Result:
    """The negative control, which must not be reproduced."""
    result = experiments.run(name, size=size, seed=seed, control=True)
    assert result.settings["control"]
    assert result.verdict.word == experiments.NOT_REPRODUCED, result.verdict.line
    return result


def check_repeatable(name: str, result: Result, *, size: str = "brief", seed: int = 0):
    """The same seed gives the same file, to the last digit."""
    again = experiments.run(name, size=size, seed=seed)
    assert report.json_bytes(again.summary()) == report.json_bytes(result.summary())
