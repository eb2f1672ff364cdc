"""LPIPS as a metric: the authors' published distances, the package's own numbers, clear words without weights."""

import warnings
from pathlib import Path

import lpips
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from evaluator.metrics import METRICS, Comparison, perceptual, unavailable
from evaluator.metrics.perceptual import WeightsUnavailable, features, load_lpips, lpips_distance, weights_file
from kernels.color import rgb_to_lab
from tests import ROOT

GOLDEN = ROOT.parent / "shared" / "golden" / "lpips"


@pytest.fixture
def weights(alexnet_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(alexnet_home))


@pytest.fixture
def no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a test must not download")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    return tmp_path


@pytest.fixture(scope="module")
def package(alexnet_home: Path) -> nn.Module:
    """The package as its own documentation loads it."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setenv("TORCH_HOME", str(alexnet_home))
        return lpips.LPIPS(net="alex", verbose=False)


def picture(name: str) -> Tensor:
    with Image.open(GOLDEN / name) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None].contiguous()


def pair(height: int = 40, width: int = 53) -> tuple[Tensor, Tensor]:
    """Five photos with more and more noise in the second."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(0, 256, (5, 3, height, width), generator=generator)
    noise = torch.randn(truth.shape, generator=generator) * torch.tensor([0, 5, 20, 60, 120])[:, None, None, None]
    return (truth + noise).clamp(0, 255).to(torch.uint8), truth.to(torch.uint8)


@pytest.mark.usefixtures("weights")
@pytest.mark.parametrize(("name", "distance"), [("ex_p0.png", 0.722), ("ex_p1.png", 0.138)])
def test_distances_are_those_that_the_authors_publish(name: str, distance: float):
    assert unavailable("lpips") is None
    found = lpips_distance(picture(name), picture("ex_ref.png"))
    assert found.item() == pytest.approx(distance, abs=0.0005)


@pytest.mark.usefixtures("weights")
def test_each_photo_has_the_packages_own_number(package: nn.Module):
    predicted, truth = pair()
    with torch.no_grad():
        expected = [
            package(p[None].float() / 127.5 - 1, t[None].float() / 127.5 - 1).item()
            for p, t in zip(predicted, truth, strict=True)
        ]
    assert expected[0] == 0 < 0.01 < expected[-1]
    np.testing.assert_allclose(lpips_distance(predicted, truth), expected, atol=1e-6)
    np.testing.assert_allclose(lpips_distance(predicted, truth, features(truth)), expected, atol=1e-6)


@pytest.mark.usefixtures("weights")
def test_no_number_depends_on_the_batch_around_it():
    predicted, truth = pair()
    together = lpips_distance(predicted, truth)
    alone = torch.cat([lpips_distance(predicted[i : i + 1], truth[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=0)


@pytest.mark.usefixtures("weights")
def test_autocast_does_not_reach_the_network():
    predicted, truth = pair()
    expected = lpips_distance(predicted, truth)
    before = torch.backends.cudnn.conv.fp32_precision  # pyright: ignore[reportAttributeAccessIssue]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(lpips_distance(predicted, truth), expected)
    assert torch.backends.cudnn.conv.fp32_precision == before  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.usefixtures("weights")
def test_the_metric_looks_at_the_shown_picture_and_computes_the_truth_once(monkeypatch: pytest.MonkeyPatch):
    _, truth = pair()
    lightness, ab = rgb_to_lab(truth)
    seen = []
    monkeypatch.setattr(perceptual, "features", lambda rgb: seen.append(len(rgb)) or features(rgb))
    shared = {}
    for predicted in (ab, 0.5 * ab, 0 * ab):
        at = Comparison(lightness, predicted, ab, truth, shared=shared)
        found = METRICS["lpips"].measure(at)
        torch.testing.assert_close(found, lpips_distance(at.predicted_rgb, truth), atol=1e-6, rtol=0)
    assert len(seen) == 1 + 3 + 2 * 3  # the truth once, three colorings, and the two of each check


@pytest.mark.usefixtures("weights")
def test_the_smallest_photo_is_measured_and_a_smaller_one_is_refused():
    assert METRICS["lpips"].smallest == perceptual.LPIPS_SIDE
    assert lpips_distance(*pair(31, 40)).shape == (5,)
    with pytest.raises(ValueError, match="30 x 40 pixels; LPIPS needs at least 31 x 31"):
        lpips_distance(*pair(30, 40))


def test_without_weights_it_says_what_to_download_to_where(no_weights: Path):
    message = unavailable("lpips")
    assert message is not None
    assert "AlexNet" in message
    assert "https://" in message
    assert str(no_weights / "hub" / "checkpoints" / "alexnet-owt-7be5be79.pth") in message
    with pytest.raises(WeightsUnavailable, match="not here"):
        lpips_distance(*pair())


@pytest.mark.parametrize("content", [b"", b"<html>not weights</html>", b"PK\x03\x04 cut off"])
def test_a_damaged_file_is_named(no_weights: Path, content: bytes):
    cached = weights_file("x/alexnet-owt-7be5be79.pth")
    cached.parent.mkdir(parents=True)
    cached.write_bytes(content)
    message = unavailable("lpips")
    assert message is not None
    assert f"{cached} cannot be read" in message


def test_a_pickle_with_code_in_place_of_weights_is_refused(no_weights: Path):
    cached = weights_file("x/alexnet-owt-7be5be79.pth")
    cached.parent.mkdir(parents=True)
    torch.save(nn.Linear(2, 2), cached)
    with pytest.raises(WeightsUnavailable, match="cannot be read"):
        load_lpips(download=True)
