"""What each part of the fast path is worth: `python -m tests.benchmarks train_step --ablate`.

Parts are added one after another to the plain path, in the order of `tests.benchmarks.trainer.trainings.PARTS`;
every path stays, and all take turns. A part that this machine cannot have gets a row that says why, and the next
path goes on without it; so it does after a part that changes what is learned.
"""

import gc
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from tests.benchmarks.harness import Goal, Refused, at_least, interleave, peak_memory, quantiles, report, seconds
from tests.benchmarks.trainer.step_costs import RecipeCost, count_recipe, step_of, untrained_perceptual
from tests.benchmarks.trainer.trainings import (
    COMPILE,
    GRAPHS,
    LAST_ONLY,
    LOSS_TOLERANCE,
    PARTS,
    Part,
    Variant,
    last_only,
    make,
    missing,
)
from trainer.config import Config, override
from trainer.data.batch import Batch
from trainer.data.embedded import EmbeddedLoader
from trainer.recipes.lab_batch import Scene
from trainer.recipes.losses import Perceptual
from trainer.recipes.pingpong import COLOR, PingPong

PLAIN = "plain"
PING = 2
"""Place of the first ping among the stages."""
MIB = 2**20
LARGEST = 4096
"""Photos that the search for the largest batch goes up to."""
PEAKS = {"H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12}
"""Data-sheet operations per second in bf16 without sparsity, by a part of the GPU's name; the first that fits."""
SPEED_GOAL, MFU_GOAL = 2.5, 0.35


def grow(config: Config, batch: Batch, judge: nn.Module, scratch: Path) -> tuple[list[Variant], dict[str, str]]:
    """Plain, then part after part; and why parts are not there.

    Raises:
        Refused: plain does not fit into the GPU's memory, or a path's losses differ from it.
    """
    plain = Variant(PLAIN, (), make(config, (), judge, scratch))
    try:
        expected = [plain.step(stage, batch) for stage in range(4)]
    except torch.OutOfMemoryError as error:
        raise Refused(f"{len(batch.rgb)} photos do not fit on the plain path; give fewer (--photos)") from error
    device = plain.training.cluster.device
    variants, reasons = [plain], {}
    for part in PARTS:
        base = next(variant for variant in reversed(variants) if LAST_ONLY not in variant.parts)
        parts, name = (*base.parts, part), f"+ {part.name}"
        reason = missing(part, parts, device)
        if reason is None:
            try:
                variant = Variant(name, parts, make(config, parts, judge, scratch))
                compare(variant, [variant.step(stage, batch) for stage in range(4)], expected)
                variants.append(variant)
                continue
            except RuntimeError as error:  # the compiler's errors, and a GPU's memory
                reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
        reasons[name] = reason
    return variants, reasons


def compare(path: Variant, found: Sequence[Mapping[str, float]], expected: Sequence[Mapping[str, float]]) -> None:
    """Refuse losses that differ.

    Raises:
        Refused: it names path, loss and values.
    """
    for values, plain in zip(found, expected, strict=True):
        for name, value in plain.items():
            if "gradient" not in name and not abs(values[name] - value) <= LOSS_TOLERANCE * max(abs(value), 1e-3):
                raise Refused(f"{path.name}: {name} is {values[name]}, plain {value}; nothing is timed")


def flops_of(counted: RecipeCost, interactions: int, parts: Sequence[Part]) -> list[float]:
    """Operations per photo of each stage's step; recomputation by a compiler is not counted, as MFU wants it."""
    flops = []
    for stage, phases in counted.at(interactions).items():
        total = sum(phase.flops for phase in phases)
        if LAST_ONLY in parts and stage.startswith("ping"):
            one, two = (costs[stage][0].backward_flops for costs in (counted.one, counted.two))
            total -= interactions * (two - one)
        flops.append(total)
    return flops


def peak_flops(device: torch.device) -> float | None:
    """The data sheet's bf16 peak of a known GPU."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAKS.items() if part in name), None)


def interactions_of(config: Config) -> int:
    """K of ping-pong, whose step is taken apart here."""
    assert isinstance(config.recipe, PingPong)
    return config.recipe.clicks.interactions


def gradient_kept(config: Config, scene: Scene, perceptual: Perceptual) -> float:
    """Cosine between ColorNet's gradients in ping with `last_only` and without, at the first weights."""
    recipe = config.recipe.build()
    phase = next(phase for stage in recipe.stages for phase in stage.phases if phase.name == "ping")
    networks = {name: make().to(scene.keys.device) for name, make in recipe.networks.items()}
    for name, network in networks.items():
        network.train(name == COLOR).requires_grad_(name == COLOR)
    weights = list(networks[COLOR].parameters())
    found = []
    for loss in (phase.loss, last_only(phase.loss)):
        terms = loss(step_of(config, scene, networks, perceptual))
        value = torch.stack([term.value * term.weight for term in terms.values()]).sum()
        found.append(torch.cat([part.flatten() for part in torch.autograd.grad(value, weights)]))
    return torch.cosine_similarity(found[0], found[1], dim=0).item()


def largest_batch(fits: Callable[[int], bool], first: int = 1, limit: int = LARGEST) -> int:
    """The largest number of photos that fits: doubled while it does, then halved down to steps of an eighth.

    Returns:
        0 when not even `first` fits; at most `limit`.
    """
    if not fits(first):
        return 0
    good = first
    while good * 2 <= limit and fits(good * 2):
        good *= 2
    step = good // 2
    while step >= max(1, good // 8):
        if good + step <= limit and fits(good + step):
            good += step
        step //= 2
    return good


@contextmanager
def emptied() -> Iterator[None]:
    """Give memory back that an attempt has left."""
    try:
        yield
    finally:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def fitter(variant: Variant, rgb: Tensor, limit: float) -> Callable[[int], bool]:
    """Whether a ping of so many photos fits into a GPU's memory, or into `limit` bytes beyond the weights."""
    device = variant.training.cluster.device

    def fits(photos: int) -> bool:
        batch = Batch(rgb[:1].expand(photos, -1, -1, -1).contiguous())
        with emptied():
            try:
                held = peak_memory(lambda: variant.step(PING, batch), device)
            except torch.OutOfMemoryError:
                return False
        return not limit or held <= limit

    return fits


def ablate(
    config: Config, *, repeats: int, limit_mib: float = 0.0, json_file: Path | None = None
) -> dict[str, object]:
    """Build every path, check, let them take turns in each phase, search the largest batch, and report."""
    side, photos = config.data.image_size, config.data.batch_size
    counted = count_recipe(config, fake=config.preset == "paper")
    judge = untrained_perceptual().network
    batch = next(iter(EmbeddedLoader(image_size=side, batch_size=photos).batches(0)))
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        variants, reasons = grow(config, batch, judge, scratch)
        device = variants[0].training.cluster.device
        rows = timed(variants, batch, counted, repeats)
        rows += [{"phase": "all", "path": name, "not here": reason} for name, reason in reasons.items()]
        rows += memory(variants, batch)
        rows += largest(variants, batch, judge, limit_mib * MIB, config, scratch)
        kept = gradient_kept(config, variants[-1].training._scene(batch), Perceptual(judge))
    rows.append({"phase": "ping", "path": f"+ {LAST_ONLY.name}", "cosine to the whole gradient": kept})
    return report(
        f"parts of a training step, preset {config.preset}: {photos} photos of {side} px, K = "
        f"{interactions_of(config)}, {device.type}; LPIPS with random weights; MFU against the bf16 peak",
        rows,
        goals(rows, device),
        json_file,
    )


def timed(paths: Sequence[Variant], batch: Batch, counted: RecipeCost, repeats: int) -> list[dict[str, object]]:
    """Milliseconds, photos/s and MFU of each path in each phase."""
    rows: list[dict[str, object]] = []
    device = paths[0].training.cluster.device
    peak, photos = peak_flops(device), len(batch.rgb)
    interactions = interactions_of(paths[0].training.config)
    for index, stage in enumerate(paths[0].training.recipe.stages[:4]):

        def run(path: Variant, index: int = index) -> Callable[[], float]:
            return lambda: seconds(lambda: path.step(index, batch), device)

        measured = interleave({path.name: run(path) for path in paths}, repeats)
        found = {name: quantiles(values) for name, values in measured.items()}
        for path in paths:
            flops = flops_of(counted, interactions, path.parts)[index]
            middle = found[path.name]["p50"]
            rows.append(
                {
                    "phase": stage.name,
                    "path": path.name,
                    **{f"{quantile} ms": value * 1e3 for quantile, value in found[path.name].items()},
                    "photos/s": photos / middle,
                    "times plain": found[PLAIN]["p50"] / middle,
                    "GFLOP/photo": flops / 1e9,
                    "MFU": None if peak is None else flops * photos / middle / peak,
                }
            )
    return rows


def memory(variants: Sequence[Variant], batch: Batch) -> list[dict[str, object]]:
    """Memory of a ping, which keeps K + 1 colorings, on every path."""
    device = variants[0].training.cluster.device
    return [
        {
            "phase": "ping",
            "path": variant.name,
            "MiB beyond weights": peak_memory(lambda variant=variant: variant.step(PING, batch), device) / MIB,
        }
        for variant in variants
    ]


def largest(
    variants: Sequence[Variant], batch: Batch, judge: nn.Module, limit: float, config: Config, scratch: Path
) -> list[dict[str, object]]:
    """The largest batch of ping: plain, with all parts that keep the learning, and without early gradients.

    Without compile and CUDA graphs, which would compile again for every size.
    """
    device = variants[0].training.cluster.device
    roomy = override(config, {"data.batch_size": LARGEST})  # so that no batch is cut into micro-batches
    last = next(variant for variant in reversed(variants) if LAST_ONLY not in variant.parts)
    every = tuple(part for part in last.parts if part not in (COMPILE, GRAPHS))
    rows: list[dict[str, object]] = []
    for name, parts in ((PLAIN, ()), ("all parts, eager", every), (f"+ {LAST_ONLY.name}", (*every, LAST_ONLY))):
        found: dict[str, object] = {"phase": "ping, largest batch", "path": name}
        if device.type == "cuda" or limit:
            variant = Variant(name, parts, make(roomy, parts, judge, scratch))
            found["photos"] = largest_batch(fitter(variant, batch.rgb, limit), first=2)
        else:
            found["not here"] = "a CPU has no limit to search for; give --memory-limit"
        rows.append(found)
    return rows


def goals(rows: Sequence[Mapping[str, object]], device: torch.device) -> list[Goal]:
    """The slowest phase's gain and ColorNet's MFU, of the best path that learns the same; on a GPU alone."""
    same = {PLAIN, *(f"+ {part.name}" for part in PARTS if part.same_learning)}
    gains: dict[object, float] = {}
    mfu: list[float] = []
    for found in rows:
        gain, share = found.get("times plain"), found.get("MFU")
        if found["path"] in same and isinstance(gain, float):
            gains[found["phase"]] = max(gain, gains.get(found["phase"], 0.0))
        if found["path"] in same and found["phase"] == "pretrain-color" and isinstance(share, float):
            mfu.append(share)
    on_gpu = device.type == "cuda"
    return [
        at_least("slowest phase, times plain on a GPU", SPEED_GOAL, min(gains.values()) if on_gpu else None),
        at_least("MFU of pretrain-color", MFU_GOAL, max(mfu) if mfu else None),
    ]
