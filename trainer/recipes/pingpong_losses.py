"""The losses of `trainer.recipes.pingpong`: random clicks, guided clicks, and EditNet's (section 3.2)."""

from collections.abc import Mapping
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from kernels.choose_click import Click, choose_click
from kernels.clicks import clicked, place_clicks
from kernels.error_regions import error_map, error_target, region_target
from kernels.estimators import leave_one_out_loss
from kernels.noise import uniform
from trainer.networks.split import CELL, Training, color_bins, soft_bins
from trainer.recipes.base import Step, Term
from trainer.recipes.coloring import Colored, Colorizing
from trainer.recipes.gain import gain_loss, try_clicks
from trainer.recipes.lab_batch import CELLS, GUMBEL, TRIED, Scene, random_clicks
from trainer.recipes.pingpong_settings import LossConfig
from trainer.recipes.schedules import most_random_clicks

COLOR, ORACLE, BLIND = "color", "edit_oracle", "edit_blind"
# Purposes of the integers that ranks share (Step.draw); interactions count up from HINT_SIZE.
WHICH_GUIDE, HINT_SIZE = 1, 16
_HUBER_BETA = 2.56 / 128
_LOG_MSE_WEIGHT, _LOG_MSE_FLOOR = 0.02, 1e-5
_CELLS_PER_PHOTO = 32
"""Whose color distribution a step looks at."""


def random_clicks_loss(step: Step) -> Mapping[str, Term]:
    """ColorNet's pretraining: random clicks (section 3.2.1), one or several sets of them for each photo."""
    config, scene = step.config, step.scene
    most = config.clicks.most_random
    if config.clicks.law == "uniform":
        most = most_random_clicks(step.progress, 1, most)
    maps = [
        random_clicks(scene, most, config.choice.hint_size, config.clicks.law, number)
        for number in range(config.clicks.maps)
    ]
    clicks = maps[0] if len(maps) == 1 else torch.stack(maps, 1).flatten(0, 1)
    truth_ab, lightness = (repeated(part, len(maps)) for part in (scene.truth_ab, scene.lightness))
    name = config.loss.color
    if config.network == "unet":
        predicted = step.networks[COLOR](lightness, clicks)
        terms = {name: color_term(name, predicted.float(), truth_ab)}
    else:
        places = random_cells(scene)
        found: Training = step.networks[COLOR](scene.lightness, clicks, places=repeated(places, len(maps)))
        predicted = found.ab
        terms = {
            name: color_term(name, predicted.float(), truth_ab),
            "base": color_term(name, found.base_ab.float(), scene.truth_ab, config.loss.base),
            "distribution": distribution_term(step, found.bin_logits, places, len(maps)),
        }
    return {**terms, **perceptual_term(step, predicted, len(maps))}


def color_term(
    name: str, predicted: Float[Tensor, "b 2 h w"], truth: Float[Tensor, "b 2 h w"], weight: float = 1.0
) -> Term:
    """The colorizer's error by the config's choice, see `LossConfig.color`."""
    if name == "l1":
        return Term(F.l1_loss(predicted, truth), weight)
    if name == "huber":
        return Term(F.smooth_l1_loss(predicted, truth, beta=_HUBER_BETA), weight)
    square = (predicted - truth).square().mean((1, 2, 3))
    return Term((square + _LOG_MSE_FLOOR).log().mean(), weight * _LOG_MSE_WEIGHT)


def random_cells(scene: Scene) -> Int64[Tensor, "b n"]:
    """Some cells of each photo, as flat indices."""
    height, width = (side // CELL for side in scene.truth_ab.shape[-2:])
    return (uniform(scene.keys, CELLS, _CELLS_PER_PHOTO) * (height * width)).long().clamp(max=height * width - 1)


def distribution_term(
    step: Step, logits: Float[Tensor, "b bins n"], places: Int64[Tensor, "p n"], maps: int
) -> Term:
    """Cross-entropy of the color distribution with the true colors of some cells, a mean over them."""
    weight = step.config.loss.distribution
    if not weight:  # processes wait for a gradient of every weight
        return Term(0 * logits.sum())
    ab = F.avg_pool2d(step.scene.truth_ab, CELL).flatten(2)
    ab = ab.gather(2, places[:, None].expand(-1, 2, -1)).transpose(1, 2)
    target = soft_bins(repeated(ab, maps).flatten(0, 1), color_bins().to(ab.device))
    return Term(F.cross_entropy(logits.transpose(1, 2).flatten(0, 1), target), weight)


def repeated(values: Tensor, times: int) -> Tensor:
    """Each photo's values several times in a row."""
    return values if times == 1 else values.repeat_interleave(times, 0)


def guided_clicks_loss(step: Step) -> Mapping[str, Term]:
    """Ping: ColorNet with K clicks of a frozen EditNet, on top of random ones; a loss before and after each."""
    config, scene, interactions = step.config, step.scene, step.config.clicks.interactions
    guide = (ORACLE, BLIND)[step.draw(WHICH_GUIDE, 0, 1)]
    clicks = random_clicks(scene, config.clicks.most_random, config.choice.hint_size, config.clicks.law)
    colorize = colorizing(step)
    colored = colorize(clicks)
    name = config.loss.color
    terms = [color_term(name, colored.ab, scene.truth_ab)]
    places = random_cells(scene)
    for interaction in range(1, interactions + 1):
        with torch.no_grad():
            logits = score(step, guide, colored, clicks)
            click = choose(step, logits, clicks, interaction)
            clicks = next_clicks(step, clicks, click, interaction)
        colored = colorize(clicks, places if interaction == interactions else None)
        terms.append(color_term(name, colored.ab, scene.truth_ab))
    more = {}
    if colored.training is not None:
        more = {
            "base": color_term(name, colored.training.base_ab, scene.truth_ab, config.loss.base),
            "distribution": distribution_term(step, colored.training.bin_logits, places, 1),
        }
    mean = Term(torch.stack([term.value for term in terms]).mean(), terms[0].weight)
    return {name: mean, **more, **perceptual_term(step, colored.ab)}


def edit_loss(step: Step, *, edit: str, heatmap: bool) -> Mapping[str, Term]:
    """EditNet's loss over K interactions with a frozen ColorNet (section 3.2.2).

    Each click is judged by the photo as it is re-colored with it. Clicks of earlier interactions are constants.
    """
    config, scene, interactions = step.config, step.scene, step.config.clicks.interactions
    colorize = colorizing(step)
    clicks = random_clicks(scene, config.clicks.most_random, config.choice.hint_size, config.clicks.law)
    with torch.no_grad():
        colored = colorize(clicks)
    recoloured, targets, entropies = [], [], []
    for interaction in range(1, interactions + 1):
        logits = score(step, edit, colored, clicks)
        target = None
        if config.loss.target == "gain":
            tries = try_clicks(
                colorize,
                colored.ab,
                clicks,
                scene.truth_ab,
                logits.detach(),
                scene.keys,
                stream=TRIED,
                draw=interaction,
                tries=config.loss.gain_tries,
                hint_size=hint_size(step, interaction),
                usual_area=mean_area(config.choice.hint_size),
                known=scene.shared.get("tries") if interaction == 1 else None,
            )
            if interaction == 1:  # both guides see this state; those after it are each guide's own
                scene.shared["tries"] = tries
            targets.append(gain_loss(logits, tries, config.loss.gain_loss))
        else:
            target = target_heatmap(config.loss, error_map(colored.ab, scene.truth_ab), clicked(clicks))
        click = choose(step, logits, clicks, interaction, target=target)
        if click.divergence is not None:
            targets.append(click.divergence.mean())
        entropies.append(click.entropy.mean())
        with nullcontext() if config.loss.recoloured else torch.no_grad():
            loss, colored = judge(step, colorize, logits, clicks, click, interaction)
        recoloured.append(loss)
        clicks = next_clicks(step, clicks, click, interaction)
    weight = config.loss.heatmap if heatmap else 0.0
    mean = torch.stack(targets).mean()
    gained = config.loss.target == "gain"
    target = {"gain": Term(mean, config.loss.gain)} if gained else {"heatmap_kl": Term(mean, weight)}
    first = {} if config.loss.recoloured else target  # what a progress bar shows
    return {
        **first,
        "recoloured_l1": Term(torch.stack(recoloured).mean(), config.loss.recoloured),
        **target,
        "heatmap_entropy": Term(torch.stack(entropies).mean(), -weight * config.loss.entropy),
    }


def colorizing(step: Step) -> Colorizing:
    """The phase's colorizer at work on the batch."""
    config = step.config
    return Colorizing(
        step.networks[COLOR],
        step.scene.lightness,
        split=config.network == "split",
        features=config.guide == "head",
    )


def score(step: Step, guide: str, colored: Colored, clicks: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b h w"]:
    """A guide's logits for photos as they are colored now."""
    options = {} if step.config.guide == "own" else {"features": colored.features}
    return step.networks[guide](step.scene.lightness, colored.ab.detach(), clicks, step.scene.truth_ab, **options)


def target_heatmap(
    loss: LossConfig, error: Float[Tensor, "b h w"], taken: Bool[Tensor, "b h w"]
) -> Float[Tensor, "b h w"]:
    """Where the next click should go, by the config's choice: sums to 1, 0 at taken pixels."""
    if loss.target == "error":
        return error_target(error, taken, loss.error_blur)
    return region_target(error, taken)


def choose(
    step: Step,
    logits: Float[Tensor, "b h w"],
    clicks: Float[Tensor, "b 3 h w"],
    interaction: int,
    *,
    target: Float[Tensor, "b h w"] | None = None,
    draw: int = 0,
) -> Click:
    """Choose a free pixel with the config's estimator, temperatures and this interaction's noise, and click it."""
    choice = step.config.choice
    return choose_click(
        logits,
        clicks,
        step.scene.truth_ab,
        estimator=choice.estimator,
        temperature=choice.temperature.at(step.progress),
        tau=choice.tau.at(step.progress),
        keys=step.scene.keys,
        stream=GUMBEL + interaction,
        draw=draw,
        samples=choice.samples,
        hint_size=hint_size(step, interaction),
        target=target,
        check=False,  # Config allows no more clicks than fit
    )


def judge(
    step: Step,
    colorize: Colorizing,
    logits: Float[Tensor, "b h w"],
    clicks: Float[Tensor, "b 3 h w"],
    click: Click,
    interaction: int,
) -> tuple[Float[Tensor, ""], Colored]:
    """The loss of the photo as it is re-colored with the click, and that coloring, without gradient.

    The gradient reaches EditNet through the click, or with `reinforce` through the probabilities of several clicks
    that are tried and compared.
    """
    scene = step.scene
    if step.config.choice.estimator != "reinforce":
        colored = colorize(click.clicks)
        return F.l1_loss(colored.ab, scene.truth_ab), colored.detach()
    draws = range(1, step.config.choice.samples)
    tried = [click, *(choose(step, logits, clicks, interaction, draw=draw) for draw in draws)]
    with torch.no_grad():
        all_colored = [colorize(one.clicks) for one in tried]
    losses = torch.stack([(colored.ab - scene.truth_ab).abs().mean((1, 2, 3)) for colored in all_colored])
    return leave_one_out_loss(losses, torch.stack([one.log_probability for one in tried])), all_colored[0]


def next_clicks(
    step: Step, before: Float[Tensor, "b 3 h w"], click: Click, interaction: int
) -> Float[Tensor, "b 3 h w"]:
    """The click map that the next interaction starts from: a constant, and never a soft click."""
    if step.config.choice.estimator != "gumbel_softmax_soft":
        return click.clicks.detach()
    return place_clicks(before, step.scene.truth_ab, click.choice, hint_size(step, interaction))


def hint_size(step: Step, interaction: int) -> int:
    """Side of the patch of this interaction's clicks, drawn for the batch from the config's range."""
    return step.draw(HINT_SIZE + interaction, *step.config.choice.hint_size)


def mean_area(hint_sizes: tuple[int, int]) -> float:
    """Pixels of a patch whose side is uniform between two sizes, on average."""
    low, high = hint_sizes
    return sum(side**2 for side in range(low, high + 1)) / (high - low + 1)


def perceptual_term(step: Step, predicted: Float[Tensor, "b 2 h w"], maps: int = 1) -> Mapping[str, Term]:
    """The LPIPS term, where it is available and has a weight; of each photo's first set of clicks."""
    if step.perceptual is None or step.config.loss.lpips == 0:
        return {}
    first = predicted if maps == 1 else predicted[::maps]
    value = step.perceptual(step.scene.lightness, first.float(), step.scene.rgb)
    return {"lpips": Term(value, step.config.loss.lpips)}
