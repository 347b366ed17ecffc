"""Quantities: exact, refused in another dimension, and what is printed is read back."""

import contextlib
import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hw_configs.units import DIMENSIONS, UnitError, format_quantity, parse_quantity


@pytest.mark.parametrize(
    ("text", "dimension", "value"),
    [
        ("14 ns", "time", 1.4e-08),
        ("0.416ns", "time", 4.16e-10),
        ("2039 GB/s", "bandwidth", 2.039e12),
        ("80 GiB", "size", 80 * 2**30),
        ("80 GB", "size", 80e9),
        ("16 Gb/s", "bandwidth", 2e9),
        ("200 Gbps", "bandwidth", 25e9),
        ("1.25 V", "voltage", 1.25),
        ("60 mA", "current", 0.06),
        ("31 pJ/B", "energy_per_byte", 31e-12),
        ("3.9 pJ/bit", "energy_per_byte", 31.2e-12),
        ("0.5 pJ/FLOP", "energy_per_operation", 0.5e-12),
        ("312 TFLOPS", "operation_rate", 312e12),
        ("624 TOP/s", "operation_rate", 624e12),
        ("826 mm2", "area", 826e-6),
        ("3600 USD/h", "price_rate", 1.0),
        ("1_000 MHz", "frequency", 1e9),
        ("0 ns", "time", 0.0),
        ("-3 GB/s", "bandwidth", -3e9),
    ],
)
def test_a_quantity_is_exactly_the_float_of_its_decimal(text, dimension, value):
    assert parse_quantity(text, dimension) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (80, "found 80, a number without a unit; expected a size with its unit, such as '80 GiB'"),
        ("80 GB/s", "found '80 GB/s', which is a bandwidth; expected a size with its unit, such as '80 GiB'"),
        ("80 giB", "found '80 giB' with the unknown unit 'giB'; expected a size"),
        ("much", "found 'much', which does not start with a number; expected a size"),
        (True, "found True; expected a size"),
        (None, "found None; expected a size"),
        ("nan GiB", "found 'nan GiB', which does not start with a number"),
        ("1e999 GiB", "found '1e999 GiB', which is out of every range"),
        ("1e-999999999 GiB", "which is out of every range"),
        ("0.3 B", "found '0.3 B', which is 0.3 bytes, not a whole number"),
        ("9" * 100 + " B", "a text of 102 characters"),
        ("80 GiB/GiB", "which is of another dimension"),
    ],
)
def test_what_is_not_a_size_is_refused_in_words(text, message):
    with pytest.raises(UnitError) as error:
        parse_quantity(text, "size")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("dimension", "other"), [pair for pair in itertools.product(DIMENSIONS, repeat=2) if pair[0] != pair[1]]
)
def test_every_foreign_unit_is_refused(dimension, other):
    with pytest.raises(UnitError, match="expected a"):
        parse_quantity(DIMENSIONS[other].example, dimension)


@given(
    dimension=st.sampled_from([name for name in DIMENSIONS if name != "size"]),
    value=st.floats(1e-18, 1e22),
    sign=st.sampled_from([1, -1]),
)
def test_what_is_printed_is_read_back_to_four_digits(dimension, value, sign):
    text = format_quantity(sign * value, dimension)
    assert math.isclose(parse_quantity(text, dimension), sign * value, rel_tol=5.1e-4)


@given(size=st.integers(0, 2**55))
def test_a_printed_size_is_read_back_to_four_digits(size):
    text = format_quantity(size, "size")
    if size >= 2**20 or size < 2**10:
        assert math.isclose(parse_quantity(text, "size"), size, rel_tol=5.1e-4)


@given(digits=st.integers(1, 10**6), exponent=st.integers(-6, 3))
def test_prefixes_scale_exactly(digits, exponent):
    assert parse_quantity(f"{digits}e{exponent} us", "time") == float(f"{digits}e{exponent - 6}")


@given(text=st.text(max_size=80))
def test_no_text_breaks_the_parser(text):
    for dimension in ("size", "bandwidth", "time"):
        with contextlib.suppress(UnitError):
            parse_quantity(text, dimension)
