"""The type of certificates: the verdict follows from what is known, and only from that."""

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest

from lazyjax.certify import Assumption, Certificate, Quantity, Verdict, assume_less

pytestmark = pytest.mark.once

INF, NAN = math.inf, math.nan


def certificate(**changes):
    """One that certifies, with some of its fields replaced."""
    fields = {
        "theorem": "a theorem",
        "conclusion": "the loss goes to zero",
        "assumptions": (
            Assumption(name="smooth", statement="phi is smooth", holds=True),
            assume_less("small", "h < 1/2", 0.25, 0.5),
        ),
        "quantities": (
            Quantity(name="h", value=0.25, bound="upper", meaning="condition number"),
            Quantity(name="rho", value=INF, bound="exact"),
        ),
        "margin": 0.5,
        "dynamics": "flow",
        "rate": 2.0,
        "radius": 3.0,
        "premises": ("arithmetic is exact",),
    }
    return Certificate(**(fields | changes))


def assumption(holds):
    return Assumption(name="a", statement="A", holds=holds)


def test_all_assumptions_with_finite_numbers_certify():
    assert certificate().verdict is Verdict.CERTIFIED


@pytest.mark.parametrize("holds", [False, None, np.bool_(False)])
@pytest.mark.usefixtures("own_errors")
def test_one_assumption_that_fails_or_is_unknown_does_not_certify(holds):
    result = certificate(assumptions=(*certificate().assumptions, assumption(holds)))
    assert result.verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize(
    "changes",
    [
        {field: value}
        for field in ("margin", "rate", "radius", "step_size")
        for value in (NAN, INF, -INF)
    ]
    + [{"margin": 0.0}, {"margin": -0.1}]
    + [{"quantities": (Quantity(name="q", value=NAN, bound="upper"),)}],
)
def test_numbers_that_are_not_finite_or_no_margin_never_certify(changes):
    assert certificate(**changes).verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize(
    ("value", "limit", "holds"),
    [
        (1.0, 2.0, True),
        (-1.0, INF, True),
        (2.0, 2.0, None),
        (3.0, 2.0, None),
        (NAN, 2.0, None),
        (1.0, NAN, None),
        (NAN, NAN, None),
        (-INF, 2.0, None),
        (INF, INF, None),
    ],
)
def test_assume_less_holds_only_for_strict_inequalities_of_numbers(value, limit, holds):
    assert assume_less("b", "value < limit", value, limit).holds is holds


def test_a_refutation_that_holds_refutes():
    unknown = (*certificate().assumptions, assumption(None))
    refuted = certificate(assumptions=unknown, refutation=assumption(True))
    assert refuted.verdict is Verdict.REFUTED
    for holds in (False, None):
        result = certificate(assumptions=unknown, refutation=assumption(holds))
        assert result.verdict is Verdict.INCONCLUSIVE


def test_certified_and_refuted_at_once_is_an_error():
    with pytest.raises(ValueError, match="`refutation` contradicts"):
        certificate(refutation=assumption(True))


def test_the_verdict_cannot_be_set():
    result: Any = certificate()
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.verdict = Verdict.CERTIFIED
    with pytest.raises(TypeError):
        certificate(verdict=Verdict.CERTIFIED)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"assumptions": ()}, "`assumptions` must hold at least one"),
        ({"assumptions": (assumption(True),) * 2}, r"`assumptions`.*unique.*'a'"),
        ({"rigor": "exact"}, "`rigor` must be one of 'proof', 'float'"),
        ({"dynamics": "sgd"}, "`dynamics` must be one of"),
    ],
)
@pytest.mark.usefixtures("own_errors")
def test_malformed_certificates_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        certificate(**changes)


@pytest.mark.usefixtures("own_errors")
def test_bounds_are_one_of_four():
    with pytest.raises(ValueError, match="`bound` must be one of"):
        Quantity(**{"name": "q", "value": 1.0, "bound": "above"})


def test_quantities_are_found_by_name():
    assert certificate()["h"] == 0.25
    with pytest.raises(KeyError, match="there are: h, rho"):
        certificate()["g"]


@pytest.mark.parametrize("value", [NAN, INF, -INF, 0.1, 5e-324, 1 / 3])
def test_json_round_trip_keeps_every_number(value):
    original = certificate(
        margin=value,
        radius=None,
        step_size=value,
        rigor="float",
        refutation=assumption(None),
        quantities=(Quantity(name="q", value=value, bound="estimate"),),
    )
    text = original.to_json()
    json.loads(text, parse_constant=lambda word: pytest.fail(f"not strict: {word}"))
    again = Certificate.from_json(text)
    assert again.to_json() == text
    assert again.verdict is original.verdict
    if not math.isnan(value):
        assert again == original


def test_json_of_another_verdict_is_refused():
    forged = json.loads(certificate(rate=NAN).to_json()) | {"verdict": "CERTIFIED"}
    with pytest.raises(ValueError, match="its content is not what was written"):
        Certificate.from_json(json.dumps(forged))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"verdict": "CERTIFIED"}'])
def test_what_is_no_certificate_is_refused(text):
    with pytest.raises(ValueError, match=r"^`text` "):
        Certificate.from_json(text)


def test_loss_bound_is_that_of_flow_or_descent():
    flow = certificate()
    assert flow.loss_bound(0) == 1
    assert flow.loss_bound(1.5) == pytest.approx(math.exp(-3))
    descent = certificate(dynamics="descent", rate=0.25)
    assert descent.loss_bound(3) == pytest.approx(0.75**3)
    assert certificate(dynamics="descent", rate=1.0).loss_bound(1) == 0
    assert certificate(margin=NAN).loss_bound(9) == 1
    with pytest.raises(ValueError, match="`time`"):
        flow.loss_bound(NAN)
    with pytest.raises(ValueError, match="`loss_bound` has no meaning"):
        certificate(dynamics=None, rate=None).loss_bound(1)


def test_explanations_name_verdict_assumptions_and_numbers():
    text = certificate(step_size=0.5, dynamics="descent").explain()
    for part in (
        "CERTIFIED: a theorem.",
        "the loss goes to zero",
        "[holds] small: h < 1/2 (0.25 against 0.5)",
        "h <= 0.25 (condition number)",
        "learning rate: 0.5",
        "(1 - rate)^k",
        "arithmetic is exact",
    ):
        assert part in text
    assert "no proof" not in text
    assert "no proof" in certificate(rigor="float").explain()
    failing = certificate(
        assumptions=(assumption(False), assume_less("b", "B", NAN, 1.0))
    )
    assert "INCONCLUSIVE" in failing.explain()
    assert "[FAILS] a: A" in failing.explain()
    assert "[not shown] b: B" in failing.explain()
    refuted = certificate(assumptions=(assumption(None),), refutation=assumption(True))
    assert "It is false that the loss goes to zero" in refuted.explain()
