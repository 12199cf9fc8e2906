"""Primitives that make each entry of the same entries of their operands."""

from lazyjax.jaxpr.labels import EquationPair, Rows
from lazyjax.jaxpr.registry import describe_elementwise, described_by_rows

_SMOOTH = """
abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt
clamp clz complex conj convert_element_type copy copy_p cos cosh digamma div eq eq_to
erf erf_inv erfc exp exp2 expm1 ge gt igamma igamma_grad_a igammac imag integer_pow
is_finite le le_to lgamma log log1p log2 logistic lt lt_to max min mul mulhi name ne neg
not one_minus_square or polygamma polynomial population_count pow real reduce_precision
regularized_incomplete_beta rem rsqrt select_n shift_left shift_right_arithmetic
shift_right_logical sin sinh sqrt square sub tan tanh xor zeta
"""
_FLAT = ("ceil", "floor", "round", "sign", "stop_gradient")

describe_elementwise(*_SMOOTH.split())
describe_elementwise(*_FLAT, dependence="zero")
describe_elementwise("nextafter", dependence="zero", follows_dtype=False)


@described_by_rows("bitcast_convert_type", follows_dtype=False)
def _bitcast(pair: EquationPair) -> Rows | None:
    # Between types of different width, an axis is added or taken away.
    return pair.common if pair.operand() == pair.result() else None
