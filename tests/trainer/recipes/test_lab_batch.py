"""From uint8 to the networks' inputs: flips, keys, random clicks."""

import torch
from scipy import stats

from kernels.clicks import hint_colors
from kernels.color import rgb_to_lab
from kernels.noise import sample_keys
from trainer.recipes.lab_batch import prepare_scene, random_clicks


def photos(count: int, size: int = 8) -> torch.Tensor:
    return torch.randint(
        0, 256, (count, 3, size, size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )


def test_half_of_the_photos_are_flipped_and_lab_is_that_of_the_flipped_photo():
    rgb = photos(400)
    scene = prepare_scene(rgb, sample_keys(0, 0, 400))
    as_is = (scene.rgb == rgb).flatten(1).all(1)
    mirrored = (scene.rgb == rgb.flip(-1)).flatten(1).all(1)
    assert (as_is ^ mirrored).all()
    assert stats.binomtest(int(as_is.sum()), 400).pvalue > 1e-3
    lightness, ab = rgb_to_lab(scene.rgb)
    assert torch.equal(scene.lightness, lightness)
    assert torch.equal(scene.truth_ab, ab)


def test_a_photos_scene_depends_on_its_place_in_the_stream_alone():
    rgb = photos(6)
    whole = prepare_scene(rgb, sample_keys(3, 50, 6))
    part = prepare_scene(rgb[2:4], sample_keys(3, 52, 2))
    assert torch.equal(whole.rgb[2:4], part.rgb)
    assert torch.equal(random_clicks(whole, 5, (1, 1))[2:4], random_clicks(part, 5, (1, 1)))


def test_random_clicks_are_uniform_in_number_and_place_and_true_in_color():
    scene = prepare_scene(photos(3000, 16), sample_keys(0, 0, 3000))
    clicks = random_clicks(scene, 4, (1, 1))
    mask = clicks[:, 0].bool()
    counts = mask.flatten(1).sum(1)
    assert counts.max() == 4
    # Two of four clicks share a pixel in some 2 % of photos, so the counts are near, not exactly, uniform.
    assert ((counts.bincount(minlength=5) / 3000 - 0.2).abs() < 0.03).all()
    places = mask.float().sum(0).flatten()
    assert stats.chisquare(places.numpy()).pvalue > 1e-3
    expected = scene.truth_ab * mask[:, None]
    assert torch.equal(clicks[:, 1:], expected)


def test_no_random_clicks_leave_an_empty_map():
    scene = prepare_scene(photos(4), sample_keys(0, 0, 4))
    assert not random_clicks(scene, 0, (3, 3)).any()


def test_random_clicks_have_the_hint_size():
    scene = prepare_scene(photos(64, 16), sample_keys(0, 0, 64))
    clicks = random_clicks(scene, 1, (3, 3))
    one = clicks[:, 0].flatten(1).sum(1)
    assert set(one.int().tolist()) <= {0, 4, 6, 9}  # 4 and 6 at corners and edges
    inner = (one == 9).nonzero()[0, 0]
    row, col = (clicks[inner, 0] > 0).nonzero()[4].tolist()
    assert torch.allclose(clicks[inner, 1:, row, col], hint_colors(scene.truth_ab, 3)[inner, :, row, col])


def test_each_random_click_draws_its_own_hint_size():
    scene = prepare_scene(photos(3000, 16), sample_keys(0, 0, 3000))
    clicked = random_clicks(scene, 1, (1, 2))[:, 0].flatten(1).sum(1)
    singles, squares = (clicked == 1).sum().item(), (clicked == 4).sum().item()
    # Stamps of 2 x 2 are cut at the border in 31 of 256 places; half of all photos have a click.
    assert abs(singles - 750) < 150
    assert abs(squares - 750 * 225 / 256) < 150
