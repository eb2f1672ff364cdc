"""Networks that metrics borrow: where their weights lie, and running them in full float32."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError

import torch


class WeightsUnavailable(ValueError):
    """The weights that a metric needs are not on this machine, or cannot be read; says what to do."""


def weights_file(url: str) -> Path:
    """Where torch.hub keeps the file that it downloads from `url` (see the variable TORCH_HOME)."""
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]


def require_weights(network: str, url: str) -> Path:
    """The file with a network's weights. Nothing is downloaded.

    Raises:
        WeightsUnavailable: it is not there, or it is not a plain file of tensors.
    """
    path = weights_file(url)
    if not path.is_file():
        raise WeightsUnavailable(f"the weights of {network} are not here; download {url} to {path}")
    try:
        # Tensors only, which the packages that load the same file do not insist on. On `meta` none is read.
        torch.load(path, map_location="meta", weights_only=True)
    except (OSError, RuntimeError, EOFError, UnpicklingError) as error:
        raise WeightsUnavailable(
            f"the weights of {network} in {path} cannot be read ({error}); delete that file"
        ) from error
    return path


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Run a network in float32: no autocast, and no TF32, which costs a GPU's convolutions 10 bits.

    That setting is the whole process', so it is left alone on a CPU, where several threads measure at once.
    """
    if device.type == "cpu":
        with torch.autocast(device.type, enabled=False):
            yield
        return
    # A module that replaces itself by an object when it is imported, which type checkers do not follow.
    convolutions = torch.backends.cudnn.conv  # pyright: ignore[reportAttributeAccessIssue]
    before = convolutions.fp32_precision
    convolutions.fp32_precision = "ieee"
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        convolutions.fp32_precision = before
