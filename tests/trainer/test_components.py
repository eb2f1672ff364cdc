"""What the processes of a training tell each other before they begin."""

from collections.abc import Callable
from typing import Any

import pytest

from trainer.components import Parts, _fingerprint, _shared_settings, check_agreement, on_every
from trainer.config import override
from trainer.config.presets import tiny
from trainer.data.loader import open_validation
from trainer.engines import Cluster


class Among(Cluster):
    """A process, and what the others say when it gathers."""

    def __init__(self, *others: Any) -> None:
        self.others = others

    def gather(self, value: Any) -> list[Any]:
        return [value, *self.others]


def refuse() -> None:
    raise OSError("no shards here")


@pytest.mark.parametrize(
    ("work", "others", "message"),
    [(refuse, ("",), "^no shards here"), (lambda: 1, ("", "no room"), "process 2 cannot begin: no room")],
)
def test_one_process_that_cannot_begin_stops_all(work: Callable[[], Any], others: tuple[str, ...], message: str):
    with pytest.raises((OSError, ValueError), match=message):
        on_every(Among(*others), work)


def test_all_that_can_begin_do():
    assert on_every(Among("", ""), lambda: 7) == 7


def test_processes_that_would_train_differently_are_refused():
    mine = {"precision": "bf16", "seed": 0}
    check_agreement(Among(mine), mine)
    with pytest.raises(ValueError, match="process 2 has precision 'fp32' and the main one 'bf16'"):
        check_agreement(Among(mine, {"precision": "fp32", "seed": 0}), mine)


def test_what_belongs_to_a_machine_may_differ():
    here = tiny()
    there = override(here, {"run.work": "elsewhere", "data.workers": 2, "data.cache": "x", "engine.threads": 3})
    assert _shared_settings(there) == _shared_settings(here)
    for setting in ({"recipe.loss.entropy": 0.5}, {"run.checkpoint_every": 512}, {"run.watch_every": 7}):
        assert _shared_settings(override(here, setting)) != _shared_settings(here), setting


def test_processes_that_would_validate_on_other_photos_are_refused(monkeypatch: pytest.MonkeyPatch):
    """Each measures its share of them, so two sets would be mixed in one table."""
    config = override(tiny(), {"data.image_size": 32, "validation.photos": 4, "recipe.loss.perceptual": "off"})
    assert len(Parts.of(config, quiet=True).validation.photos) == 4
    photos, names = open_validation(config.data, 4)
    other = _fingerprint(photos.flip(0), names)
    monkeypatch.setattr(Cluster, "gather", lambda _, value: with_another(value, "validation photos", other))
    with pytest.raises(ValueError, match=r"process 1 has validation photos '4, sha256 \w+' and the main"):
        Parts.of(config, quiet=True)


def with_another(value: Any, name: str, other: object) -> list[Any]:
    """What two processes say, the second with another value under one name."""
    return [value, {**value, name: other} if isinstance(value, dict) and name in value else value]
