"""Simulated clouds obey their physics, and their labels say exactly what was put there."""

import numpy as np
import pytest
import torch

from kappamask.base.bands import BANDS, NAMES
from kappamask.base.legend import Label
from kappamask.train import simulate as room
from kappamask.train.simulate import (
    CloudField,
    coarsen,
    draw_cloud_field,
    dress_ground,
    fill_bands,
    fractal_noise,
    label_field,
    over,
    render,
    simulate,
    to_top_of_atmosphere,
)

B01, B02, B03, B04, B08, B8A, B09, B10, B11, B12 = (
    NAMES.index(name)
    for name in ("B01", "B02", "B03", "B04", "B08", "B8A", "B09", "B10", "B11", "B12")
)
GROUND = torch.full((13, 8, 8), 0.1)


def make_field(albedo=0.0, shadow=0.0, size=8, **other):
    settings = {"angstrom": 0.0, "swir": (0.8, 0.6), "cirrus": 0.5} | other
    full = torch.full((size, size), 1.0)
    return CloudField(albedo=albedo * full, shadow=shadow * full, **settings)


@pytest.mark.parametrize("level", ["L1C", "L2A"])
def test_albedo_0_changes_nothing_but_the_gain_of_l2a(level):
    seen = render(GROUND, make_field(), np.random.default_rng(0), level=level)
    gain = seen / GROUND
    torch.testing.assert_close(gain, gain[:1, :1, :1].expand_as(gain))
    assert 0.95 <= float(gain[0, 0, 0]) <= 1.25
    if level == "L1C":
        torch.testing.assert_close(seen, GROUND)


def render_at_l2a(ground, **field):
    """Render without the random gain of L2A: bands that the layer leaves alone tell it."""
    surface = torch.full((13, 8, 8), ground)
    seen, alone = (
        render(surface, make_field(**settings), np.random.default_rng(0), level="L2A")
        for settings in (field, {})
    )
    return seen / (alone / surface)


def test_the_thickest_cloud_hides_the_ground():
    thick = {"albedo": 1.0, "swir": (1.0, 1.0), "cirrus": 0.0}
    bright, dark = (render_at_l2a(ground, **thick) for ground in (0.6, 0.05))
    others = [index for index in range(13) if index != B10]
    # Albedo stops at 0.92: (1 - 0.92)^2 of the ground is what remains.
    assert (bright[others] - dark[others]).max() < 0.01
    assert dark[others].min() > 0.9


def test_the_ground_is_seen_through_a_layer_as_the_series_of_reflections_says():
    albedo, ground = 0.4, 0.3
    seen = render_at_l2a(ground, albedo=albedo, swir=(1.0, 1.0))
    # Light that goes down, to and fro n times, and up again, added one by one.
    through = [(1 - albedo) ** 2 * ground * (albedo * ground) ** n for n in range(60)]
    assert float(seen[B04, 0, 0]) == pytest.approx(albedo + sum(through), rel=1e-5)


def test_a_cloud_brightens_and_a_shadow_darkens_every_band():
    rng = np.random.default_rng(0)
    cloud = render(GROUND, make_field(albedo=0.5), rng, level="L1C")
    assert (cloud > GROUND).all()
    shadow = render(GROUND, make_field(shadow=0.5), rng, level="L2A") / 1.25  # its highest gain
    assert (shadow[[B02, B04, B08, B11]] < GROUND[0]).all()
    assert (shadow[B08] < shadow[B02]).all()  # skylight is blue


def test_a_shadow_at_l1c_leaves_the_airs_own_light():
    surface = room.PATH[:, None, None] + GROUND
    black = render(surface, make_field(shadow=1.0), np.random.default_rng(0), level="L1C")
    assert (black[[B02, B08, B11]] < surface[[B02, B08, B11]]).all()
    assert float(black[B02].min()) > 0.6 * float(room.PATH[B02])


def test_haze_is_brighter_in_blue_and_thin_cloud_darker_in_swir():
    rng = np.random.default_rng(0)
    haze = render(GROUND, make_field(albedo=0.1, angstrom=1.2), rng, level="L1C")
    assert (haze[B02] > haze[B08]).all()
    assert (haze[B08] > haze[B11]).all()
    thin = render(GROUND, make_field(albedo=0.2), rng, level="L1C")
    assert (thin[B08] > thin[B11]).all()
    assert (thin[B11] > thin[B12]).all()


def test_b10_is_dark_under_low_cloud_and_bright_under_cirrus():
    toa = to_top_of_atmosphere(GROUND, np.random.default_rng(0))
    assert float(toa[B10].max()) < 0.003
    low, high = (
        render(toa, make_field(albedo=0.2, cirrus=c), np.random.default_rng(1), level="L1C")
        for c in (0.0, 1.0)
    )
    torch.testing.assert_close(low[B10], toa[B10])  # however bright the cloud
    assert (high[B10] - low[B10] > 0.05).all()
    assert (low[B09] < high[B09]).all()  # vapour lies above a low cloud


def test_labels_are_exact_at_their_thresholds():
    def labels(pairs):
        albedo, shadow = (torch.tensor([values]) for values in zip(*pairs, strict=True))
        return label_field(CloudField(albedo, shadow, 0.0, (1.0, 1.0), 0.0))[0].tolist()

    just = 1e-4
    below, above = (
        [
            *((limit + sign * just, 0.0) for limit in (room.CLEAR_TO, room.THIN_FROM)),
            *((limit + sign * just, 0.0) for limit in (room.THIN_TO, room.CLOUD_FROM)),
            *((0.0, limit + sign * just) for limit in (room.LIT_TO, room.SHADOW_FROM)),
        ]
        for sign in (-1, 1)
    )
    doubt = Label.UNDEFINED
    assert labels(below) == [
        Label.CLEAR, doubt, Label.SEMI_TRANSPARENT, doubt, Label.CLEAR, doubt,
    ]  # fmt: skip
    assert labels(above) == [
        doubt, Label.SEMI_TRANSPARENT, doubt, Label.CLOUD, doubt, Label.CLOUD_SHADOW,
    ]  # fmt: skip
    # A cloud over a shadow is a cloud; a veil too thin to name over a shadow is doubt.
    assert labels([(0.5, 0.5), (0.15, 0.5), (0.06, 0.5)]) == [
        Label.CLOUD, Label.SEMI_TRANSPARENT, doubt,
    ]  # fmt: skip


def test_of_two_layers_the_stronger_word_wins():
    words = torch.tensor([[0, 1, 2, 3, 4]], dtype=torch.uint8)
    combined = [over(words[:, i : i + 1].expand(1, 5), words)[0].tolist() for i in range(5)]
    order = [Label.CLEAR, Label.UNDEFINED, Label.CLOUD_SHADOW, Label.SEMI_TRANSPARENT, Label.CLOUD]
    rank = {int(word): place for place, word in enumerate(order)}
    for below in range(5):
        for above in range(5):
            assert combined[below][above] == max(below, above, key=rank.__getitem__)


def test_a_shadow_is_its_cloud_moved_along_one_azimuth():
    for seed in range(8):
        azimuth = 0.7 * seed
        field = draw_cloud_field(256, np.random.default_rng(seed), azimuth=azimuth)
        spectrum = np.fft.fft2(field.shadow) * np.conj(np.fft.fft2(field.albedo))
        lag = np.array(np.unravel_index(np.fft.ifft2(spectrum).real.argmax(), (256, 256)))
        torch.testing.assert_close(torch.roll(field.albedo, tuple(lag), (0, 1)), field.shadow)
        y, x = (lag + 128) % 256 - 128  # clouds are at most 110 px from their shadows
        assert abs(y * np.cos(azimuth) - x * np.sin(azimuth)) < 0.75  # rounding
        assert y * np.sin(azimuth) + x * np.cos(azimuth) > -0.75


def test_coarse_bands_are_the_mean_of_their_own_pixels():
    fine = torch.rand(13, 36, 36)
    scene = coarsen(fine, 10)
    for index, band in enumerate(BANDS):
        size = band.gsd // 10
        blocks = scene[index].reshape(36 // size, size, 36 // size, size)
        mean = fine[index].reshape(36 // size, size, 36 // size, size).mean((1, 3), keepdim=True)
        torch.testing.assert_close(blocks, mean.expand_as(blocks))
    torch.testing.assert_close(coarsen(fine, 60), fine)


def test_only_the_two_bands_that_resemble_others_are_filled_in():
    surface = torch.full((13, 36, 36), torch.nan)
    ten = [NAMES.index(band.name) for band in BANDS if band.gsd < 60]
    surface[ten] = torch.rand(10, 36, 36) * 0.3 + 0.05
    filled = fill_bands(surface, np.random.default_rng(0))
    assert filled[[B01, B09]].isfinite().all()
    assert filled[B10].isnan().all()
    torch.testing.assert_close(filled[ten], coarsen(surface, 10)[ten])
    torch.testing.assert_close(filled[B01].mean(), surface[B02].mean(), rtol=0.5, atol=0.02)
    surface[B12] = torch.nan
    assert fill_bands(surface, np.random.default_rng(0)) is surface


def test_absent_bands_stay_absent_and_l1c_gets_its_cirrus_band():
    rng = np.random.default_rng(0)
    surface = torch.full((13, 64, 64), torch.nan)
    surface[[1, 2, 3, 7]] = 0.1
    toa = to_top_of_atmosphere(dress_ground(surface, rng, level="L2A"), rng)
    scene, label = simulate(toa, rng, level="L1C", resolution=10)
    assert scene.isfinite().flatten(1).any(1).nonzero().flatten().tolist() == [1, 2, 3, 7, B10]
    assert label.shape == (64, 64)
    assert toa[1].mean() > 0.13  # blue sky light


def test_dressing_the_ground_adds_things_but_never_cloud_or_darkness_below_zero():
    ground = torch.full((13, 64, 64), 0.15)
    changed = 0
    for seed in range(20):
        dressed = dress_ground(ground, np.random.default_rng(seed), level="L1C")
        assert float(dressed.min()) > 0
        changed += int(not torch.equal(dressed, ground))
    assert changed > 10


def test_noise_has_unit_variance_and_its_own_scale():
    rng = np.random.default_rng(0)
    fine, coarse = (fractal_noise(128, rng, slope=2.2, outer=outer) for outer in (4, 100))
    assert abs(float(fine.std()) - 1) < 0.01

    def roughness(noise):
        return float((noise[1:] - noise[:-1]).std())

    assert roughness(fine) > 2 * roughness(coarse)
