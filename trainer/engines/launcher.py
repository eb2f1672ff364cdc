"""What `accelerate launch` says in its environment beside DeepSpeed: obeyed, or refused, and never ignored."""

import os
from dataclasses import replace

from accelerate.utils import parse_flag_from_env

from trainer.config import EngineConfig

MIXED_PRECISION = "ACCELERATE_MIXED_PRECISION"
_DYNAMO = "ACCELERATE_DYNAMO_"
_NOT_ASKED = ("", "no", "none", "default", "false")
"""Values, in small letters, that ask for nothing."""


def as_launched(config: EngineConfig) -> EngineConfig:
    """The settings with what the launch asks for where they leave it open; the same after a second time.

    Raises:
        ValueError: the launch contradicts the settings, or asks for something that is not done here.
    """
    refuse_other_engines()
    precision = _asked(MIXED_PRECISION)
    if precision and config.precision not in ("auto", precision):
        raise ValueError(
            f"engine.precision is {config.precision} and the launch asks for --mixed_precision {precision}; "
            "give one of them, or the same in both"
        )
    if precision and precision not in ("bf16", "fp16"):
        raise ValueError(
            f"the launch asks for --mixed_precision {precision}, which is not done here; give bf16, fp16 or no"
        )
    return replace(config, precision=precision or config.precision, compile=config.compile or _asks_to_compile())


def refuse_other_engines() -> None:
    """Refuse what accelerate would do behind the loop's back."""
    for name in ("FSDP", "MEGATRON_LM"):
        if parse_flag_from_env(f"ACCELERATE_USE_{name}"):
            raise ValueError(f"this launch asks for {name}; use launch/ddp.yaml or launch/zero2.yaml instead")
    if os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1") != "1":
        raise ValueError(
            "this launch asks for gradient accumulation; leave it at 1 there and give engine.micro_batch"
        )


def _asks_to_compile() -> bool:
    """Whether the launch asks for torch.compile as engine.compile does it: by inductor, with its own settings."""
    backend = _asked(f"{_DYNAMO}BACKEND")
    if not backend:
        return False
    if backend != "inductor":
        raise ValueError(
            f"the launch asks for --dynamo_backend {backend}; only inductor is done here (engine.compile): "
            "give it, or no"
        )
    for name in ("mode", "use_fullgraph", "use_dynamic", "use_regional_compilation"):
        if value := _asked(f"{_DYNAMO}{name.upper()}"):
            raise ValueError(
                f"the launch asks for --dynamo_{name} ({value}), which is not done here; leave it out there"
            )
    return True


def _asked(name: str) -> str:
    """A variable's value in small letters; empty where it asks for nothing."""
    value = os.environ.get(name, "").lower()
    return "" if value in _NOT_ASKED else value
