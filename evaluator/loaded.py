"""Exported networks behind the house's calls: checks, padding to the network's sizes, and cropping back."""

import hashlib
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor, nn

from evaluator.baselines import Baseline
from evaluator.contract import Contract, crop, pad_to_multiple, standard_ports


class LoadedNetwork:
    """An exported network with its contract. Pads inputs by reflection where needed, and crops the output back."""

    def __init__(self, graph: nn.Module, contract: Contract, source: str, device: torch.device) -> None:
        self._graph = graph
        self.contract = contract
        self.source = source
        """Where it came from, with the version that an alias stood for."""
        self.device = device

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the contract and every weight, hexadecimal: the same for the same network anywhere."""
        digest = hashlib.sha256(self.contract.to_json().encode())
        for name, tensor in sorted(self._graph.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    @torch.no_grad()
    def _run(self, *inputs: Tensor) -> Tensor:
        self._check(inputs)
        height, width = inputs[0].shape[-2:]
        contract = self.contract
        padded = [pad_to_multiple(x, contract.multiple, contract.min_size) for x in inputs]
        return crop(self._graph(*padded), height, width)

    def _check(self, inputs: tuple[Tensor, ...]) -> None:
        batch, _, height, width = shape = inputs[0].shape if inputs[0].ndim == 4 else (0, 0, 0, 0)
        for port, x in zip(self.contract.inputs, inputs, strict=True):
            expected = (batch, port.channels, height, width)
            if tuple(x.shape) != expected or 0 in shape:
                raise ValueError(
                    f"{self.contract.name}: {port.name} has shape {tuple(x.shape)}; it must be "
                    f"(B, {port.channels}, H, W) with the same B, H and W for all inputs, none of them 0"
                )
            if x.dtype != torch.float32 or x.device != self.device:
                raise ValueError(
                    f"{self.contract.name}: {port.name} is {x.dtype} on {x.device}; it must be torch.float32 on "
                    f"{self.device}: convert it with .to()"
                )


class LoadedColorizer(LoadedNetwork):
    """`colorizer(lightness, clicks) -> ab` from an exported graph."""

    def __call__(self, lightness: Tensor, clicks: Tensor) -> Float[Tensor, "b 2 h w"]:
        """Colours of photos of any size.

        Args:
            lightness: (B,1,H,W), CIE L* / 100, in [0, 1], float32 on this network's device.
            clicks: (B,3,H,W), mask and ab.

        Raises:
            ValueError: an input has another shape, dtype or device; the message names it.
        """
        return self._run(lightness, clicks)


class _Uncompiled(nn.Module):
    """A baseline where a graph is expected: no weights, nothing to export."""

    def __init__(self, baseline: Baseline) -> None:
        super().__init__()
        self.baseline = baseline

    def forward(self, lightness: Tensor, clicks: Tensor) -> Tensor:
        return self.baseline(lightness, clicks)


def load_baseline(baseline: Baseline, device: torch.device | str = "cpu") -> LoadedColorizer:
    """A colorizer without a network, with a contract and a fingerprint like every other.

    Its settings stand in `contract.config`, so that the fingerprint changes with them. `contract.hint_size` is the
    one with which the defaults were chosen; any will do.
    """
    inputs, outputs = standard_ports("colorizer", None)
    contract = Contract(
        kind="colorizer",
        name=baseline.name,
        inputs=inputs,
        outputs=outputs,
        multiple=1,
        min_size=1,
        hint_size=3,
        config=baseline.settings,
    )
    device = torch.empty(0, device=device).device  # with its index: cuda is cuda:0
    return LoadedColorizer(_Uncompiled(baseline), contract, baseline.name, device)


class LoadedGuide(LoadedNetwork):
    """`guide(lightness, predicted_ab, clicks, truth_ab) -> logits` from an exported graph."""

    def __call__(
        self, lightness: Tensor, predicted_ab: Tensor, clicks: Tensor, truth_ab: Tensor | None = None
    ) -> Float[Tensor, "b h w"]:
        """Score of every pixel as the next click.

        Args:
            lightness: (B,1,H,W), CIE L* / 100, in [0, 1], float32 on this network's device.
            predicted_ab: (B,2,H,W), the present colours, CIE ab / 128.
            clicks: (B,3,H,W), mask and ab.
            truth_ab: (B,2,H,W), the true colours, for an oracle; None for a blind guide.

        Raises:
            ValueError: an input has another shape, dtype or device, or the truth is missing or superfluous.
        """
        seen = (lightness, predicted_ab, clicks)
        if self.contract.variant == "blind":
            if truth_ab is not None:
                raise ValueError(f"{self.contract.name} is a blind guide; call it with truth_ab=None")
            return self._run(*seen)
        if truth_ab is None:
            raise ValueError(f"{self.contract.name} is an oracle guide: give it truth_ab, or load a blind one")
        return self._run(*seen, truth_ab)
