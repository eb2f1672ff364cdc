import pytest

from tuner.config import Budget, startup


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("20", Budget(trials=20)),
        ("1 trial", Budget(trials=1)),
        ("2h", Budget(seconds=7200.0)),
        ("30m", Budget(seconds=1800.0)),
        ("1h30m", Budget(seconds=5400.0)),
        ("1.5h", Budget(seconds=5400.0)),
        ("500k photos", Budget(photos=500_000)),
        ("1.5M photos", Budget(photos=1_500_000)),
        ("40, 2h, 900 photos", Budget(trials=40, seconds=7200.0, photos=900)),
    ],
)
def test_words_become_limits(text: str, budget: Budget):
    assert Budget.parse(text) == budget


@pytest.mark.parametrize(
    "text", ["", "much", "2 hours", "0", "-3", "0h", "20, 30", "5 photographs", "m", "1e3", "2.5"]
)
def test_anything_else_is_refused(text: str):
    with pytest.raises(ValueError, match="budget"):
        Budget.parse(text)


def test_tpe_learns_from_a_quarter_of_a_small_budget_on():
    assert [startup(trials) for trials in (3, 8, 24, 200, None)] == [4, 4, 6, 10, 10]


def test_time_and_photos_are_spent_at_their_limits():
    budget = Budget.parse("1m, 100 photos")
    assert not budget.spent(seconds=59.9, photos=99)
    assert budget.spent(seconds=60.0, photos=0) == "1.0 minutes have passed"
    assert budget.spent(seconds=0.0, photos=100) == "100 photos have been trained on"


def test_a_number_of_trials_lets_the_last_ones_finish():
    assert not Budget.parse("1").spent(seconds=1e9, photos=10**9)
