"""How a training tells its launcher that it has ended."""

import pytest

from trainer.session import TO_BE_CONTINUED, exit_code


@pytest.mark.parametrize(
    ("finished", "restarts", "code"),
    [
        pytest.param(True, "3", 0, id="done"),
        pytest.param(False, "3", TO_BE_CONTINUED, id="a machine leaves an elastic training"),
        pytest.param(False, "0", 0, id="accelerate launch starts nothing again"),
        pytest.param(False, None, 0, id="no launcher"),
    ],
)
def test_only_an_elastic_training_that_stopped_early_is_started_again(
    monkeypatch: pytest.MonkeyPatch, finished: bool, restarts: str | None, code: int
):
    monkeypatch.delenv("TORCHELASTIC_MAX_RESTARTS", raising=False)
    if restarts is not None:
        monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", restarts)
    assert exit_code(finished) == code
