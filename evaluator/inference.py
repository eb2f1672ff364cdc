"""How the evaluator calls a network: in evaluation mode, under autocast where asked, float32 out."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

Colorizer = Callable[[Tensor, Tensor], Tensor]
"""`colorizer(lightness (B,1,H,W), clicks (B,3,H,W)) -> ab (B,2,H,W)`."""

Guide = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""`guide(lightness, predicted_ab, clicks, truth_ab) -> logits (B,H,W)`; `truth_ab` is None for a blind guide."""

_ACTS_DIFFERENTLY_IN_TRAINING = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)


def run_network(network: Callable[..., Any], *inputs: Any, autocast: torch.dtype | None, **options: Any) -> Any:
    """Call a network on the device of its first tensor and return float32; a tuple of tensors stays as it is.

    Convolutions round a photo's numbers differently (1e-7) in batches of other sizes and with other numbers of
    threads. Where that must not move a click, photos are coloured one by one on a CPU: see
    `evaluator.threads.each_on_one_core`.

    Args:
        network: a colorizer or a guide, or a method of one.
        inputs: one of them at least is a tensor.
        autocast: bfloat16 or float16 to run the network under autocast, None to run it as it is.
        options: more that it takes by name.

    Raises:
        ValueError: a BatchNorm or Dropout layer is in training mode, so that a photo's result would depend on
            the batch around it. (Exported graphs, which have no such mode, pass.)
    """
    refuse_training_mode(getattr(network, "__self__", network))
    first = next(x for x in inputs if isinstance(x, Tensor))
    with torch.autocast(first.device.type, dtype=autocast) if autocast else nullcontext():
        found = network(*inputs, **options)
    return found.float() if isinstance(found, Tensor) else found


def reads_features(guide: object) -> bool:
    """Whether a guide is a head on a split colorizer's features, which it then takes as `features=`."""
    return bool(getattr(guide, "reads_features", False))


def refuse_training_mode(network: object) -> None:
    """Raise a ValueError when a layer of the network would act differently in evaluation mode."""
    if not isinstance(network, nn.Module):
        return
    for name, layer in network.named_modules():
        if layer.training and isinstance(layer, _ACTS_DIFFERENTLY_IN_TRAINING):
            raise ValueError(
                f"layer {name!r} ({type(layer).__name__}) is in training mode; call .eval() on the network first"
            )
