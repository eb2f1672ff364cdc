"""Two gloo processes against one process that does their arithmetic by hand, for two steps of every phase."""

import copy
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import nn

from evaluator.system.interrupts import StopRequest
from kernels.noise import fold, sample_keys
from tests.trainer.small_training import SPLIT, WEIGHTS_FILE, build, own, small_config, step_on, weights
from tests.trainer.test_main import SMALL
from trainer.config import Config
from trainer.data.loader import open_loader
from trainer.recipes.base import Phase
from trainer.recipes.lab_batch import prepare_scene
from trainer.recipes.schedules import Decay

pytestmark = pytest.mark.launch
PROGRAM = Path(__file__).with_name("small_training.py")
RANKS, STEPS = 2, 2
# Two steps of 8 photos in each stage, of an embedded round of 4096.
ROUNDS = {
    f"recipe.rounds.{name}": STEPS * 8 / 4096 for name in ("pretrain_color", "pretrain_edit", "ping", "pong")
}


def launch(folder: Path, *settings: str) -> subprocess.CompletedProcess[str]:
    """Start the small training on two processes."""
    folder.mkdir(exist_ok=True)
    return launch_program(str(PROGRAM), str(folder), "0", *settings)


def launch_program(*words: str, processes: int = RANKS) -> subprocess.CompletedProcess[str]:
    """Start a program as the house starts CPU processes."""
    command = [
        *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(processes)),
        *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"),
        *words,
    ]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)


def reference(config: Config, groups: int = RANKS) -> dict[str, nn.Module]:
    """What processes or micro-batches should compute, with plain torch: averaged gradients and statistics."""
    recipe = config.recipe.build()
    networks: dict[str, nn.Module] = {}
    for index, (name, make) in enumerate(recipe.networks.items()):
        torch.manual_seed(fold(config.seed, index))
        networks[name] = make().eval()
    optimizers = {
        name: torch.optim.AdamW(network.parameters(), weight_decay=own(config).optimizer.weight_decay)
        for name, network in networks.items()
    }
    batch_size = config.data.batch_size
    batches = open_loader(config.data, seed=config.seed, rank=0, world_size=1, pin_memory=False).batches(0)
    seen = 0
    for stage in recipe.stages:
        for step in range(STEPS):
            rgb = next(batches).rgb
            for phase in stage.phases:
                by_hand(config, networks, optimizers[phase.trains[0]], phase, rgb, seen, step / STEPS, groups)
            seen += batch_size
    return networks


def by_hand(
    config: Config,
    networks: Mapping[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    phase: Phase,
    rgb: torch.Tensor,
    seen: int,
    progress: float,
    groups: int,
) -> None:
    """One step: each group of photos with its own batch-norm statistics, then the means of all."""
    trained = networks[phase.trains[0]]
    before = copy.deepcopy(dict(trained.named_buffers()))
    size = len(rgb) // groups
    statistics, losses = [], []
    optimizer.zero_grad()
    for group in range(groups):
        trained.load_state_dict(before, strict=False)
        trained.train()
        keys = sample_keys(config.seed, seen + group * size, size)
        scene = prepare_scene(rgb[group * size : (group + 1) * size], keys)
        terms = phase.loss(step_on(config, scene, networks, seen, progress))
        loss = sum((term.weight * term.value for term in terms.values()), torch.zeros(()))
        # `inputs`: the borrowed network is not frozen here, and must still get no gradient.
        loss.backward(inputs=list(trained.parameters()))
        losses.append(loss)
        statistics.append(copy.deepcopy(dict(trained.named_buffers())))
    trained.eval()
    for name, buffer in trained.named_buffers():
        if buffer.is_floating_point():
            buffer.copy_(torch.stack([found[name] for found in statistics]).mean(0))
    for parameter in trained.parameters():
        assert parameter.grad is not None
        parameter.grad /= groups
    torch.nn.utils.clip_grad_norm_(trained.parameters(), own(config).optimizer.clip)
    optimizer.param_groups[0]["lr"] = Decay(floor=own(config).optimizer.floor).at(phase.optimizer.lr, progress)
    optimizer.step()


SPLIT_SETTINGS = {name.replace("__", "."): value for name, value in SPLIT.items()} | {
    "recipe.optimizer.floor": 1.0, "recipe.loss.gain_loss": "centred", "recipe.rounds.cycles": 0
}  # fmt: skip
"""Of a split network and guides that are its heads and learn gains. No cycles: their clicks hang on last bits."""


def test_two_processes_match_one_process_in_every_phase(tmp_path: Path):
    done = launch(tmp_path, *(f"{name}={value}" for name, value in ROUNDS.items()))
    assert done.returncode == 0, done.stderr
    check(torch.load(tmp_path / WEIGHTS_FILE, weights_only=True), small_config(tmp_path, **ROUNDS), RANKS)


def test_two_processes_train_the_split_network_like_one(tmp_path: Path):
    """Its micro-batches are what two processes have; and the colorizer moves as the reference does."""
    settings = {**ROUNDS, **SPLIT_SETTINGS}
    done = launch(tmp_path / "two", *(f"{name}={json.dumps(value)}" for name, value in settings.items()))
    assert done.returncode == 0, done.stderr
    found = torch.load(tmp_path / "two" / WEIGHTS_FILE, weights_only=True)
    config = small_config(tmp_path, **settings, engine__micro_batch=4)
    training = build(config, tmp_path / "one")
    assert training.run(StopRequest())
    for name, tensors in weights(training).items():
        for key, tensor in tensors.items():
            assert torch.allclose(found[name][key].float(), tensor.float(), atol=1e-5), f"{name}.{key}"
    check_direction(found["color"], config)


@pytest.mark.parametrize("micro_batch", [4, 2])
def test_micro_batches_match_processes_in_every_phase(tmp_path: Path, micro_batch: int):
    """One process, in groups of the size that two or four processes have: the same reference as theirs."""
    config = small_config(tmp_path, **ROUNDS, engine__micro_batch=micro_batch)
    training = build(config, tmp_path)
    assert training.run(StopRequest())
    check(weights(training), config, config.data.batch_size // micro_batch)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_any_number_of_processes_does_the_same_training_with_one_micro_batch(tmp_path: Path, processes: int):
    settings = {**ROUNDS, "engine.micro_batch": 2}
    words = (str(PROGRAM), str(tmp_path), "0", *(f"{name}={value}" for name, value in settings.items()))
    done = launch_program(*words, processes=processes)
    assert done.returncode == 0, done.stderr
    check(torch.load(tmp_path / WEIGHTS_FILE, weights_only=True), small_config(tmp_path, **settings), 4)


@pytest.mark.slow
def test_a_training_killed_on_four_processes_goes_on_with_two(tmp_path: Path):
    settings = {**ROUNDS, "engine.micro_batch": 2}
    words = [f"{name}={value}" for name, value in {**settings, "run.checkpoint_every": 8}.items()]
    killed = launch_program(str(PROGRAM), str(tmp_path), "40", *words, processes=4)
    assert killed.returncode != 0
    assert list((tmp_path / "checkpoints").iterdir())
    assert not (tmp_path / WEIGHTS_FILE).exists()
    done = launch_program(str(PROGRAM), str(tmp_path), "0", *words, processes=2)
    assert done.returncode == 0, done.stderr
    assert "begins at photo 32" in done.stdout or "begins at photo 40" in done.stdout
    check(torch.load(tmp_path / WEIGHTS_FILE, weights_only=True), small_config(tmp_path, **settings), 4)


def check(found: Mapping[str, Mapping[str, torch.Tensor]], config: Config, groups: int) -> None:
    """Compare weights and statistics with the reference's."""
    expected = reference(config, groups)
    started = reference_start(config)
    for name, network in expected.items():
        for key, tensor in network.state_dict().items():
            # A softmax does not feel the bias before it: its gradient is rounding noise, which AdamW scales up.
            if not tensor.is_floating_point() or (name != "color" and key == "unet.final_conv.bias"):
                continue
            moved = (tensor - started[name].state_dict()[key]).abs().max()
            # Rounding differs between processors, and AdamW scales it up where a gradient is almost zero.
            off = (found[name][key] - tensor).abs()
            said = f"{name}.{key} moved {moved:.2g}, off by {off.max():.2g}, mean {off.mean():.2g}"
            assert off.max() <= 2e-6 + 0.1 * moved, said
            assert off.mean() <= 2e-6 + 0.001 * moved, said
        first = next(iter(dict(network.named_parameters())))
        assert not torch.equal(network.state_dict()[first], started[name].state_dict()[first])


def check_direction(found: Mapping[str, torch.Tensor], config: Config) -> None:
    """The colorizer moved as the reference did.

    Many of the split network's layers begin with zeros, so that gradients before them are rounding noise in the
    first steps, which AdamW scales up: no weight by itself can be compared.
    """
    start, expected = reference_start(config)["color"].state_dict(), reference(config)["color"]
    names = [name for name, _ in expected.named_parameters()]
    moved = torch.cat([(expected.get_parameter(name) - start[name]).flatten() for name in names]).detach()
    also = torch.cat([(found[name] - start[name]).flatten() for name in names])
    assert moved.abs().max() > 1e-3
    assert float(torch.cosine_similarity(moved, also, 0)) > 0.97


def reference_start(config: Config) -> dict[str, nn.Module]:
    """The networks before any step, so that the comparison above cannot be one of untouched weights."""
    networks = {}
    for index, (name, make) in enumerate(config.recipe.build().networks.items()):
        torch.manual_seed(fold(config.seed, index))
        networks[name] = make()
    return networks


@pytest.mark.slow
def test_two_processes_resume_exactly(tmp_path: Path):
    settings = tuple(f"{name}={value}" for name, value in ROUNDS.items())
    assert launch(tmp_path / "whole", *settings).returncode == 0
    killed = launch(tmp_path / "killed", *settings, "run.checkpoint_every=8")
    assert killed.returncode == 0, killed.stderr
    # Continue from the checkpoint before the last, as after a kill.
    shutil.rmtree(sorted((tmp_path / "killed" / "checkpoints").iterdir())[-1])
    (tmp_path / "killed" / WEIGHTS_FILE).unlink()
    assert launch(tmp_path / "killed", *settings, "run.checkpoint_every=8").returncode == 0
    whole, resumed = (
        torch.load(tmp_path / name / WEIGHTS_FILE, weights_only=True) for name in ("whole", "killed")
    )
    for name, tensors in whole.items():
        for key, tensor in tensors.items():
            assert torch.equal(tensor, resumed[name][key]), f"{name}.{key}"


def test_all_ranks_skip_a_step_that_is_broken_on_one(tmp_path: Path):
    """The run ends, the step is counted once, and the other steps alone are what moved the weights.

    The second rank's photos come late as well, and it is named for that; from the third step on, as DDP orders its
    buckets in the second one's forward pass.
    """
    rounds = {
        "recipe.rounds.pretrain_color": 3 * 8 / 4096,
        "recipe.rounds.pretrain_edit": 0.0,
        "recipe.rounds.cycles": 0,
    }
    rounds["recipe.optimizer.floor"] = 1.0  # all steps as long
    settings = (f"{name}={value}" for name, value in rounds.items())
    done = launch(tmp_path, *settings, "poison=[1, 8]", "slow=[1, 2.0]", "run.watch_every=1")
    assert done.returncode == 0, done.stderr
    assert "skipped steps: 1" in done.stdout
    rank, factor = re.findall(r"slowest rank (\d) x(\d+\.\d+)", done.stdout)[-1]
    assert (rank, float(factor) > 1.3) == ("1", True), done.stdout
    weight = "unet.final_conv.weight"
    found = torch.load(tmp_path / WEIGHTS_FILE, weights_only=True)["color"][weight]
    # Micro-batches of a process's share are the same training on one process, here with all steps.
    config = small_config(tmp_path / "whole", **rounds, engine__micro_batch=4)
    started = reference_start(config)["color"].state_dict()[weight]
    whole = build(config, tmp_path / "whole")
    assert whole.run(StopRequest())
    moved = weights(whole)["color"][weight] - started
    assert torch.isfinite(found).all()
    for other in (started, started + moved):
        assert (found - other).abs().max() > 0.1 * moved.abs().max(), "two steps, neither none nor three"


def test_a_batch_that_does_not_divide_is_refused(tmp_path: Path):
    data = small_config(tmp_path, data__batch_size=9).data
    with pytest.raises(ValueError, match=r"data\.batch_size is 9 over 2 processes; give a multiple of 2"):
        open_loader(data, seed=0, rank=0, world_size=2, pin_memory=False)


@pytest.mark.slow
def test_the_whole_command_runs_on_two_processes_and_resumes(tmp_path: Path):
    words = ("trainer/main.py", "--run.work", str(tmp_path), "--run.name", "two", *SMALL)
    done = launch_program(*words, "--validation.photos", "3")
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "two" / "results.json").read_text())
    assert {row["photos"] for row in results["results"]} == {3}
    assert done.stdout.count("Registered colornet version 1") == 1
    (tmp_path / "two" / "results.json").unlink()
    shutil.rmtree(sorted((tmp_path / "two" / "checkpoints").iterdir())[-1])
    again = launch_program(*words, "--validation.photos", "3", "--resume")
    assert again.returncode == 0, again.stderr
    assert json.loads((tmp_path / "two" / "results.json").read_text())["results"] == results["results"]


def test_an_error_on_one_rank_is_printed(tmp_path: Path, numbered_shards: Path):
    """The second rank's shard ends early: its own message must reach the person."""
    shards = tmp_path / "shards"
    shutil.copytree(numbered_shards, shards)
    words = ("trainer/main.py", "--run.work", str(tmp_path / "work"), *SMALL, "--data.corrupt-limit", "0")
    for tar in shards.glob("*.tar"):
        content = bytearray(tar.read_bytes())
        content[600:1000] = bytes(400)  # inside the first photo
        tar.write_bytes(content)
    done = launch_program(*words, "--data.train", str(shards))
    assert done.returncode != 0
    assert "stopped: " in done.stderr
    assert "corrupt" in done.stderr
