"""Trainings to start from, and which settings have no effect in one."""

from trainer.config import Config, DataConfig, RunConfig, ValidationConfig, flatten
from trainer.recipes.pingpong import PingPong
from trainer.recipes.pingpong_settings import (
    ChoiceConfig,
    ClicksConfig,
    LossConfig,
    OptimizerConfig,
    RoundsConfig,
)
from trainer.recipes.schedules import Schedule


def tiny() -> Config:
    """64 px, minutes on a CPU: a small split network on the embedded photographs and scenes."""
    return Config(
        preset="tiny",
        data=DataConfig(image_size=64, batch_size=16, scale_jitter=8),
        recipe=PingPong(
            network="split",
            photo_widths=(32, 48, 80, 128),
            click_widths=(24, 32, 48),
            guide="head",
            guide_widths=(24, 32, 48),
            color_widths=(16, 32, 64, 96, 128, 128),
            edit_widths=(8, 16, 32, 32, 48),
            choice=ChoiceConfig(hint_size=(3, 3)),
            loss=LossConfig(color="log_mse", target="gain", gain_tries=8),
            clicks=ClicksConfig(most_random=50, law="geometric", maps=2, interactions=1),
            optimizer=OptimizerConfig(color_lr=3e-3, edit_lr=3e-3, decay_until=1.0),
            rounds=RoundsConfig(pretrain_color=2.2, pretrain_edit=0.7, ping=0.15, pong=0.25, cycles=1),
        ),
        validation=ValidationConfig(photos=48, hint_size=3),
    )


def small() -> Config:
    """128 px, an hour on two CPU cores with the embedded photos."""
    return Config(
        preset="small",
        data=DataConfig(image_size=128, batch_size=16, scale_jitter=20, workers=1),
        recipe=PingPong(
            network="split",
            guide="head",
            color_widths=(24, 48, 96, 128, 128, 192),
            edit_widths=(8, 16, 32, 32, 32, 64),
            choice=ChoiceConfig(hint_size=(3, 3)),
            loss=LossConfig(color="log_mse", target="gain", gain_tries=8, recoloured=0.0),
            clicks=ClicksConfig(most_random=50, law="geometric", maps=2, interactions=2),
            optimizer=OptimizerConfig(color_lr=2e-3, edit_lr=2e-3, decay_until=1.0),
            rounds=RoundsConfig(pretrain_color=20.0, pretrain_edit=2.0, ping=0.5, pong=0.5, cycles=2),
        ),
        validation=ValidationConfig(photos=128, hint_size=3),
    )


def serving() -> Config:
    """256 px: the network that the page and the service want, from shards; hours on two CPU cores.

    It is best begun at 64 and 128 px, see docs/model-card.md.
    """
    return Config(
        preset="serving",
        data=DataConfig(image_size=256, batch_size=16, scale_jitter=20, workers=1),
        recipe=PingPong(
            network="split",
            encoder="efficientnet-lite0",
            guide="head",
            choice=ChoiceConfig(hint_size=(3, 3)),
            loss=LossConfig(color="log_mse", target="gain", gain_tries=8, recoloured=0.0),
            clicks=ClicksConfig(most_random=50, law="geometric", maps=2, interactions=2),
            optimizer=OptimizerConfig(color_lr=2e-3, edit_lr=2e-3, decay_until=1.0),
            rounds=RoundsConfig(pretrain_color=10.0, pretrain_edit=1.0, ping=0.5, pong=0.5, cycles=1),
        ),
        validation=ValidationConfig(photos=128, hint_size=3),
    )


def paper() -> Config:
    """256 px, the thesis: Tables A.1 and A.2, section 3; what it leaves open is in docs/assumptions.md."""
    return Config(
        preset="paper",
        data=DataConfig(image_size=256, batch_size=32, scale_jitter=20, workers=4),
        recipe=PingPong(
            choice=ChoiceConfig(tau=Schedule(shape="exponential", start=2.0, end=0.5)),
            loss=LossConfig(target="error", heatmap_in_pretraining=False),
            clicks=ClicksConfig(most_random=20, interactions=5),
            optimizer=OptimizerConfig(color_lr=2e-4, edit_lr=2e-4),
            rounds=RoundsConfig(),
        ),
        validation=ValidationConfig(photos=5000),
        run=RunConfig(checkpoint_every=32768),
    )


PRESETS = {"tiny": tiny, "small": small, "serving": serving, "paper": paper}


def without_effect(config: Config) -> list[str]:
    """A sentence for each setting that was changed from its preset and does nothing in this training."""
    default = flatten(PRESETS.get(config.preset, paper)())
    given = flatten(config)
    reasons = {
        **{f"recipe.{name}": reason for name, reason in config.recipe.without_effect().items()},
        "data.photo_share": "it is for the embedded photos" if config.data.train else "",
        "data.cache_gb": "" if config.data.cache else "data.cache is empty",
        **{
            f"data.{name}": "" if config.data.train else "it is for shards"
            for name in ("order", "workers", "scale_jitter", "corrupt_limit", "manifest", "cache")
        },
        **(
            {"data.manifest": "data.order is stream", "data.cache": "data.order is stream"}
            if config.data.train and config.data.order == "stream"
            else {"data.round_photos": "data.order is exact"}
        ),
    }
    notes = [
        f"{name} {given[name]} has no effect: {reason}"
        for group, reason in reasons.items()
        for name in given
        if reason and (name == group or name.startswith(f"{group}.")) and given[name] != default[name]
    ]
    if config.data.train and not config.data.validation:
        notes.append("data.validation is empty: validating on the embedded photographs and scenes")
    return notes
