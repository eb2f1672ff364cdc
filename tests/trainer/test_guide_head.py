"""Guides as heads on the split colorizer's features."""

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor

from tests.trainer.split_networks import GUIDE, click_map, guide_head, photos, split_network
from trainer.networks import GuideHead


def seen(height: int = 64, width: int = 96) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor, Tensor]:
    """Inputs of a blind guide, the truth, and features."""
    colorizer = split_network()
    lightness, truth_ab = photos(2, height, width)
    clicks = click_map(truth_ab, 4)
    with torch.no_grad():
        ab, features = colorizer.color(colorizer.embed(lightness), lightness, clicks)
    return (lightness, ab, clicks), truth_ab, features


@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 160)])
@torch.no_grad()
def test_scores_for_every_pixel_of_photos_of_any_size(height: int, width: int):
    inputs, truth_ab, features = seen(height, width)
    for variant, truth in (("blind", None), ("oracle", truth_ab)):
        logits = guide_head(variant)(*inputs, truth, features=features)
        assert logits.shape == (2, height, width)
        assert logits.isfinite().all()
        assert logits.std() > 0.01


@torch.no_grad()
def test_a_blind_guide_does_not_see_the_truth_and_an_oracle_needs_it():
    inputs, truth_ab, features = seen()
    blind, oracle = guide_head("blind"), guide_head("oracle")
    assert torch.equal(blind(*inputs, truth_ab, features=features), blind(*inputs, features=features))
    right, other = (oracle(*inputs, truth, features=features) for truth in (truth_ab, -truth_ab))
    assert not torch.allclose(right, other, atol=1e-3)
    with pytest.raises(ValueError, match="this guide is an oracle: pass truth_ab"):
        oracle(*inputs, features=features)


@torch.no_grad()
def test_guides_read_features_colors_and_clicks():
    inputs, _, features = seen()
    guide = guide_head("blind")
    logits = guide(*inputs, features=features)
    for other in (
        guide(*inputs, features=features.flip(-1)),
        guide(1 - inputs[0], *inputs[1:], features=features),
        guide(inputs[0], -inputs[1], inputs[2], features=features),
        guide(*inputs[:2], inputs[2].flip(-1), features=features),
    ):
        assert (other - logits).abs().max() > 1e-3


@torch.no_grad()
def test_scores_leave_in_float32_also_from_half_precision():
    """In bfloat16 a photo's scores would have some fifty distinct values, and ties would choose the click."""
    inputs, _, features = seen(64, 64)
    guide = guide_head("blind")
    whole = guide(*inputs, features=features)
    with torch.autocast("cpu", torch.bfloat16):
        half = guide(*inputs, features=features)
    assert half.dtype == torch.float32
    assert len(half[0].unique()) > 1000
    assert (half - whole).abs().max() <= 0.1 * whole.abs().max()


@torch.no_grad()
def test_an_untrained_guide_prefers_no_pixel():
    inputs, _, features = seen()
    guide = GuideHead("blind", 16, GUIDE).eval()
    assert not guide(*inputs, features=features).any()


def test_an_unknown_variant_is_refused():
    with pytest.raises((ValueError, TypeCheckError), match="deaf"):  # with or without types that are checked
        GuideHead("deaf", 16, GUIDE)  # pyright: ignore[reportArgumentType]: what is tested
