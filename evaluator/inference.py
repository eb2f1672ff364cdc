"""How the evaluator calls a network: in evaluation mode, under autocast where asked, float32 out."""

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor, nn

Colorizer = Callable[[Tensor, Tensor], Tensor]
"""`colorizer(lightness (B,1,H,W), clicks (B,3,H,W)) -> ab (B,2,H,W)`."""

Guide = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""`guide(lightness, predicted_ab, clicks, truth_ab) -> logits (B,H,W)`; `truth_ab` is None for a blind guide."""

_ACTS_DIFFERENTLY_IN_TRAINING = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)


def run_network(network: Callable[..., Tensor], *inputs: Tensor | None, autocast: torch.dtype | None) -> Tensor:
    """Call a network on the device of its first input and return float32.

    A batch of one photo is computed as a pair. A CPU's convolutions round one photo's numbers differently (1e-7)
    than those of a batch, and the same numbers for every batch of 2 or more; a policy that takes the largest
    of many almost equal scores would otherwise click elsewhere when a photo happens to be alone in its batch.

    Args:
        network: a colorizer or a guide.
        inputs: the first one is a tensor.
        autocast: bfloat16 or float16 to run the network under autocast, None to run it as it is.

    Raises:
        ValueError: a BatchNorm or Dropout layer is in training mode, so that a photo's result would depend on
            the batch around it. (Exported graphs, which have no such mode, pass.)
    """
    refuse_training_mode(network)
    first = next(x for x in inputs if x is not None)
    if len(first) == 1:
        inputs = tuple(x if x is None else torch.cat([x, x]) for x in inputs)
    with torch.autocast(first.device.type, dtype=autocast) if autocast else nullcontext():
        return network(*inputs).float()[: len(first)]


def refuse_training_mode(network: object) -> None:
    """Raise a ValueError when a layer of the network would act differently in evaluation mode."""
    if not isinstance(network, nn.Module):
        return
    for name, layer in network.named_modules():
        if layer.training and isinstance(layer, _ACTS_DIFFERENTLY_IN_TRAINING):
            raise ValueError(
                f"layer {name!r} ({type(layer).__name__}) is in training mode; call .eval() on the network first"
            )
