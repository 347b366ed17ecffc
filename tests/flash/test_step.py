"""Steps become part of a kernel: one compiled form each, the same results, and no call from Python."""

import numpy as np
import pytest
from numba import njit

from simulator.flash.pointer import drive_in, line_at, place_of, unit_at
from simulator.flash.records import DRIVE, UNIT, words
from simulator.flash.scheduler import append
from simulator.flash.step import step


@step
def scaled(value, factor):
    return value * factor


@step
def both(value, least):
    return scaled(value, 2) + scaled(value, 3) + scaled(least, value)


@njit
def kernel(values):
    total = 0
    for value in values:
        total += both(value, 1)
    return total


def test_a_step_is_compiled_once_for_constants_and_numbers():
    assert kernel(np.arange(5)) == 6 * 10
    assert len(scaled.signatures) == len(both.signatures) == 1


def test_a_step_is_not_called_from_python():
    kernel(np.arange(2))
    with pytest.raises(TypeError):
        scaled(1, 2)


@njit
def queue_two(m, unit, first, second):
    d = drive_in(m)
    line = unit_at(d, unit).user_reads
    append(d, line, first)
    append(d, line, second)
    return place_of(d, line), line_at(d, place_of(d, line)).tail


def test_records_lie_where_their_names_say():
    unit, first, second = words(DRIVE), words(DRIVE) + words(UNIT), words(DRIVE) + words(UNIT) + 20
    m = np.zeros(second + 20, np.int64)
    place, tail = queue_two(m, unit, first, second)
    written = m[unit : unit + words(UNIT)].view(UNIT)[0]
    assert (written["user_reads"]["head"], written["user_reads"]["tail"]) == (first, second)
    assert (place, tail) == (unit + UNIT.fields["user_reads"][1] // 8, second)
    assert (m[first], m[second]) == (second, 0)
