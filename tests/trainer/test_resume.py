"""A killed training that is resumed ends with the weights of one that was never interrupted."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.trainer.small_training import WEIGHTS_FILE

pytestmark = pytest.mark.launch

PROGRAM = Path(__file__).with_name("small_training.py")


def train(folder: Path, *, kill_at: int = 0, settings: tuple[str, ...] = ()) -> int:
    """Run the small training as its own process; returns its exit code."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(folder), str(kill_at), *settings],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode


def load(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    return torch.load(folder / WEIGHTS_FILE, weights_only=True)


def assert_same(one: dict[str, dict[str, torch.Tensor]], other: dict[str, dict[str, torch.Tensor]]) -> None:
    for network, tensors in one.items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, other[network][name]), f"{network}.{name}"


@pytest.fixture(scope="module")
def shard_settings(tmp_path_factory: pytest.TempPathFactory, make_shards) -> tuple[str, ...]:
    """Stages of several epochs of 23 photos, so that batches of 8 straddle the boundaries; two of EditNet's."""
    shards = make_shards(tmp_path_factory.mktemp("shards"), [7, 12, 4])
    rounds = ("pretrain_color=4.0", "pretrain_edit=1.5", "ping=1.0", "pong=1.0")
    return (
        f'data.train=["{shards}"]',
        *(f"recipe.rounds.{pair}" for pair in rounds),
        'recipe.choice.estimator="gumbel_softmax"',
    )


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, shard_settings: tuple[str, ...]):
    folder = tmp_path_factory.mktemp("uninterrupted")
    assert train(folder, settings=shard_settings) == 0
    return load(folder)


@pytest.mark.parametrize(
    "kills",
    [
        pytest.param((40,), id="in the middle of a phase, after an epoch boundary"),
        pytest.param((96, 136), id="at the end of a phase, and again in a later one"),
    ],
)
def test_a_killed_training_ends_with_the_same_weights(
    tmp_path: Path, shard_settings: tuple[str, ...], uninterrupted, kills: tuple[int, ...]
):
    for kill_at in kills:
        assert train(tmp_path, kill_at=kill_at, settings=shard_settings) == -signal.SIGKILL
        assert not (tmp_path / WEIGHTS_FILE).exists()
    assert train(tmp_path, settings=shard_settings) == 0
    assert_same(load(tmp_path), uninterrupted)


@pytest.mark.slow
def test_a_training_on_the_embedded_photos_is_resumed_exactly(tmp_path: Path):
    assert train(tmp_path / "whole") == 0
    assert train(tmp_path / "killed", kill_at=72) == -signal.SIGKILL
    assert train(tmp_path / "killed") == 0
    assert_same(load(tmp_path / "killed"), load(tmp_path / "whole"))


@pytest.mark.slow
def test_another_seed_gives_other_weights(tmp_path: Path):
    """So that the comparisons above can fail."""
    assert train(tmp_path / "zero") == 0
    assert train(tmp_path / "one", settings=("seed=1",)) == 0
    zero, one = load(tmp_path / "zero"), load(tmp_path / "one")
    assert not torch.equal(zero["color"]["unet.final_conv.weight"], one["color"]["unet.final_conv.weight"])
