"""The thesis' recipe: pretrain ColorNet, pretrain EditNet, then ping-pong cycles (section 3.2).

EditNet comes twice: `oracle` sees the true colours as in the thesis, `blind` does not, for photos that have none.
"""

from collections.abc import Mapping
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from kernels.choice import Click, choose_click
from kernels.clicks import clicked, place_clicks
from kernels.reference import leave_one_out_loss
from kernels.regions import error_map, error_target, region_target
from trainer.config import Config, LossConfig
from trainer.networks import ColorNet, EditNet
from trainer.recipes import Phase, Recipe, Stage, Step, Term
from trainer.scene import GUMBEL, random_clicks
from trainer.schedules import most_random_clicks

COLOR, ORACLE, BLIND = "color", "edit_oracle", "edit_blind"
# Purposes of the integers that ranks share (Step.draw); interactions count up from HINT_SIZE.
WHICH_GUIDE, HINT_SIZE = 1, 16


def pingpong(config: Config) -> Recipe:
    """The recipe for this config."""
    rounds, optimizer = config.rounds, config.optimizer
    slow = optimizer.pingpong_factor

    def edit_phase(name: str, network: str, *, lr: float, heatmap: bool) -> Phase:
        loss = partial(edit_loss, edit=network, heatmap=heatmap)
        return Phase(name=name, trains=(network,), borrows=(COLOR,), loss=loss, lr=lr)

    def edit_phases(prefix: str, *, lr: float, heatmap: bool) -> tuple[Phase, ...]:
        return tuple(
            edit_phase(f"{prefix}-{network.removeprefix('edit_')}", network, lr=lr, heatmap=heatmap)
            for network in (ORACLE, BLIND)
        )

    pretraining = [
        Stage(
            name="pretrain-color",
            phases=(
                Phase(name="pretrain-color", trains=(COLOR,), loss=random_clicks_loss, lr=optimizer.color_lr),
            ),
            rounds=rounds.pretrain_color,
        ),
        Stage(
            name="pretrain-edit",
            phases=edit_phases("pretrain-edit", lr=optimizer.edit_lr, heatmap=config.loss.heatmap_in_pretraining),
            rounds=rounds.pretrain_edit,
        ),
    ]
    cycles = [
        stage
        for cycle in range(1, rounds.cycles + 1)
        for stage in (
            Stage(
                name=f"ping-{cycle}",
                phases=(
                    Phase(
                        name="ping",
                        trains=(COLOR,),
                        borrows=(ORACLE, BLIND),
                        loss=guided_clicks_loss,
                        lr=optimizer.color_lr * slow,
                    ),
                ),
                rounds=rounds.ping,
            ),
            Stage(
                name=f"pong-{cycle}",
                phases=edit_phases("pong", lr=optimizer.edit_lr * slow, heatmap=True),
                rounds=rounds.pong,
            ),
        )
    ]
    return Recipe(
        name="pingpong",
        networks={
            COLOR: lambda: ColorNet(config.network.color),
            ORACLE: lambda: EditNet("oracle", config.network.edit),
            BLIND: lambda: EditNet("blind", config.network.edit),
        },
        stages=[stage for stage in (*pretraining, *cycles) if stage.rounds > 0],
        colorizer=COLOR,
        guides={"editnet-oracle": ORACLE, "editnet-blind": BLIND},
    )


def random_clicks_loss(step: Step) -> Mapping[str, Term]:
    """ColorNet's pretraining: a growing number of random clicks (section 3.2.1)."""
    most = most_random_clicks(step.progress, 1, step.config.clicks.most_random)
    clicks = random_clicks(step.scene, most, step.config.choice.hint_size)
    predicted = step.networks[COLOR](step.scene.lightness, clicks)
    return {"l1": Term(F.l1_loss(predicted.float(), step.scene.truth_ab)), **perceptual_term(step, predicted)}


def guided_clicks_loss(step: Step) -> Mapping[str, Term]:
    """Ping: ColorNet with K clicks of a frozen EditNet, on top of random ones; a loss before and after each."""
    scene, interactions = step.scene, step.config.clicks.interactions
    guide = step.networks[(ORACLE, BLIND)[step.draw(WHICH_GUIDE, 0, 1)]]
    clicks = random_clicks(scene, step.config.clicks.most_random, step.config.choice.hint_size)
    predicted = step.networks[COLOR](scene.lightness, clicks).float()
    losses = [F.l1_loss(predicted, scene.truth_ab)]
    for interaction in range(1, interactions + 1):
        with torch.no_grad():
            logits = guide(scene.lightness, predicted, clicks, scene.truth_ab)
            click = choose(step, logits, clicks, interaction)
            clicks = next_clicks(step, clicks, click, interaction)
        predicted = step.networks[COLOR](scene.lightness, clicks).float()
        losses.append(F.l1_loss(predicted, scene.truth_ab))
    return {"l1": Term(torch.stack(losses).mean()), **perceptual_term(step, predicted)}


def edit_loss(step: Step, *, edit: str, heatmap: bool) -> Mapping[str, Term]:
    """EditNet's loss over K interactions with a frozen ColorNet (section 3.2.2).

    Each click is judged by the photo as it is re-coloured with it. Clicks of earlier interactions are constants.
    """
    scene, interactions = step.scene, step.config.clicks.interactions
    color = step.networks[COLOR]
    clicks = random_clicks(scene, step.config.clicks.most_random, step.config.choice.hint_size)
    with torch.no_grad():
        predicted = color(scene.lightness, clicks).float()
    recoloured, divergences, entropies = [], [], []
    for interaction in range(1, interactions + 1):
        logits = step.networks[edit](scene.lightness, predicted, clicks, scene.truth_ab)
        error = error_map(predicted, scene.truth_ab)
        target = target_heatmap(step.config.loss, error, clicked(clicks))
        click = choose(step, logits, clicks, interaction, target=target)
        assert click.divergence is not None
        divergences.append(click.divergence.mean())
        entropies.append(click.entropy.mean())
        loss, predicted = judge(step, logits, clicks, click, interaction)
        recoloured.append(loss)
        clicks = next_clicks(step, clicks, click, interaction)
    divergence, spread = torch.stack(divergences).mean(), torch.stack(entropies).mean()
    weight = step.config.loss.heatmap if heatmap else 0.0
    return {
        "recoloured_l1": Term(torch.stack(recoloured).mean()),
        "heatmap_kl": Term(divergence, weight),
        "heatmap_entropy": Term(spread, -weight * step.config.loss.entropy),
    }


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
    step: Step, logits: Float[Tensor, "b h w"], clicks: Float[Tensor, "b 3 h w"], click: Click, interaction: int
) -> tuple[Float[Tensor, ""], Float[Tensor, "b 2 h w"]]:
    """The loss of the photo as it is re-coloured with the click, and that colouring, without gradient.

    The gradient reaches EditNet through the click, or with `reinforce` through the probabilities of several clicks
    that are tried and compared.
    """
    scene = step.scene
    if step.config.choice.estimator != "reinforce":
        colouring = step.networks[COLOR](scene.lightness, click.clicks).float()
        return F.l1_loss(colouring, scene.truth_ab), colouring.detach()
    draws = range(1, step.config.choice.samples)
    tried = [click, *(choose(step, logits, clicks, interaction, draw=draw) for draw in draws)]
    with torch.no_grad():
        colourings = [step.networks[COLOR](scene.lightness, one.clicks).float() for one in tried]
    losses = torch.stack([(colouring - scene.truth_ab).abs().mean((1, 2, 3)) for colouring in colourings])
    return leave_one_out_loss(losses, torch.stack([one.log_probability for one in tried])), colourings[0]


def next_clicks(
    step: Step, before: Float[Tensor, "b 3 h w"], click: Click, interaction: int
) -> Float[Tensor, "b 3 h w"]:
    """The click map that the next interaction starts from: a constant, and never a soft click."""
    if step.config.choice.estimator != "gumbel_softmax_soft":
        return click.clicks.detach()
    return place_clicks(before, step.scene.truth_ab, click.choice, hint_size(step, interaction))


def hint_size(step: Step, interaction: int) -> int:
    """Side of the stamp of this interaction's clicks, drawn for the batch from the config's range."""
    return step.draw(HINT_SIZE + interaction, *step.config.choice.hint_size)


def perceptual_term(step: Step, predicted: Float[Tensor, "b 2 h w"]) -> Mapping[str, Term]:
    """The LPIPS term, where it is available and has a weight."""
    if step.perceptual is None or step.config.loss.lpips == 0:
        return {}
    value = step.perceptual(step.scene.lightness, predicted.float(), step.scene.rgb)
    return {"lpips": Term(value, step.config.loss.lpips)}
