import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from skimage.color import deltaE_ciede2000, rgb2lab

from evaluator.metrics.color import delta_e, delta_e_2000
from kernels.color import rgb_to_lab

SHARMA = np.array(
    [  # table 1 of Sharma, Wu and Dalal (2005): two colors in CIE Lab and their difference
        (50.0000, 2.6772, -79.7751, 50.0000, 0.0000, -82.7485, 2.0425),
        (50.0000, 3.1571, -77.2803, 50.0000, 0.0000, -82.7485, 2.8615),
        (50.0000, 2.8361, -74.0200, 50.0000, 0.0000, -82.7485, 3.4412),
        (50.0000, -1.3802, -84.2814, 50.0000, 0.0000, -82.7485, 1.0000),
        (50.0000, -1.1848, -84.8006, 50.0000, 0.0000, -82.7485, 1.0000),
        (50.0000, -0.9009, -85.5211, 50.0000, 0.0000, -82.7485, 1.0000),
        (50.0000, 0.0000, 0.0000, 50.0000, -1.0000, 2.0000, 2.3669),
        (50.0000, -1.0000, 2.0000, 50.0000, 0.0000, 0.0000, 2.3669),
        (50.0000, 2.4900, -0.0010, 50.0000, -2.4900, 0.0009, 7.1792),
        (50.0000, 2.4900, -0.0010, 50.0000, -2.4900, 0.0010, 7.1792),
        (50.0000, 2.4900, -0.0010, 50.0000, -2.4900, 0.0011, 7.2195),
        (50.0000, 2.4900, -0.0010, 50.0000, -2.4900, 0.0012, 7.2195),
        (50.0000, -0.0010, 2.4900, 50.0000, 0.0009, -2.4900, 4.8045),
        (50.0000, -0.0010, 2.4900, 50.0000, 0.0010, -2.4900, 4.8045),
        (50.0000, -0.0010, 2.4900, 50.0000, 0.0011, -2.4900, 4.7461),
        (50.0000, 2.5000, 0.0000, 50.0000, 0.0000, -2.5000, 4.3065),
        (50.0000, 2.5000, 0.0000, 73.0000, 25.0000, -18.0000, 27.1492),
        (50.0000, 2.5000, 0.0000, 61.0000, -5.0000, 29.0000, 22.8977),
        (50.0000, 2.5000, 0.0000, 56.0000, -27.0000, -3.0000, 31.9030),
        (50.0000, 2.5000, 0.0000, 58.0000, 24.0000, 15.0000, 19.4535),
        (50.0000, 2.5000, 0.0000, 50.0000, 3.1736, 0.5854, 1.0000),
        (50.0000, 2.5000, 0.0000, 50.0000, 3.2972, 0.0000, 1.0000),
        (50.0000, 2.5000, 0.0000, 50.0000, 1.8634, 0.5757, 1.0000),
        (50.0000, 2.5000, 0.0000, 50.0000, 3.2592, 0.3350, 1.0000),
        (60.2574, -34.0099, 36.2677, 60.4626, -34.1751, 39.4387, 1.2644),
        (63.0109, -31.0961, -5.8663, 62.8187, -29.7946, -4.0864, 1.2630),
        (61.2901, 3.7196, -5.3901, 61.4292, 2.2480, -4.9620, 1.8731),
        (35.0831, -44.1164, 3.7933, 35.0232, -40.0716, 1.5901, 1.8645),
        (22.7233, 20.0904, -46.6940, 23.0331, 14.9730, -42.5619, 2.0373),
        (36.4612, 47.8580, 18.3852, 36.2715, 50.5065, 21.2231, 1.4146),
        (90.8027, -2.0831, 1.4410, 91.1528, -1.6435, 0.0447, 1.4441),
        (90.9257, -0.5406, -0.9208, 88.6381, -0.8985, -0.7239, 1.5381),
        (6.7747, -0.2908, -2.4247, 5.8714, -0.0985, -2.2286, 0.6377),
        (2.0776, 0.0795, -1.1350, 0.9033, -0.0636, -0.5514, 0.9082),
    ]
)


def in_house_scales(lab: np.ndarray, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    """Colors (n, 3) in CIE units as one photo of a single row: lightness (1,1,1,n) and ab (1,2,1,n)."""
    columns = torch.from_numpy(np.asarray(lab)).T[None, :, None]
    return (columns[:, :1] / 100).to(dtype), (columns[:, 1:] / 128).to(dtype)


def differences(first: np.ndarray, second: np.ndarray, dtype: torch.dtype = torch.float64) -> np.ndarray:
    return delta_e_2000(*in_house_scales(first, dtype), *in_house_scales(second, dtype))[0, 0].numpy()


def test_the_authors_test_data_are_met_to_their_last_digit():
    np.testing.assert_allclose(differences(SHARMA[:, :3], SHARMA[:, 3:6]), SHARMA[:, 6], atol=5.1e-5)
    np.testing.assert_allclose(differences(SHARMA[:, 3:6], SHARMA[:, :3]), SHARMA[:, 6], atol=5.1e-5)


def random_colors(count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.column_stack([rng.uniform(0, 100, count), rng.uniform(-110, 110, (count, 2))])


@pytest.mark.parametrize("spread", [0.5, 10.0, 200.0])
def test_random_colors_agree_with_scikit_image(spread):
    first, other = random_colors(5000, 0), random_colors(5000, 1)
    second = first + (other - first) * spread / 200
    expected = deltaE_ciede2000(first, second)
    np.testing.assert_allclose(differences(first, second), expected, atol=1e-9)
    single = np.abs(differences(first, second, torch.float32) - expected)
    assert np.quantile(single, 0.999) < 2e-4


def test_greys_and_black_agree_with_scikit_image():
    first = np.array([[50.0, 0, 0], [50, 0, 0], [0, 0, 0], [0, 0, 0], [100, 0, 0], [30, 1e-9, 0]])
    second = np.array([[50.0, 0, 0], [60, 0, 0], [100, 0, 0], [0, 30, -60], [100, 0, 0], [30, 0, -1e-9]])
    found = differences(first, second)
    np.testing.assert_allclose(found, deltaE_ciede2000(first, second), atol=1e-7)
    assert found[0] == found[4] == 0.0
    assert found[2] == pytest.approx(100.0)


color = st.tuples(st.floats(0, 100), st.floats(-120, 120), st.floats(-120, 120))


@given(color, color)
def test_it_is_a_symmetric_difference(first, second):
    there, back = (
        differences(np.array([first]), np.array([second])),
        differences(np.array([second]), np.array([first])),
    )
    assert there == pytest.approx(back, abs=1e-6)
    assert (there >= 0).all()
    assert differences(np.array([first]), np.array([first])) == pytest.approx(0.0, abs=1e-6)


def test_half_precision_is_compared_in_float32():
    lightness, ab = (x.bfloat16() for x in in_house_scales(random_colors(50, 2)))
    found = delta_e_2000(lightness, ab, lightness, -ab)
    assert found.dtype == torch.float32
    assert torch.equal(found, delta_e_2000(lightness.float(), ab.float(), lightness.float(), -ab.float()))


def test_a_photo_has_the_mean_difference_between_what_is_shown_and_the_original():
    generator = torch.Generator().manual_seed(3)
    truth, shown = (torch.randint(0, 256, (3, 3, 9, 14), dtype=torch.uint8, generator=generator) for _ in "ab")
    found = delta_e(shown, *rgb_to_lab(truth))
    labs = [rgb2lab(rgb.permute(0, 2, 3, 1).double().numpy() / 255) for rgb in (truth, shown)]
    np.testing.assert_allclose(found, deltaE_ciede2000(*labs).mean((1, 2)), atol=1e-3)
    assert delta_e(truth, *rgb_to_lab(truth)).tolist() == [0.0, 0.0, 0.0]
