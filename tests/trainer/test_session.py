"""How a training tells its launcher that it has ended."""

from pathlib import Path

import pytest

from evaluator.system.interrupts import StopRequest
from tests.trainer.small_training import small_config
from trainer.config import override
from trainer.session import TO_BE_CONTINUED, Session, exit_code


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


@pytest.mark.training
def test_a_training_on_a_stream_of_tars_is_resumed_and_says_that_the_order_is_another(
    tmp_path: Path, numbered_shards: Path, capsys: pytest.CaptureFixture[str]
):
    """Twice the same config: stopped after its first step, then trained to its end."""
    config = small_config(tmp_path, data__train=(f"{numbered_shards}/set-{{000..002}}.tar",), data__order="stream")
    config = override(config, {"data.round_photos": 16, "run.work": str(tmp_path), "run.publish": False})
    stop = StopRequest()
    stop.signal_name = "SIGTERM"
    with Session.open(config, resume=False) as session:
        assert not session.run(stop)
        assert session.training.progress.images_seen == 8
    assert "another order" not in capsys.readouterr().out
    with Session.open(config, resume=True) as session:
        assert session.training.progress.images_seen == 8
        assert session.run(StopRequest())
        total = sum(stage.batches(16, 8) * 8 for stage in session.training.recipe.stages)
        assert session.training.progress.images_seen == total
    shown = capsys.readouterr().out
    assert "goes on in another order than before" in shown
    assert "a round is 16 photos" in shown
