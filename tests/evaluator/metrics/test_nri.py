import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from evaluator.metrics.clicks import nri

BUDGETS = (0, 1, 2, 5, 10)


def test_clicks_until_the_level_failures_as_one_more_than_the_largest_budget():
    values = np.array(
        [
            [30.0, 31, 32, 33, 34],  # good without a click
            [20.0, 24, 27, 29, 31],  # good at 10
            [20.0, 21, 22, 23, 24],  # never good
            [20.0, 30, 25, 25, 31],  # good at 1; a later fall does not count; a value equal to the level does
        ]
    )
    found = nri(values, BUDGETS, 30.0)
    assert found.clicks.tolist() == [0, 10, 11, 1]
    assert found.failed.tolist() == [False, False, True, False]
    assert found.mean == 5.5
    assert found.failures == 0.25


def test_the_papers_failure_counts_thirty_one():
    """GuidingPainter's Table 1: AlacGAN never reaches the level within 30 hints, and its NRI is 31.00."""
    found = nri(np.full((4, 31), 15.0), range(31), 20.5)
    assert (found.mean, found.failures) == (31.0, 1.0)


@given(
    arrays.arrays(np.float64, (6, 5), elements=st.floats(0, 40) | st.just(math.nan) | st.just(math.inf)),
    st.floats(0, 40),
    st.booleans(),
)
def test_it_is_a_search_from_the_left(values, level, higher_is_better):
    found = nri(values, BUDGETS, level, higher_is_better=higher_is_better)
    for row, clicks, failed in zip(values, found.clicks, found.failed, strict=True):
        good = [
            budget
            for budget, value in zip(BUDGETS, row, strict=True)
            if (value >= level if higher_is_better else value <= level)
        ]
        assert clicks == (good[0] if good else 11)
        assert failed == (not good)


def test_no_photos_have_no_nri():
    found = nri(np.empty((0, 5)), BUDGETS, 30.0)
    assert math.isnan(found.mean)
    assert math.isnan(found.failures)


@pytest.mark.parametrize(
    ("budgets", "level", "message"),
    [
        ((0, 1), 30.0, "2 columns|for 5 columns"),
        ((0, 2, 1, 5, 10), 30.0, "rising"),
        ((), 30.0, "rising"),
        (BUDGETS, math.nan, "level is NaN"),
    ],
)
def test_what_makes_no_sense_is_refused(budgets, level, message):
    with pytest.raises(ValueError, match=message):
        nri(np.zeros((2, 5)), budgets, level)
