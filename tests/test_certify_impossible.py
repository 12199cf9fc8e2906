"""Bounds that nothing can have are refused by name, wherever they are passed."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lazyjax import certify
from lazyjax.certify import (
    Assumption,
    JacobianBlock,
    LocalBounds,
    adversary,
    assume_less,
    measured,
)
from lazyjax.certify.arithmetic.rounding import Interval
from lazyjax.certify.bounds.flips import FlipBounds
from lazyjax.certify.certificate import Certificate
from lazyjax.certify.theorems import (
    chatterjee2022,
    chizat2019,
    liu2022,
    oymak2019,
    relu,
    residual as theorems,
)
from lazyjax.certify.widths import du2019, du2019b
from lazyjax.certify.widths.requirement import RequiredWidth

pytestmark = [pytest.mark.once, pytest.mark.usefixtures("own_errors")]

NAN, INF = math.nan, math.inf
CONSTANTS = {"residual": 1.0, "sigma_min": 1.0, "jacobian_norm": 2.0, "lipschitz": 0.1}


def constants(**changes: Any) -> LocalBounds:
    arguments: dict[str, Any] = CONSTANTS | changes
    return LocalBounds.from_constants(arguments.pop("residual"), **arguments)


def local(**changes: Any) -> LocalBounds:
    return dataclasses.replace(constants(), **changes)


def block(**changes: Any) -> JacobianBlock:
    return JacobianBlock(
        **({"name": "all", "sigma_min": 1.0, "lipschitz": abs} | changes)
    )


def flips(**changes: Any) -> FlipBounds:
    arguments: dict[str, Any] = {
        "residual": Interval(0.01, 0.01),
        "sigma_min": 1.0,
        "jacobian_norm": 2.0,
        "drive": 0.1,
        "flips": lambda radius: 0.1 * radius,
    }
    return FlipBounds(**(arguments | changes))


CONSTRUCTORS = {
    "constants: residual": (lambda: constants(residual=-1.0), "`residual`"),
    "constants: residual NaN": (lambda: constants(residual=NAN), "`residual`"),
    "constants: lipschitz": (lambda: constants(lipschitz=-5.0), "`lipschitz`"),
    "constants: lipschitz NaN": (lambda: constants(lipschitz=NAN), "`lipschitz`"),
    "constants: sigma": (lambda: constants(sigma_min=-1.0), "`sigma_min`"),
    "constants: sigma NaN": (lambda: constants(sigma_min=NAN), "`sigma_min`"),
    "constants: sigma infinite": (lambda: constants(sigma_min=INF), "`sigma_min`"),
    "constants: norm": (lambda: constants(jacobian_norm=-2.0), "`jacobian_norm`"),
    "constants: norm NaN": (lambda: constants(jacobian_norm=NAN), "`jacobian_norm`"),
    "constants: sigma above norm": (
        lambda: constants(jacobian_norm=0.99),
        "`sigma_min` must be at most `jacobian_norm`",
    ),
    "bounds: residual": (lambda: local(residual=Interval(-1.0, 1.0)), "`residual`"),
    "bounds: residual NaN": (lambda: local(residual=Interval(NAN, 1.0)), "`residual`"),
    "bounds: residual reversed": (lambda: local(residual=Interval(2.0, 1)), "`resid"),
    "bounds: norm": (lambda: local(jacobian_norm=NAN), "`jacobian_norm`"),
    "bounds: newton": (lambda: local(newton_norm=-0.1), "`newton_norm`"),
    "bounds: newton NaN": (lambda: local(newton_norm=NAN), "`newton_norm`"),
    "bounds: newton too short": (
        lambda: local(newton_norm=0.49),
        r"`newton_norm` must be at least \|r\| / \|J\|",
    ),
    "bounds: lipschitz": (lambda: local(lipschitz=lambda r: -r - 1), "`lipschitz`"),
    "bounds: blocks": (lambda: local(blocks=()), "`blocks`"),
    "bounds: block above": (
        lambda: local(blocks=(block(sigma_min=3.0),)),
        "`sigma_min`",
    ),
    "bounds: rigor": (lambda: local(rigor="hope"), "`rigor`"),
    "block: sigma": (lambda: block(sigma_min=-0.1), "`sigma_min`"),
    "block: lipschitz": (lambda: block(lipschitz=lambda r: NAN), "`lipschitz`"),
    "flips: residual": (lambda: flips(residual=Interval(-1.0, 1.0)), "`residual`"),
    "flips: sigma": (lambda: flips(sigma_min=-1.0), "`sigma_min`"),
    "flips: sigma above norm": (lambda: flips(sigma_min=2.1), "`sigma_min`"),
    "flips: norm": (lambda: flips(jacobian_norm=NAN), "`jacobian_norm`"),
    "flips: drive": (lambda: flips(drive=-0.1), "`drive`"),
    "attack: loss": (
        lambda: adversary.Attack(radii=np.zeros(1), ratio=np.ones(1), loss=-1.0),
        "`loss`",
    ),
    "attack: ratio": (
        lambda: adversary.Attack(radii=np.zeros(1), ratio=-np.ones(1), loss=1.0),
        "`ratio`",
    ),
    "attack: radii": (
        lambda: adversary.Attack(radii=np.ones(1), ratio=np.ones(1), loss=1.0),
        "`radii`",
    ),
    "attack: shapes": (
        lambda: adversary.Attack(radii=np.zeros(1), ratio=np.ones(2), loss=1.0),
        "`ratio`",
    ),
    "requirement: width": (
        lambda: RequiredWidth(
            theorem="t", formula="m", width=-1.0, depth=1, is_explicit=True
        ),
        "`width`",
    ),
    "requirement: rate": (
        lambda: RequiredWidth(
            theorem="t",
            formula="m",
            width=1.0,
            depth=1,
            is_explicit=True,
            max_learning_rate=-1.0,
        ),
        "`max_learning_rate`",
    ),
    "family": (
        lambda: dataclasses.replace(measured.zou2018.LOGISTIC, lipschitz=-1.0),
        "`lipschitz`",
    ),
}


@pytest.mark.parametrize("name", CONSTRUCTORS)
def test_constructors_refuse_what_cannot_be(name):
    call, message = CONSTRUCTORS[name]
    with pytest.raises(ValueError, match=message):
        call()


def linear(w, x):
    return x @ w


ONES = jnp.ones((1, 1))


def measured_argument(**changes: Any):
    arguments: dict[str, Any] = {
        "ntk_start": ONES,
        "drift_norm": jnp.zeros(2),
        "eig_min": jnp.ones(2),
        "loss": jnp.ones(2),
        "learning_rate": 0.1,
    }
    return measured.du2019.measure(ONES, **(arguments | changes))


ARGUMENTS = {
    "criterion: loss": (lambda: chatterjee2022.criterion(-1.0, 1.0), "`loss`"),
    "criterion: loss NaN": (lambda: chatterjee2022.criterion(NAN, 1.0), "`loss`"),
    "criterion: radius": (lambda: chatterjee2022.criterion(1.0, -1.0), "`radius`"),
    "criterion: lower": (
        lambda: chatterjee2022.criterion(1.0, 1.0, alpha_lower=-1.0),
        "`alpha_lower`",
    ),
    "criterion: lower NaN": (
        lambda: chatterjee2022.criterion(1.0, 1.0, alpha_lower=NAN),
        "`alpha_lower`",
    ),
    "criterion: upper": (
        lambda: chatterjee2022.criterion(1.0, 1.0, alpha_upper=-1.0),
        "`alpha_upper`",
    ),
    "criterion: upper NaN": (
        lambda: chatterjee2022.criterion(1.0, 1.0, alpha_upper=NAN),
        "`alpha_upper`",
    ),
    "criterion: both": (
        lambda: chatterjee2022.criterion(1e-9, 1.0, alpha_lower=2.0, alpha_upper=1.0),
        "`alpha_lower` must be at most `alpha_upper`",
    ),
    "flow by the criterion: upper": (
        lambda: chatterjee2022.flow_theorem(constants(), radius=1.0, alpha_upper=NAN),
        "`alpha_upper`",
    ),
    "flow: radius": (
        lambda: theorems.flow_theorem(constants(), radius=-1.0),
        "`radius`",
    ),
    "flow: radius NaN": (
        lambda: theorems.flow_theorem(constants(), radius=NAN),
        "`radius`",
    ),
    "descent: radius": (
        lambda: theorems.descent_theorem(constants(), radius=0.0),
        "`radius`",
    ),
    "existence: radius": (
        lambda: theorems.existence_theorem(constants(), radius=0.0),
        "`radius`",
    ),
    "relu flow: radius": (lambda: relu.flow_theorem(flips(), radius=0.0), "`radius`"),
    "relu descent: radius": (
        lambda: relu.descent_theorem(flips(), radius=NAN),
        "`radius`",
    ),
    "relu: flips": (
        lambda: relu.flow_theorem(flips(flips=lambda r: -1.0)),
        "`flips`",
    ),
    "relu: flips NaN": (lambda: relu.flow_theorem(flips(flips=lambda r: NAN)), "`flip"),
    "relu: flips fall": (
        lambda: relu.flow_theorem(flips(flips=lambda r: 1e-4 / r)),
        "`flips` must not decrease",
    ),
    "du2019: drift": (
        lambda: measured_argument(drift_norm=-jnp.ones(2)),
        "`drift_norm`",
    ),
    "du2019: loss": (lambda: measured_argument(loss=-jnp.ones(2)), "`loss`"),
    "du2019: rate": (lambda: measured_argument(learning_rate=-0.1), "`learning_rate`"),
    "zou2018: rate": (
        lambda: measured.zou2018.measure_radius(
            linear, ONES, ONES, ONES, learning_rate=NAN, num_steps=1
        ),
        "`learning_rate`",
    ),
    "zou2018: grid": (
        lambda: measured.zou2018.check_loss(measured.zou2018.logistic_loss, high=INF),
        "`low`",
    ),
    "allen_zhu2019: rate": (
        lambda: measured.allen_zhu2019.measure(
            linear, ONES, ONES, ONES, learning_rate=-1.0, num_steps=1
        ),
        "`learning_rate`",
    ),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_functions_refuse_what_cannot_be(name):
    call, message = ARGUMENTS[name]
    with pytest.raises(ValueError, match=message):
        call()


THEOREMS = {
    "flow": theorems.flow_theorem,
    "descent": theorems.descent_theorem,
    "existence": theorems.existence_theorem,
    "chatterjee": chatterjee2022.flow_theorem,
    "chatterjee descent": chatterjee2022.descent_theorem,
    "liu": liu2022.descent_theorem,
    "oymak": oymak2019.descent_theorem,
    "lazy": chizat2019.lazy_theorem,
    "horizon": lambda bounds: chizat2019.horizon_theorem(bounds, 1.0),
    "scales": lambda bounds: chizat2019.scales(bounds, 1.0),
}
WRONG = {
    "falling": (lambda radius: 10 / (1 + radius), "must not decrease"),
    "falling later": (
        lambda radius: 0.3 if radius < 1e-3 else 0.01,
        "must not decrease",
    ),
    "negative later": (lambda radius: 0.0 if radius == 0 else -1.0, "zero or positive"),
    "NaN later": (lambda radius: 0.0 if radius == 0 else NAN, "zero or positive"),
}


@pytest.mark.parametrize("theorem", THEOREMS)
@pytest.mark.parametrize("wrong", WRONG)
def test_constants_are_checked_where_theorems_ask_for_them(theorem, wrong):
    fn, message = WRONG[wrong]
    with pytest.raises(ValueError, match=f"`lipschitz` {message}|`lipschitz` must be"):
        THEOREMS[theorem](constants(lipschitz=fn, residual=0.1))


@pytest.mark.parametrize("theorem", THEOREMS)
def test_bounds_that_can_be_are_taken(theorem):
    """Among them extreme ones: exact zeros, infinities, a condition number of 1."""
    for changes in (
        {},
        {"residual": 0.0},
        {"lipschitz": 0.0},
        {"jacobian_norm": INF},
        {"lipschitz": INF},
        {"lipschitz": lambda radius: radius},
        {"jacobian_norm": 1.0},
        {"sigma_min": 0.0, "jacobian_norm": 0.0},
        {"residual": 1e200},
    ):
        found = THEOREMS[theorem](constants(**changes))
        if isinstance(found, Certificate) and found.is_certified:
            assert found.radius is not None
            assert found.radius >= 0


@pytest.mark.parametrize("holds", [NAN, 1.0, 0, "no", "False", np.ones(2, bool), []])
def test_only_booleans_say_that_a_statement_holds(holds):
    with pytest.raises(TypeError, match="`holds` must be True, False or None"):
        Assumption(name="a", statement="A", holds=holds)
    known: Any
    for known in (True, False, np.bool_(True), jnp.bool_(False)):
        assert Assumption(name="a", statement="A", holds=known).holds is bool(known)


def test_guarantees_that_cannot_be_are_not_certified():
    def certificate(**changes: Any) -> Certificate:
        fields: dict[str, Any] = {"margin": 0.5, "radius": 1.0, "rate": 1.0}
        fields |= {"step_size": 1.0} | changes
        return Certificate(
            theorem="a theorem",
            conclusion="the loss goes to zero",
            assumptions=(assume_less("small", "h < 1/2", 0.25, 0.5),),
            **fields,
        )

    assert certificate().is_certified
    for field in ("radius", "rate", "step_size"):
        assert not certificate(**{field: -0.95}).is_certified


def test_networks_that_overflow_are_inconclusive_and_no_error():
    network = certify.widths.network_at(4, activation="softplus")
    x, y = np.eye(2, 3), np.ones((2, 1))
    params = network.init(jax.random.key(0), jnp.asarray(x))
    huge = jax.tree.map(lambda v: np.asarray(v, np.float64) * 1e200, params)
    for rigor in ("proof", "float"):
        for verb in (
            certify.gradient_flow,
            certify.gradient_descent,
            certify.existence,
        ):
            found = verb(network, huge, x, y, rigor=rigor)
            assert found.verdict.name == "INCONCLUSIVE"
        bounds = certify.local_bounds(network, huge, x, y, rigor=rigor)
        assert bounds.blocks[0].sigma_min == 0
        for theorem in THEOREMS.values():
            found = theorem(bounds)
            assert not getattr(found, "is_certified", False)


@pytest.mark.parametrize("kind", ["mlp", "resnet"])
def test_equal_inputs_ask_for_infinite_widths_and_no_negative_ones(kind):
    x = np.array([[1.0, 0.0], [1.0, 0.0], [0.6, 0.8], [0.6, 0.8]])
    described = du2019b.architecture(kind)
    needed = (*du2019.requirements(x), *du2019b.requirements(x, described))
    for found in needed:
        assert found.width is not None
        assert found.width > 1e12
        assert found.max_learning_rate is None or found.max_learning_rate >= 0
