"""Networks behind the standard calls: exported ones loaded, checked and padded; any network run in float32."""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from evaluator.baselines import Baseline
from evaluator.registry.contract import Contract, Port, crop, pad_to_multiple, standard_ports

Colorizer = Callable[[Tensor, Tensor], Tensor]
"""`colorizer(lightness (B,1,H,W), clicks (B,3,H,W)) -> ab (B,2,H,W)`."""

Guide = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""`guide(lightness, predicted_ab, clicks, truth_ab) -> logits (B,H,W)`; `truth_ab` is None for a blind guide."""

_ACTS_DIFFERENTLY_IN_TRAINING = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)


def run_network(network: Callable[..., Any], *inputs: Any, autocast: torch.dtype | None, **options: Any) -> Any:
    """Call a network on the device of its first tensor, with float32 results; tuples of tensors stay as they are.

    Convolutions round a photo's numbers differently (1e-7) in batches of other sizes and with other numbers of
    threads. Where that must not move a click, photos are colored one by one on a CPU: see
    `evaluator.system.threads.each_on_one_core`.

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
    """Whether a guide is a head on a split colorizer's features, which it takes as `features=`."""
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


UNCERTAINTIES = 2
"""Last features of a split colorizer, which its palette has made itself: entropy and spread of the colors."""


class LoadedNetwork:
    """An exported network with its contract; pads inputs by reflection where needed, and crops outputs."""

    def __init__(self, graph: nn.Module, contract: Contract, source: str, device: torch.device) -> None:
        self._graph = graph
        self.contract = contract
        self.source = source
        """Where it came from, with the version that an alias stood for."""
        self.device = device

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the contract and every weight, hexadecimal; the same on every machine."""
        digest = hashlib.sha256(self.contract.to_json().encode())
        for name, tensor in sorted(self._graph.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    @torch.no_grad()
    def _run(self, *inputs: Tensor) -> Tensor:
        self._check(inputs, self.contract.inputs)
        height, width = inputs[0].shape[-2:]
        padded = [
            self._padded(x) if port.cell == 1 else x for port, x in zip(self.contract.inputs, inputs, strict=True)
        ]
        with self._precision():
            return crop(self._graph(*padded), height, width)

    def _precision(self) -> AbstractContextManager[Any]:
        """Float32 for split colorizers and guides that read them, whatever the autocast around.

        Parts of them need it, and an exported graph remembers that it was float32, but not how to stay so.
        """
        return torch.autocast(self.device.type, enabled=False) if self.contract.features else nullcontext()

    def _padded(self, x: Tensor) -> Tensor:
        return pad_to_multiple(x, self.contract.multiple, self.contract.min_size)

    def _check(self, inputs: tuple[Tensor, ...], ports: tuple[Port, ...]) -> None:
        batch, _, height, width = shape = inputs[0].shape if inputs[0].ndim == 4 else (0, 0, 0, 0)
        for port, x in zip(ports, inputs, strict=True):
            expected = (batch, port.channels, height, width)
            if port.cell > 1 and 0 not in shape:
                expected = (*expected[:2], *(side // port.cell for side in self._padded(inputs[0]).shape[-2:]))
            if tuple(x.shape) != expected or 0 in shape:
                sides = "H, W" if port.cell == 1 or 0 in shape else "{}, {}".format(*expected[2:])
                raise ValueError(
                    f"{self.contract.name}: {port.name} has shape {tuple(x.shape)}; it must be "
                    f"(B, {port.channels}, {sides}) with the same B, H and W for all inputs, none of them 0"
                )
            if x.dtype != torch.float32 or x.device != self.device:
                raise ValueError(
                    f"{self.contract.name}: {port.name} is {x.dtype} on {x.device}; it must be torch.float32 on "
                    f"{self.device}: convert it with .to()"
                )


class LoadedColorizer(LoadedNetwork):
    """`colorizer(lightness, clicks) -> ab` from an exported graph."""

    def __call__(self, lightness: Tensor, clicks: Tensor) -> Float[Tensor, "b 2 h w"]:
        """Colors of photos of any size.

        Args:
            lightness: (B,1,H,W), CIE L* / 100, in [0, 1], float32 on this network's device.
            clicks: (B,3,H,W), mask and ab.

        Raises:
            ValueError: an input has another shape, dtype or device; the message names it.
        """
        return self._run(lightness, clicks)


class LoadedSplitColorizer(LoadedColorizer):
    """A split colorizer: its two parts, separately callable, and both at once."""

    def __init__(self, parts: "SplitParts", contract: Contract, source: str, device: torch.device) -> None:
        super().__init__(parts, contract, source, device)
        self._parts = parts

    @torch.no_grad()
    def embed(self, lightness: Float[Tensor, "b 1 h w"]) -> tuple[Tensor, ...]:
        """What the photos alone say, of the padded photos.

        Raises:
            ValueError: see `LoadedColorizer`.
        """
        self._check((lightness,), self.contract.inputs[:1])
        with self._precision():
            return tuple(self._parts.embed(self._padded(lightness)))

    @torch.no_grad()
    def color(
        self, embedding: Sequence[Tensor], lightness: Float[Tensor, "b 1 h w"], clicks: Float[Tensor, "b 3 h w"]
    ) -> tuple[Float[Tensor, "b 2 h w"], Tensor]:
        """Colors, and features of the padded photos for guides.

        Raises:
            ValueError: see `LoadedColorizer`.
        """
        self._check((lightness, clicks), self.contract.inputs)
        height, width = lightness.shape[-2:]
        batch = len(clicks)
        whole = [part if len(part) == batch else part.expand(batch, *part.shape[1:]) for part in embedding]
        with self._precision():
            ab, features = self._parts.color(self._padded(lightness), self._padded(clicks), *whole)
        return crop(ab, height, width), features

    @torch.no_grad()
    def palette(self, features: Float[Tensor, "n c"]) -> Float[Tensor, "n bins"]:
        """Logits over `bins` of the colors of some cells, from their features as `color` gives them."""
        with self._precision():
            return self._parts.palette(features[:, : self.contract.features - UNCERTAINTIES])

    def distribution(self, cells: Float[Tensor, "n c"]) -> Float[Tensor, "n bins"]:
        """Probability of each of `bins` as the color of some cells."""
        return self.palette(cells).softmax(1)

    @property
    def bins(self) -> Float[Tensor, "bins 2"]:
        """Colors of the bins of `palette`, ab / 128."""
        return self._parts.bins


class SplitParts(nn.Module):
    """Graphs of a split colorizer's parts."""

    bins: Tensor

    def __init__(self, embed: nn.Module, color: nn.Module, palette: nn.Module, bins: Tensor) -> None:
        """Combine the graphs.

        Args:
            embed: from lightness to what the photo alone says.
            color: from lightness, clicks and that to ab and features.
            palette: from features to logits.
            bins: the colors that the logits are of.
        """
        super().__init__()
        self.embed, self.color, self.palette = embed, color, palette
        self.register_buffer("bins", bins)

    def forward(self, lightness: Tensor, clicks: Tensor) -> Tensor:
        """Both parts at once, by the standard call."""
        return self.color(lightness, clicks, *self.embed(lightness))[0]


class _Uncompiled(nn.Module):
    """Stand-in for the graph of a baseline: no weights, nothing to export."""

    def __init__(self, baseline: Baseline) -> None:
        super().__init__()
        self.baseline = baseline

    def forward(self, lightness: Tensor, clicks: Tensor) -> Tensor:
        return self.baseline(lightness, clicks)


def load_baseline(baseline: Baseline, device: torch.device | str = "cpu") -> LoadedColorizer:
    """A colorizer without a network, with contract and fingerprint like every other.

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

    @property
    def reads_features(self) -> bool:
        """Whether it is a head on one split colorizer, whose features it is called with."""
        return self.contract.features > 0

    def check_reads(self, colorizer: object) -> None:
        """Refuse a colorizer whose features this guide was not trained on.

        Raises:
            ValueError: it reads another one's.
        """
        reads = self.contract.reads
        contract = getattr(colorizer, "contract", None)
        if reads and reads != getattr(contract, "weights", ""):
            raise ValueError(
                f"the guide {self.source} reads the features of one colorizer (weights {reads[:12]}), which "
                f"{getattr(colorizer, 'source', 'this colorizer')} is not; give the colorizer that was published "
                "with it"
            )

    def __call__(
        self,
        lightness: Tensor,
        predicted_ab: Tensor,
        clicks: Tensor,
        truth_ab: Tensor | None = None,
        *,
        features: Tensor | None = None,
    ) -> Float[Tensor, "b h w"]:
        """Score of every pixel as the next click.

        Args:
            lightness: (B,1,H,W), CIE L* / 100, in [0, 1], float32 on this network's device.
            predicted_ab: (B,2,H,W), the present colors, CIE ab / 128.
            clicks: (B,3,H,W), mask and ab.
            truth_ab: (B,2,H,W), the true colors, for an oracle; None for a blind guide.
            features: of the present coloring by its colorizer (`LoadedSplitColorizer.color`), for a guide that
                reads them.

        Raises:
            ValueError: an input has another shape, dtype or device, or the truth or the features are missing or
                superfluous.
        """
        seen = (lightness, predicted_ab, clicks)
        if self.reads_features != (features is not None):
            wants = "reads its colorizer's features: pass them" if self.reads_features else "reads no features"
            raise ValueError(f"{self.contract.name} {wants}")
        more = () if features is None else (features,)
        if self.contract.variant == "blind":
            if truth_ab is not None:
                raise ValueError(f"{self.contract.name} is a blind guide; call it with truth_ab=None")
            return self._run(*seen, *more)
        if truth_ab is None:
            raise ValueError(f"{self.contract.name} is an oracle guide: give it truth_ab, or load a blind one")
        return self._run(*seen, truth_ab, *more)
