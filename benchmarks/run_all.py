"""Every benchmark, one after the other, into one results file.

    python -m benchmarks.run_all --peer nt=PYTHON --peer torch=PYTHON

writes benchmarks/results/DATE-DEVICE.json unless told otherwise by `--out`; the options
are those of each benchmark.
"""

import argparse
import re

import jax

from benchmarks import _harness, empirical_ntk, infinite_ntk
from benchmarks.infinite_workloads import infinite_works
from benchmarks.workloads import WORKLOADS


def main() -> None:
    """Run, print, write; exit 1 if lazyjax was ever wrong."""
    options = empirical_ntk.parser([*WORKLOADS, *infinite_works("full")]).parse_args()
    jax.config.update("jax_platforms", "cpu")  # the oracle; workers use what there is
    results = _harness.ROOT / "benchmarks" / "results"

    def save(report: _harness.Report) -> None:
        report.write(options.out or results / _name(report))

    of_finite_width = [case for case in options.case if case in WORKLOADS]
    first = argparse.Namespace(**vars(options) | {"case": of_finite_width})
    report = empirical_ntk.run(first, save)
    empirical_ntk.conclude(infinite_ntk.run(options, report, save))


def _name(report: _harness.Report) -> str:
    device = report.rows[0].device if report.rows else "none"
    slug = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    return f"{report.machine['date']}-{slug}.json"


if __name__ == "__main__":
    main()
