import numpy as np
import pytest

from evaluator.protocol.evaluate import Protocol, Results
from evaluator.protocol.simulated_user import SimulatedUser
from evaluator.protocol.tables import plain_text, verdicts
from tests.evaluator.made_up_results import made_up_results


def results_of(
    gain: float, spread: float = 0.3, policies: tuple[str, ...] = ("random", "guide"), *, exact: bool = False
) -> Results:
    """Results in which the second policy differs by `gain` dB at 20 clicks, and not at 1 click."""
    rng = np.random.default_rng(0)
    values: dict[str, dict[str, np.ndarray]] = {policy: {} for policy in policies}
    for metric, level in (("ab_psnr", 28.0), ("rgb_psnr", 24.0)):
        base = level + rng.standard_normal((50, 3))
        base -= base.mean(0) - level
        noise = spread * rng.standard_normal((50, 3))
        noise -= noise.mean(0)
        for policy, shift in zip(policies, (0.0, gain), strict=False):
            change = (noise + np.array([0, 0, shift])) * [0, 1, 1]
            values[policy][metric] = base if policy == "random" else base + change
    if exact:
        values["guide"]["rgb_psnr"][3, 2] = np.inf
    return made_up_results(values, Protocol(clicks=(0, 1, 20)), size=(48, 64))


def test_the_table_shows_policies_side_by_side_and_states_how_it_was_measured():
    lines = plain_text(results_of(0.5), width=120).splitlines()
    assert "50 photos of 64 x 48 px, hint size 1, true colours, seed 0" in lines[0]
    policies = next(i for i, line in enumerate(lines) if "random" in line and "guide" in line)
    assert lines[policies].split() == ["clicks", "random", "guide", "random", "guide"]
    assert lines[policies - 1].split() == ["ab", "PSNR", "RGB", "PSNR"]
    numbers = [line.split() for line in lines[policies + 2 : policies + 5]]
    assert numbers == [
        ["0", "28.00", "28.00", "24.00", "24.00"],
        ["1", "28.00", "28.00", "24.00", "24.00"],
        ["20", "28.00", "28.50", "24.00", "24.50"],
    ]
    assert any("ab PSNR (dB, range 2), RGB PSNR (dB, uint8); means of per-photo values" in line for line in lines)


def test_the_robot_is_stated_where_it_is_not_exact():
    protocol = Protocol(clicks=(1,), robot=SimulatedUser(colour_sigma=5.0))
    results = made_up_results({"random": {"ab_psnr": np.array([[20.0]])}}, protocol)
    assert "a* and b* off by 5 CIE units (standard deviation), seed 0" in plain_text(results, width=150)


def test_gains_stand_with_their_interval_and_a_mark():
    text = plain_text(results_of(0.5), width=120)
    assert "Minus random clicks on the same photos" in text
    row = next(line for line in text.splitlines() if line.split()[:2] == ["20", "guide"])
    assert row.count("+0.50 ±0.0") == 2
    assert row.count("▲") == 2


def test_the_verdict_says_better_worse_or_no_different():
    assert verdicts(results_of(0.5))[0].startswith(
        "guide against random, ab PSNR: better at 20; no different at 1; +0.50 [+0.4"
    )
    assert "worse at 20; no different at 1; -0.50 [-0.5" in verdicts(results_of(-0.5))[1]
    assert "no different at 1, 20" in verdicts(results_of(0.01))[0]


def test_a_single_policy_gets_means_only():
    results = results_of(0.0, policies=("random",))
    assert "Minus" not in plain_text(results)
    assert verdicts(results) == []


def test_one_photo_is_shown_without_a_verdict():
    values = {"random": {"ab_psnr": np.array([[20.0]])}, "guide": {"ab_psnr": np.array([[21.0]])}}
    text = plain_text(made_up_results(values, Protocol(clicks=(1,))))
    assert "1 photo of 8 x 8 px" in text
    assert "+1.00 ±nan" in text
    assert "▲" not in text


def test_exact_photos_are_mentioned():
    assert "1 infinite value" in " ".join(plain_text(results_of(0.5, exact=True), width=200).split())


@pytest.mark.parametrize("width", [60, 80, 200])
def test_the_text_keeps_to_the_width(width):
    assert max(len(line) for line in plain_text(results_of(0.5), width=width).splitlines()) <= width


def test_the_ruler_has_a_column_and_is_explained():
    results = results_of(0.5, policies=("random", "no network"))
    text = plain_text(results, width=120)
    assert "no network: the colors of the same random clicks" in " ".join(text.split())
    headings = next(line for line in text.splitlines() if "network" in line)
    assert headings.split() == ["clicks", "random", "network", "random", "network"]
    assert "no network against random, ab PSNR: better at 20" in text
    assert "no network" not in plain_text(results_of(0.5), width=120)
