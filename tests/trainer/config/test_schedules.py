"""Schedules against torch's own schedulers and the papers' formulas."""

import math

import pytest
import torch

from trainer.recipes.schedules import Decay, Schedule, most_random_clicks


def test_the_learning_rate_is_torchs_cosine_and_minimal_from_half_of_the_phase():
    steps, peak, floor = 100, 3e-4, 1e-5
    decay = Decay(floor=floor / peak)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peak)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps // 2, eta_min=floor)
    for step in range(steps // 2):
        assert decay.at(peak, step / steps) == pytest.approx(reference.get_last_lr()[0])
        optimizer.step()
        reference.step()
    late = [decay.at(peak, step / steps) for step in range(steps // 2, steps)]
    assert late == pytest.approx([floor] * len(late))


def test_a_linear_decay_holds_the_peak_and_ends_at_the_floor():
    decay = Decay(shape="linear", floor=0.0, hold=0.5, until=1.0)
    assert [decay.at(2.0, share) for share in (0.0, 0.5, 0.75, 1.0)] == pytest.approx([2.0, 2.0, 1.0, 0.0])
    assert Decay(shape="constant").at(2.0, 0.9) == 2.0


def test_exponential_decay_is_the_thesis_formula():
    schedule = Schedule(shape="exponential", start=2.0, end=0.5)
    k = math.log(2.0 / 0.5)
    for t in (0.0, 0.3, 1.0):
        assert schedule.at(t) == pytest.approx(2.0 * math.exp(-k * t))


def test_warm_up_is_linear_and_then_a_cosine():
    schedule = Schedule(shape="warmup_cosine", start=2.0, end=0.5, warmup=0.2)
    assert schedule.at(0.0) == 0.5
    assert schedule.at(0.1) == pytest.approx(1.25)
    assert schedule.at(0.2) == pytest.approx(2.0)
    assert schedule.at(0.6) == pytest.approx(1.25)
    assert schedule.at(1.0) == pytest.approx(0.5)


def test_random_clicks_grow_over_the_phase():
    counts = [most_random_clicks(t / 10, 1, 20) for t in range(11)]
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (1, 20)


@pytest.mark.parametrize(("change", "message"), [({"start": 0.0}, "above 0"), ({"warmup": 1.0}, "warmup is 1.0")])
def test_impossible_schedules_are_refused(change: dict[str, float], message: str):
    with pytest.raises(ValueError, match=message):
        Schedule(**change)  # pyright: ignore[reportArgumentType]: floats
