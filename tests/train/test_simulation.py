"""Simulated clouds obey their physics, and their labels say exactly what was put there."""

import numpy as np
import pytest
import torch
from support.chip_files import write_raster

from kappamask.base.bands import BANDS, NAMES
from kappamask.base.errors import InputError, ReadError
from kappamask.base.legend import Label
from kappamask.train import simulate as room
from kappamask.train.air import coarsen, fill_bands, to_top_of_atmosphere
from kappamask.train.ground import DETAILS, SPECTRA, WHOLE_SCENES, dress_ground, lift
from kappamask.train.noise import fractal_noise, waves
from kappamask.train.outlines import Outline, cut_outline, read_outlines
from kappamask.train.simulate import (
    FAINT,
    CloudField,
    draw_cloud_field,
    label_field,
    over,
    put_clouds,
    render,
    simulate,
)

pytestmark = pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
B01, B02, B03, B04, B08, B8A, B09, B10, B11, B12 = (
    NAMES.index(name)
    for name in ("B01", "B02", "B03", "B04", "B08", "B8A", "B09", "B10", "B11", "B12")
)
OTHERS = [index for index in range(13) if index != B10]  # bands that see the ground
GROUND = torch.full((13, 8, 8), 0.1)


def make_field(albedo=0.0, shadow=0.0, size=8, **other):
    settings = {"angstrom": 0.0, "swir": (0.8, 0.6), "vapour": 0.5} | other
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
    thick = {"albedo": 1.0, "swir": (1.0, 1.0), "vapour": 2.0}
    bright, dark = (render_at_l2a(ground, **thick) for ground in (0.6, 0.05))
    # Albedo stops at 0.92: (1 - 0.92)^2 of the ground is what remains.
    assert (bright[OTHERS] - dark[OTHERS]).max() < 0.01
    assert dark[OTHERS].min() > 0.9


def test_the_ground_is_seen_through_a_layer_as_the_series_of_reflections_says():
    albedo, ground = 0.4, 0.3
    seen = render_at_l2a(ground, albedo=albedo, swir=(1.0, 1.0))
    # Light that goes down, to and fro n times, and up again, added one by one.
    through = [(1 - albedo) ** 2 * ground * (albedo * ground) ** n for n in range(60)]
    assert float(seen[B04, 0, 0]) == pytest.approx(albedo + sum(through), rel=1e-5)


def test_a_cloud_brightens_and_a_shadow_darkens_every_band():
    rng = np.random.default_rng(0)
    cloud = render(GROUND, make_field(albedo=0.5), rng, level="L1C")
    assert (cloud > GROUND)[OTHERS].all()
    shadow = render(GROUND, make_field(shadow=0.5), rng, level="L2A") / 1.25  # its highest gain
    assert (shadow[[B02, B04, B08, B11]] < GROUND[0]).all()
    assert (shadow[B08] < shadow[B02]).all()  # skylight is blue


def test_a_shadow_at_l1c_leaves_the_airs_own_light():
    surface = room.PATH[:, None, None] + GROUND
    black = render(surface, make_field(shadow=1.0), np.random.default_rng(0), level="L1C")
    assert (black[[B02, B08, B11]] < surface[[B02, B08, B11]]).all()
    assert float(black[B02].min()) > 0.6 * float(room.PATH[B02])


def test_haze_is_brighter_in_blue_and_a_thick_cloud_is_darker_in_swir():
    rng = np.random.default_rng(0)
    haze = render(GROUND, make_field(albedo=0.1, angstrom=1.2), rng, level="L1C")
    assert (haze[B02] > haze[B08]).all()
    assert (haze[B08] > haze[B11]).all()
    thick = render(GROUND, make_field(albedo=0.6), rng, level="L1C")
    assert (thick[B08] > thick[B11]).all()
    assert (thick[B11] > thick[B12]).all()
    # The loss is that of a way through the cloud: a third of the cloud has its third power.
    seen = render_at_l2a(1e-6, albedo=0.2, swir=(0.64, 0.4))
    assert float(seen[B11, 0, 0]) == pytest.approx(0.2 * 0.64 ** (1 / 3), rel=1e-4)


@pytest.mark.parametrize(("albedo", "vapour"), [(0.3, 0.1), (0.3, 0.5), (0.6, 0.25), (0.6, 2.0)])
def test_one_number_of_vapour_darkens_b09_and_b10_by_the_law_of_real_clouds(albedo, vapour):
    black = torch.zeros(13, 8, 8)
    field = make_field(albedo=albedo, vapour=vapour)
    seen = render(black, field, np.random.default_rng(0), level="L1C")
    clear = render(black, make_field(vapour=vapour), np.random.default_rng(0), level="L1C")
    added = seen[:, 0, 0] - clear[:, 0, 0]
    assert float(seen[B09, 0, 0]) == pytest.approx(albedo * np.exp(-vapour), rel=0.05)
    assert float(added[B10]) == pytest.approx(0.8 * albedo * np.exp(-5.3 * vapour), rel=1e-4)


# B09 / B8A and B10 / B02 of tops of real clouds: thick pixels of the pairs and of lazio_p0.
TOPS = ((0.12, 0.004), (0.25, 0.004), (0.46, 0.017), (0.55, 0.023), (0.65, 0.08), (0.78, 0.3))


def test_the_law_of_vapour_is_that_of_real_clouds():
    for b09, b10 in TOPS:
        made = 0.8 * np.exp(room.VAPOUR_IN_B10 * np.log(b09)) + 0.003  # what clear ground shows
        assert 0.45 < made / b10 < 2.2


def test_b10_of_clear_ground_is_nearly_dark():
    for seed in range(20):
        toa = to_top_of_atmosphere(GROUND, np.random.default_rng(seed))
        assert 0.0004 < float(toa[B10].min()) < float(toa[B10].max()) < 0.006


def test_hazy_air_flattens_contrast_and_keeps_the_mean_of_what_it_lets_through():
    striped = GROUND.clone()
    striped[:, :4] = 0.3
    for seed in range(10):
        grounds = (striped, torch.full_like(striped, 0.2))
        toa, even = (to_top_of_atmosphere(x, np.random.default_rng(seed))[B04] for x in grounds)
        assert float(toa.mean()) == pytest.approx(float(even.mean()), abs=1e-4)
        assert 0.2 * 0.5 < float(toa.max() - toa.min()) < 0.2


def test_cirrus_too_faint_to_be_seen_is_named_where_b10_shows_it_and_only_there():
    seen = dict.fromkeys((int(Label.CLEAR), int(Label.SEMI_TRANSPARENT), FAINT), 0)
    for seed in range(60):
        rng = np.random.default_rng(seed)
        ground = to_top_of_atmosphere(torch.full((13, 64, 64), 0.1), rng)
        scene, label = put_clouds(ground, rng, level="L1C", resolution=60)
        shown = scene[B10] - ground[B10]
        for code in seen:
            seen[code] += int((label == code).sum())
        clear, faint = shown[label == Label.CLEAR], shown[label == FAINT]
        assert not clear.numel() or float(clear.max()) <= room.CIRRUS_FREE_TO
        assert not faint.numel() or float(faint.min()) > room.CIRRUS_FROM
        assert not faint.numel() or float(faint.max()) <= room.SEEN_WITHOUT
        strong = label[shown > room.SEEN_WITHOUT]
        assert set(strong.tolist()) <= {Label.SEMI_TRANSPARENT, Label.CLOUD, Label.UNDEFINED}
    assert all(seen.values())
    _, label = simulate(ground, rng, level="L1C", resolution=60)
    assert int(label.max()) <= Label.CLOUD


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


def test_ice_that_b10_sees_is_no_cirrus(monkeypatch):
    empty = make_field(size=64, vapour=0.0)
    monkeypatch.setattr(room, "draw_cloud_field", lambda *_, **__: empty)
    ice = torch.full((13, 64, 64), 0.8)
    ice[B10] = 0.002
    ice[B10, 5:40, 7:33] = 0.15  # its border lies inside pixels of 60 m
    _, label = put_clouds(ice, np.random.default_rng(0), level="L1C", resolution=10)
    assert (label == Label.CLEAR).all()


def test_dressing_the_ground_adds_things_but_never_cloud_or_darkness_below_zero():
    ground = torch.full((13, 64, 64), 0.15)
    changed = 0
    for seed in range(20):
        dressed = dress_ground(ground, np.random.default_rng(seed), level="L1C")
        assert float(dressed.min()) > 0
        changed += int(not torch.equal(dressed, ground))
    assert changed > 10


@pytest.mark.parametrize("level", ["L1C", "L2A"])
@pytest.mark.parametrize("put", [put for _, put in WHOLE_SCENES + DETAILS])
def test_each_kind_of_ground_is_finite_and_keeps_absent_bands_absent(put, level):
    ground = torch.full((13, 64, 64), 0.15)
    ground[B10] = 0.002
    ground[B12] = torch.nan
    for seed in range(6):
        dressed = put(ground, np.random.default_rng(seed), level)
        assert dressed[B12].isnan().all()
        assert dressed[OTHERS[:-1]].isfinite().all()
        assert float(dressed[OTHERS[:-1]].min()) > 0
        if put.__name__ != "put_snow":  # high ice shows in B10
            torch.testing.assert_close(dressed[B10], ground[B10])


def test_snow_is_dark_at_1_6_um_and_salt_and_sand_are_not():
    def index(name):
        spectrum = SPECTRA[name].flatten()
        return float((spectrum[B03] - spectrum[B11]) / (spectrum[B03] + spectrum[B11]))

    assert min(index(name) for name in ("snow", "ice")) > 0.4  # the index that tells snow
    dry = ("salt", "red sand", "white sand", "white roof", "concrete")
    assert max(index(name) for name in dry) < 0.4


def test_high_snow_loses_to_vapour_what_clouds_above_as_much_vapour_lose():
    snow, whole = SPECTRA["snow"], torch.ones(8, 8)
    ground = torch.full((13, 8, 8), 0.15)
    ground[B10] = 0
    shown = []
    for seed in range(8):
        high = lift(ground.clone(), whole, snow, np.random.default_rng(seed))
        vapour = -np.log(float((high[B09] - room.PATH[B09]).mean() / snow[B09]))
        shown.append(float(high[B10].mean()))
        assert shown[-1] == pytest.approx(float(snow[B8A]) * np.exp(-5.3 * vapour), rel=1e-4)
        assert float(high[B02].max()) <= 0.15  # less air, no more light
    assert min(shown) < 0.05
    assert max(shown) > 0.1


def test_waves_have_the_length_that_was_asked_for():
    swell = waves(256, np.random.default_rng(3), length=(16, 16))
    power = np.abs(np.fft.fft2(swell)) ** 2
    fy, fx = np.unravel_index(power.argmax(), power.shape)
    frequency = np.hypot((fy + 128) % 256 - 128, (fx + 128) % 256 - 128) / 256
    assert 1 / frequency == pytest.approx(16, rel=0.15)
    assert float(swell.abs().max()) <= 1


# --- outlines --------------------------------------------------------------------------------


def test_outlines_are_read_with_the_distance_of_their_shadows(tmp_path):
    mask = np.full((1, 256, 256), Label.CLEAR, np.uint8)
    mask[:, 124:164, 122:162] = Label.CLOUD_SHADOW
    mask[:, 100:140, 90:130] = Label.CLOUD
    write_raster(tmp_path / "a" / "drawn.tif", mask)
    write_raster(tmp_path / "clear.tif", np.full_like(mask, Label.CLEAR))
    (outline,) = read_outlines(tmp_path)
    assert outline.cloud.sum() == 1600
    assert outline.distance == pytest.approx(np.hypot(24, 32), abs=4)
    with pytest.raises(InputError, match="outlines"):
        read_outlines(tmp_path / "none")
    (tmp_path / "torn.tif").write_bytes(b"II*")
    with pytest.raises(ReadError, match="torn"):
        read_outlines(tmp_path)


@pytest.mark.parametrize("distance", [None, 20.0])
def test_a_cut_outline_keeps_depth_inside_and_its_shadow_in_one_direction(distance):
    cloud = np.zeros((200, 200), bool)
    cloud[60:140, 70:130] = True
    azimuth = 0.6
    direction = np.array([np.sin(azimuth), np.cos(azimuth)])
    for seed in range(5):
        deep, behind = cut_outline(
            Outline(cloud, distance), np.random.default_rng(seed), size=128,
            direction=direction, distance=30,
        )  # fmt: skip
        assert deep.shape == behind.shape == (128, 128)
        assert 0 <= float(deep.min()) < float(deep.max()) <= 1
        # What stands before the sun is the same field, moved: in pixels, or as it was enlarged.
        reaches = [30.0] if distance is None else distance * np.arange(0.7, 2.5, 0.005)
        shifts = {tuple(np.rint(direction * reach).astype(int)) for reach in reaches}
        assert any(torch.equal(behind[y:, x:], deep[:-y, :-x]) for y, x in shifts)


def test_clouds_take_outlines_where_there_are_any():
    cloud = np.zeros((400, 400), bool)
    cloud[:, ::80] = True
    cloud[:, 1::80] = True
    drawn = [
        draw_cloud_field(64, np.random.default_rng(seed), azimuth=0.0, outlines=outlines)
        for outlines in ((), [Outline(cloud, None)])
        for seed in range(30)
    ]
    same = [
        torch.equal(noise.albedo, outlined.albedo)
        for noise, outlined in zip(drawn[:30], drawn[30:], strict=True)
    ]
    assert 0 < sum(same) < 30


def test_noise_has_unit_variance_and_its_own_scale():
    rng = np.random.default_rng(0)
    fine, coarse = (fractal_noise(128, rng, slope=2.2, outer=outer) for outer in (4, 100))
    assert abs(float(fine.std()) - 1) < 0.01

    def roughness(noise):
        return float((noise[1:] - noise[:-1]).std())

    assert roughness(fine) > 2 * roughness(coarse)
