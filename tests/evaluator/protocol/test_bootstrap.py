import numpy as np
import pytest

from evaluator.protocol.bootstrap import defined_means, mean_intervals


def test_means_with_holes_are_those_of_each_column_without_its_holes():
    values = np.random.default_rng(0).standard_normal((30, 4))
    values[:7, 1] = np.nan
    values[3:9, 3] = np.nan
    found = defined_means(values, seed=5)
    for column in range(4):
        defined = values[~np.isnan(values[:, column]), column]
        low, high = mean_intervals(defined[:, None], 5)
        assert found.mean[column] == pytest.approx(defined.mean())
        assert (found.low[column], found.high[column]) == pytest.approx((low[0], high[0]))
        assert found.photos[column] == len(defined)


def test_columns_without_any_value_or_with_one_have_no_interval():
    found = defined_means(np.array([[np.nan, 2.0], [np.nan, np.nan]]), seed=0)
    np.testing.assert_array_equal(found.mean, [np.nan, 2.0])
    assert found.photos.tolist() == [0, 1]
    assert np.isnan([found.low, found.high]).all()


def test_no_photos_have_no_means():
    found = defined_means(np.empty((0, 2)), seed=0)
    assert np.isnan(found.mean).all()
    assert found.photos.tolist() == [0, 0]
