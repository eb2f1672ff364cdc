"""The ruler: the kernel under the very clicks of the baseline, the same for every split, joined to any results."""

import numpy as np
import pandas as pd
import pytest

from evaluator.baselines import BASELINES, Kernel, Levin
from evaluator.policies import NAMES, RandomPolicy, RegionCenterPolicy, make
from evaluator.protocol.evaluate import Protocol, Results, evaluate
from evaluator.protocol.no_network import measure_ruler
from evaluator.protocol.results import RULER

PROTOCOL = Protocol(clicks=(0, 1, 4), hint_size=3, seed=2)
METRICS = ["ab_psnr", "rgb_psnr", "worse_clicks"]


def assert_equal_values(one: Results, other: Results) -> None:
    assert one.policies == other.policies
    left, right = (results.frame.drop(columns="seconds_per_click") for results in (one, other))
    pd.testing.assert_frame_equal(left, right, check_exact=True)


def test_it_is_the_kernel_under_the_baseline_s_clicks(colorizer, photos):
    policies = {"random": RandomPolicy(), "region-centre": RegionCenterPolicy()}
    results = evaluate(colorizer, policies, photos, PROTOCOL, metrics=METRICS)
    joined = results.beside(measure_ruler(photos, PROTOCOL, metrics=METRICS))
    assert joined.policies == ["random", "region-centre", RULER]
    np.testing.assert_array_equal(joined.positions(RULER), joined.positions("random"))
    kernel = evaluate(Kernel(), {"random": RandomPolicy()}, photos, PROTOCOL, metrics=METRICS)
    for metric in METRICS:
        np.testing.assert_array_equal(joined.values(RULER, metric), kernel.values("random", metric))
        np.testing.assert_array_equal(joined.values("random", metric), results.values("random", metric))
    gains = [row for row in joined.records if row.policy == RULER and row.metric == "ab_psnr"]
    assert [row.gain is not None for row in gains] == [True] * 3


def test_its_numbers_are_equal_bit_by_bit_for_every_split(photos):
    whole = measure_ruler(photos, PROTOCOL, metrics=METRICS)
    parts = [
        measure_ruler(photos[rows], PROTOCOL, first_index=rows.start, metrics=METRICS)
        for rows in (slice(4, 9), slice(0, 1), slice(1, 4))
    ]
    assert_equal_values(Results.merge(parts), whole)


def test_it_improves_with_clicks(photos):
    values = measure_ruler(photos, PROTOCOL).values(RULER, "ab_psnr").mean(0)
    assert (np.diff(values) > 0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"protocol": Protocol(clicks=(0, 1))}, "differ in protocol"),
        ({"metrics": ["ab_psnr"]}, "differ in metrics"),
        ({"first_index": 1}, "differ in photos"),
    ],
)
@pytest.mark.training
def test_only_like_results_are_joined(photos, change, message):
    results = evaluate(Kernel(), {"random": RandomPolicy()}, photos, PROTOCOL, metrics=METRICS)
    with pytest.raises(ValueError, match=message):
        results.beside(measure_ruler(photos, **({"protocol": PROTOCOL, "metrics": METRICS} | change)))
    ruler = measure_ruler(photos, PROTOCOL, metrics=METRICS)
    with pytest.raises(ValueError, match="both have the policy 'no network'"):
        ruler.beside(ruler)


@pytest.mark.parametrize("baseline", [Kernel(), Levin()], ids=lambda one: one.name)
@pytest.mark.training
def test_every_policy_clicks_for_a_baseline_and_batches_change_nothing(baseline, photos):
    policies = {name: make(name, colorizer=baseline) for name in NAMES}
    protocol = Protocol(clicks=(0, 2))
    whole = evaluate(baseline, policies, photos[:2], protocol, metrics=["ab_psnr"])
    assert all(whole.values(policy, "ab_psnr").min() > 5 for policy in whole.policies)
    parts = [
        evaluate(baseline, policies, photos[i : i + 1], protocol, first_index=i, metrics=["ab_psnr"])
        for i in range(2)
    ]
    assert_equal_values(Results.merge(parts), whole)


def test_baselines_stand_under_their_names():
    assert {name: type(one) for name, one in BASELINES.items()} == {"kernel": Kernel, "levin": Levin}
