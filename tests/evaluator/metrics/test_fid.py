"""FID against scipy and torchmetrics, and clear words when the package or the weights are absent."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from evaluator.metrics import fid
from evaluator.metrics.fid import Fid
from evaluator.metrics.perceptual import WeightsUnavailable


class Means(nn.Module):
    """A network without weights: mean and spread of each channel's upper and lower half, 12 features."""

    num_features = 12

    def forward(self, rgb: Tensor) -> Tensor:
        halves = torch.stack(rgb.float().chunk(2, dim=2), dim=1)
        return torch.cat([halves.mean((3, 4)), halves.std((3, 4))], dim=1).flatten(1) / 16


def pictures(count: int, seed: int, low: int = 0, high: int = 256) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(low, high, (count, 3, 8, 8), generator=generator, dtype=torch.uint8)


def frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Between Gaussians fitted to two sets of features (n, k); Dowson and Landau 1982."""
    covariances = [np.cov(features, rowvar=False) for features in (first, second)]
    root = np.real(sqrtm(covariances[0] @ covariances[1]))
    apart = first.mean(0) - second.mean(0)
    return float(apart @ apart + np.trace(covariances[0] + covariances[1] - 2 * root))


def features(rgb: Tensor) -> np.ndarray:
    return Means()(rgb).double().numpy()


def measured(truth: Tensor, predicted: Tensor, batch: int) -> Fid:
    found = Fid(network=Means())
    for first in range(0, len(truth), batch):
        found.update(truth[first : first + batch], predicted[first : first + batch])
    return found


@pytest.fixture
def sets() -> tuple[Tensor, Tensor]:
    return pictures(200, 0), pictures(200, 1, 20, 200)


def test_it_is_the_frechet_distance_of_the_features(sets):
    truth, predicted = sets
    expected = frechet_distance(features(truth), features(predicted))
    assert expected > 1
    for batch in (7, 200):
        assert measured(truth, predicted, batch).compute() == pytest.approx(expected, rel=1e-5)
    assert measured(truth, truth, 50).compute() == pytest.approx(0.0, abs=1e-5)


def test_it_is_torchmetrics_fid(sets):
    reference = FrechetInceptionDistance(Means())
    for rgb, real in zip(sets, (True, False), strict=True):
        reference.update(rgb, real=real)
    assert measured(sets[0], sets[1], 32).compute() == pytest.approx(reference.compute().item(), rel=1e-5)


def test_few_photos_for_many_features_have_a_finite_fid():
    """Covariances of 5 photos in 12 dimensions are singular."""
    truth, predicted = pictures(5, 2), pictures(5, 3)
    expected = np.trace(np.cov(features(truth), rowvar=False))
    found = measured(truth, predicted, 5).compute()
    assert 0 < found < 10 * expected
    assert found == pytest.approx(frechet_distance(features(truth), features(predicted)), rel=1e-3)


def test_parts_join_into_the_whole(sets):
    truth, predicted = sets
    whole, first, second = (
        measured(truth[rows], predicted[rows], 32) for rows in map(slice, (0, 0, 60), (200, 60, 200))
    )
    joined = Fid(network=Means())
    for part in (second, first):
        joined.add(part.sums())
    assert joined.compute() == pytest.approx(whole.compute(), rel=1e-5)
    assert first.compute() != pytest.approx(whole.compute(), rel=1e-5)


def test_fewer_than_two_photos_have_no_fid(sets):
    assert math.isnan(Fid(network=Means()).compute())
    assert math.isnan(measured(sets[0][:1], sets[1][:1], 1).compute())


@pytest.fixture
def empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path


def test_without_its_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    message = fid.unavailable()
    assert message is not None
    assert "torch-fidelity" in message
    assert "pip install 'chromaclick[fid]'" in message
    with pytest.raises(WeightsUnavailable, match="torch-fidelity"):
        Fid()


def test_without_weights_it_says_what_to_download_to_where(empty_home: Path):
    pytest.importorskip("torch_fidelity", reason="chromaclick[fid] is not installed")
    message = fid.unavailable()
    assert message is not None
    assert "Inception v3" in message
    assert "https://" in message
    assert str(empty_home / "hub" / "checkpoints" / "weights-inception") in message
    with pytest.raises(WeightsUnavailable, match="not here"):
        Fid()
    assert not list(empty_home.iterdir())  # nothing was downloaded


def test_inception_is_loaded_from_the_file_and_takes_photos_of_any_size(empty_home: Path):
    """With random weights: the path from a file to a number, not the number."""
    inception = pytest.importorskip(
        "torch_fidelity.feature_extractor_inceptionv3", reason="needs chromaclick[fid]"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inception.FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        path = empty_home / "empty.pth"
        torch.save({}, path)
        torch.manual_seed(0)
        network = inception.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], str(path))
    target = empty_home / "hub" / "checkpoints" / inception.URL_INCEPTION_V3.rsplit("/", 1)[-1]
    target.parent.mkdir(parents=True)
    torch.save(network.state_dict(), target)
    assert fid.unavailable() is None
    found = Fid()
    found.update(pictures(2, 0), pictures(2, 1))
    real = found.sums()["truth sum"]
    assert real.shape == (2048,)
    torch.testing.assert_close(real, network(pictures(2, 0))[0].double().sum(0), rtol=1e-4, atol=1e-4)
