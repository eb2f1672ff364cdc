from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from skimage.color import rgb2lab
from skimage.metrics import peak_signal_noise_ratio

from evaluator.metrics import METRICS
from evaluator.metrics.base import Comparison
from evaluator.policies import (
    NAMES,
    ExpectedReductionPolicy,
    GreedyPolicy,
    GuidePolicy,
    Imagination,
    MaxErrorPolicy,
    Policy,
    RandomPolicy,
    RegionCenterPolicy,
    make,
)
from evaluator.protocol.evaluate import Protocol, Results, _Progress, _Run, evaluate
from kernels.color import rgb_to_lab
from trainer.networks import ColorNet

POLICIES = {"random": RandomPolicy(), "max error": MaxErrorPolicy(), "region": RegionCenterPolicy()}
PROTOCOL = Protocol(clicks=(0, 1, 3, 6), seed=3, batch_size=4)


@pytest.fixture
def results(colorizer, photos) -> Results:
    return evaluate(colorizer, POLICIES, photos, PROTOCOL)


def assert_same(left: Results, right: Results):
    """Bit by bit."""
    assert (left.policies, left.metrics) == (right.policies, right.metrics)
    one, other = (results.frame.drop(columns="seconds_per_click") for results in (left, right))
    pd.testing.assert_frame_equal(one, other, check_exact=True)


def test_results_hold_every_photo_policy_metric_and_budget(results, photos):
    assert results.policies == list(POLICIES)
    assert results.metrics == ["ab_psnr", "ab_ssim", "rgb_psnr"]
    assert results.size == (24, 24)
    assert results.photos["index"].tolist() == list(range(9))
    for policy in POLICIES:
        assert results.positions(policy).shape == (9, 6, 2)
        assert all(len({*map(tuple, clicks)}) == 6 for clicks in results.positions(policy).tolist())
        np.testing.assert_array_equal(results.positions(policy, 3), results.positions(policy)[:, :3])
        for metric in results.metrics:
            values = results.values(policy, metric)
            assert values.shape == (9, 4)
            assert np.isfinite(values).all()


@pytest.mark.parametrize("batch_size", [1, 7, 100])
@pytest.mark.training
def test_results_do_not_depend_on_the_batch_size(colorizer, photos, results, batch_size):
    protocol = Protocol(clicks=(0, 1, 3, 6), seed=3, batch_size=batch_size)
    assert_same(evaluate(colorizer, POLICIES, photos, protocol), results)


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    """Untrained; libraries round its numbers differently for other batches and other numbers of threads."""
    torch.manual_seed(0)
    return ColorNet((16, 32, 64)).eval()


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """`threads(n)`: use n CPU threads until the test ends."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def every_policy() -> dict[str, Policy]:
    def guide(lightness, predicted_ab, clicks, truth_ab):
        return predicted_ab.square().sum(1)

    trying = {
        "greedy": GreedyPolicy(side=3, pixels_at_once=24 * 24 * 5),
        "expected-reduction": ExpectedReductionPolicy(side=2, imagination=Imagination(members=2)),
    }
    return {**{name: make(name) for name in NAMES}, **trying, "guide-blind": make("guide-blind", guide=guide)}


@pytest.mark.parametrize("batch_size", [pytest.param(1, marks=pytest.mark.slow), 3])
@pytest.mark.training
def test_no_policy_depends_on_the_batch_size_or_on_the_split(network, photos, batch_size):
    def protocol(size: int) -> Protocol:
        return Protocol(clicks=(1, 4), hint_size=2, batch_size=size)

    whole = evaluate(network, every_policy(), photos, protocol(9))
    parts = [
        evaluate(network, every_policy(), part, protocol(batch_size), first_index=index)
        for part, index in ((photos[:4], 0), (photos[4:], 4))
    ]
    assert_same(Results.merge(parts), whole)


@pytest.mark.parametrize("size", [24, 40])
@pytest.mark.training
def test_no_number_depends_on_threads_or_batch_size(network, photos, threads, size):
    everything = [name for name, metric in METRICS.items() if not metric.unavailable() and metric.smallest <= size]
    larger = torch.nn.functional.interpolate(photos, size=(size, size))
    found = []
    for count, batch_size in ((1, 9), (2, 9), (2, 2), (1, 1)):
        threads(count)
        protocol = Protocol(clicks=(0, 1, 3), hint_size=3, batch_size=batch_size)
        found.append(evaluate(network, POLICIES, larger, protocol, metrics=everything))
        assert torch.get_num_threads() == count
    for other in found[1:]:
        assert_same(other, found[0])


def test_a_batch_as_on_a_gpu_gives_what_single_photos_give(colorizer, photos):
    protocol = Protocol(clicks=(0, 2, 5), hint_size=2)
    policies = {"random": RandomPolicy(), "max error": MaxErrorPolicy(), "farthest": make("farthest")}
    metrics = ["ab_psnr", "rgb_psnr", "hint_error", "locality", "click_distance"]
    alone = evaluate(colorizer, policies, photos, protocol, first_index=7, metrics=metrics)
    run = _Run(
        colorizer=colorizer,
        autocast=None,
        policies=policies,
        photos=photos,
        protocol=protocol,
        device=torch.device("cpu"),
        first_index=7,
        progress=_Progress(1, print),
        columns={name: np.full((9, 3, 3), np.nan) for name in metrics},
        positions=np.zeros((9, 3, 5), dtype=np.int64),
    )
    with torch.no_grad():
        for rows in (slice(0, 5), slice(5, 9)):
            run.measure(rows)
    together = Results.of(protocol, (24, 24), 7, list(policies), run.columns, run.positions)
    for policy in policies:
        np.testing.assert_array_equal(together.positions(policy), alone.positions(policy))
        for metric in metrics:
            left, right = together.values(policy, metric), alone.values(policy, metric)
            np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-5, err_msg=f"{policy} {metric}")


def test_an_error_in_one_photo_ends_the_evaluation(photos, threads):
    threads(2)

    def colorizer(lightness, clicks):
        raise ValueError("no colours today")

    with pytest.raises(ValueError, match="no colours today"):
        evaluate(colorizer, POLICIES, photos, PROTOCOL)
    assert torch.get_num_threads() == 2


def test_parts_evaluated_by_different_processes_merge_into_the_whole(colorizer, photos, results):
    parts = [
        evaluate(colorizer, POLICIES, photos[first:stop], PROTOCOL, first_index=first)
        for first, stop in [(5, 9), (0, 5), (9, 9)]
    ]
    merged = Results.merge(parts)
    assert_same(merged, results)
    assert [row["ab_psnr"] for row in merged.rows()] == pytest.approx(
        [row["ab_psnr"] for row in results.rows()], abs=1e-6
    )


def test_merging_refuses_parts_that_do_not_belong_together(colorizer, photos, results):
    with pytest.raises(ValueError, match="a photo is in two parts"):
        Results.merge([results, results])
    other = evaluate(colorizer, {"random": RandomPolicy()}, photos[:2], PROTOCOL, first_index=9)
    with pytest.raises(ValueError, match="parts differ"):
        Results.merge([results, other])
    with pytest.raises(ValueError, match="no results to merge"):
        Results.merge([])


def test_the_robot_user_clicks_in_the_true_colors_of_the_chosen_pixels(photos):
    seen = []

    def colorizer(lightness, clicks):
        seen.append(clicks)
        return torch.zeros_like(clicks[:, 1:])

    results = evaluate(colorizer, {"random": RandomPolicy()}, photos[:1], Protocol(clicks=(4,)))
    truth = rgb2lab(photos[0].permute(1, 2, 0).numpy())[..., 1:] / 128
    expected = np.zeros((3, 24, 24))
    for row, col in results.positions("random")[0]:
        expected[:, row, col] = 1, *truth[row, col]
    np.testing.assert_allclose(seen[-1][0], expected, atol=1e-5)


def test_hint_size_stamps_a_patch_with_its_mean_color(photos):
    seen = []

    def colorizer(lightness, clicks):
        seen.append(clicks)
        return torch.zeros_like(clicks[:, 1:])

    corner = GuidePolicy(guide=lambda lightness, ab, clicks, truth: lightness[:, 0] * 0 - 1, blind=True)
    evaluate(colorizer, {"first": corner}, photos[:1], Protocol(clicks=(1,), hint_size=3))
    patch = rgb2lab(photos[:1].permute(0, 2, 3, 1).numpy())[0, :2, :2, 1:] / 128
    assert seen[-1][0, 0].sum() == 4  # a 3 x 3 patch at the corner, cut off by the border
    np.testing.assert_allclose(seen[-1][0, 1:, 1, 1], patch.mean((0, 1)), atol=1e-5)


def test_the_values_without_clicks_are_those_of_the_automatic_coloring(photos):
    grey = evaluate(
        lambda lightness, clicks: clicks[:, 1:] * 0, {"random": RandomPolicy()}, photos, Protocol(clicks=(0,))
    )
    truth = rgb2lab(photos.permute(0, 2, 3, 1).numpy())[..., 1:] / 128
    expected = [peak_signal_noise_ratio(t, np.zeros_like(t), data_range=2) for t in truth]
    np.testing.assert_allclose(grey.values("random", "ab_psnr")[:, 0], expected, atol=1e-4)


def test_a_perfect_colorizer_is_infinite_per_photo_and_finite_in_the_table(photos):
    lab = torch.from_numpy(rgb2lab(photos.permute(0, 2, 3, 1).numpy())).permute(0, 3, 1, 2).float()

    def perfect(lightness, clicks):
        errors = (lab[:, :1] / 100 - lightness).abs().flatten(1).amax(1)
        return lab[errors.argmin()][None, 1:] / 128

    results = evaluate(perfect, {"random": RandomPolicy()}, photos, Protocol(clicks=(0,)))
    assert np.isinf(results.frame["rgb_psnr"]).all()
    record = next(row for row in results.records if row.metric == "rgb_psnr")
    assert (record.value, record.exact) == (100.0, 9)


def test_the_network_runs_once_per_click_and_only_at_budgets_for_a_policy_that_does_not_look(photos):
    calls = []

    def colorizer(lightness, clicks):
        calls.append(clicks[:, 0].sum((1, 2)).unique().tolist())
        return clicks[:, 1:] * 1.0

    policies = {"random": RandomPolicy(), "max error": MaxErrorPolicy()}
    evaluate(colorizer, policies, photos[:1], Protocol(clicks=(0, 2, 5)))
    assert calls == [[0], [2], [5], [1], [2], [3], [4], [5]]


def test_metrics_get_the_clicks_their_places_and_the_colors_before_the_newest(photos, monkeypatch):
    seen = []

    def spy(at: Comparison) -> torch.Tensor:
        seen.append(at)
        return torch.zeros(len(at.lightness), dtype=torch.float64)

    metric = replace(METRICS["ab_psnr"], per_photo=spy, needs_previous=True)
    monkeypatch.setitem(METRICS, "spy", metric)
    calls = []

    def counting(lightness, clicks):
        calls.append(int(clicks[0, 0].sum()))
        return clicks[:, 1:] * 0.5

    policies = {"random": RandomPolicy()}
    evaluate(counting, policies, photos[:1], Protocol(clicks=(0, 3)), metrics=["spy"])
    assert calls == [0, 2, 3]
    before, after = seen
    assert before.previous_ab is None
    assert before.positions.shape == (1, 0)
    assert after.positions.shape == (1, 3)
    newest = after.positions[:, -1:, None].expand(-1, -1, 2).mT
    assert torch.equal(after.clicks[:, 0].sum((1, 2)), torch.full((1,), 3.0))
    without = (after.clicks[:, 1:] * 0.5).flatten(2).scatter(2, newest, 0.0)
    assert torch.equal(after.previous_ab.flatten(2), without)


def test_a_metric_that_is_undefined_without_clicks_is_averaged_where_it_is_defined(colorizer, photos):
    results = evaluate(colorizer, POLICIES, photos, PROTOCOL, metrics=["ab_psnr", "click_distance", "locality"])
    assert np.isnan(results.values("random", "locality")[:, 0]).all()
    counts = {(s.metric, s.clicks): s.photos for s in results.records if s.policy == "random"}
    assert counts["ab_psnr", 0] == counts["locality", 1] == counts["click_distance", 3] == 9
    assert counts["locality", 0] == counts["click_distance", 0] == counts["click_distance", 1] == 0
    row = results.rows()[0]
    assert (row["locality"], row["locality_photos"], row["photos"]) == (None, 0, 9)


def test_seconds_per_click_are_each_photos_own_and_divided_by_the_clicks(results):
    for policy in POLICIES:
        seconds = results.values(policy, "seconds_per_click")
        assert seconds.shape == (9, 4)
        assert np.isnan(seconds[:, 0]).all()
        assert (seconds[:, 1:] > 0).all()
        assert (np.diff(seconds * [0, 1, 3, 6])[:, 1:] > 0).all()
        assert len(np.unique(seconds[:, 3])) == 9


def test_colors_that_are_not_finite_are_refused_with_the_photo(photos):
    third = rgb_to_lab(photos[2:3])[0]

    def broken(lightness, clicks):
        return clicks[:, 1:] * (torch.nan if torch.equal(lightness, third) else 1.0)

    with pytest.raises(ValueError, match="NaN or infinite colours for photo 12; check its weights"):
        evaluate(broken, POLICIES, photos, PROTOCOL, first_index=10)


def test_better_placed_clicks_are_measured_as_better(results):
    after = {
        (row.policy, row.metric): row for row in results.records if row.clicks == 6 and row.policy != "random"
    }
    region = after["region", "ab_psnr"]
    assert region.verdict == "better"
    assert region.gain is not None
    assert region.gain > 0.5
    before = [row for row in results.records if row.clicks == 0 and row.policy != "random"]
    assert {(row.gain, row.verdict) for row in before} == {(0.0, "no different")}


def test_progress_is_told_after_every_click_and_ends_complete(colorizer, photos):
    told = []
    evaluate(colorizer, POLICIES, photos, PROTOCOL, on_progress=lambda done, total: told.append((done, total)))
    assert told[0] == (1, 9 * 3 * 6)
    assert told[-1] == (9 * 3 * 6, 9 * 3 * 6)
    assert [done for done, _ in told] == sorted({done for done, _ in told})


def test_evaluation_leaves_no_graph_behind(photos):
    weight = torch.nn.Parameter(torch.ones(()))
    requires = []

    def colorizer(lightness, clicks):
        ab = clicks[:, 1:] * weight
        requires.append(ab.requires_grad)
        return ab

    evaluate(colorizer, POLICIES, photos[:2], PROTOCOL)
    assert not any(requires)
    assert torch.is_grad_enabled()


def test_autocast_reaches_the_colorizer_and_metrics_stay_in_float32(photos):
    layer = torch.nn.Conv2d(4, 2, 3, padding=1)
    dtypes = []

    def colorizer(lightness, clicks):
        ab = layer(torch.cat([lightness, clicks], 1)).tanh()
        dtypes.append(ab.dtype)
        return ab

    half = evaluate(colorizer, POLICIES, photos[:2], PROTOCOL, autocast=torch.bfloat16)
    assert set(dtypes) == {torch.bfloat16}
    full = evaluate(colorizer, POLICIES, photos[:2], PROTOCOL)
    difference = half.values("random", "ab_psnr") - full.values("random", "ab_psnr")
    assert 0 < np.abs(difference).max() < 0.2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clicks": ()}, "clicks is ()"),
        ({"clicks": (1, 1)}, "rising"),
        ({"clicks": (5, 1)}, "rising"),
        ({"clicks": (-1, 1)}, "rising"),
        ({"hint_size": 0}, "hint_size is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_a_protocol_that_makes_no_sense_is_refused(settings, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(").replace(")", r"\)")):
        Protocol(**settings)


def test_what_cannot_be_evaluated_is_refused_with_the_reason(colorizer, photos):
    with pytest.raises(ValueError, match="600 clicks on photos of 24 x 24 = 576 pixels"):
        evaluate(colorizer, POLICIES, photos, Protocol(clicks=(600,)))
    with pytest.raises(ValueError, match="no policies"):
        evaluate(colorizer, {}, photos, PROTOCOL)
    with pytest.raises(ValueError, match=r"unknown metrics \['fid'\]; choose from ab_psnr"):
        evaluate(colorizer, POLICIES, photos, PROTOCOL, metrics=["fid"])
    with pytest.raises(ValueError, match="returned shape"):
        evaluate(lambda lightness, clicks: clicks, POLICIES, photos, PROTOCOL)
    network = torch.nn.Sequential(torch.nn.Dropout2d())
    with pytest.raises(ValueError, match="training mode"):
        evaluate(network, POLICIES, photos, PROTOCOL)
