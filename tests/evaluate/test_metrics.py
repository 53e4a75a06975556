"""Figures, intervals and calibration against counts made one pixel at a time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.ndimage import binary_dilation

from kappamask.base.errors import InputError
from kappamask.base.legend import PREDICTED, Label
from kappamask.evaluate.metrics import (
    METRICS,
    TOP,
    as_figure,
    bootstrap,
    count_pixels,
    count_reliability,
    ece_of,
    figures_of,
    reliability_of,
    table_of,
)
from kappamask.evaluate.scores import confuse
from kappamask.evaluate.scoring import CLOUD, CLOUD_WIDENED, FOUR, SCORINGS, THREE

CODES = arrays.arrays(np.uint8, (3, 7), elements=st.integers(0, 5))


def one_by_one(drawn, said, labels):
    """Counts of one class against the rest over pixels with a class, one pixel at a time."""
    tp = fp = fn = tn = 0
    for a, b in zip(drawn.ravel().tolist(), said.ravel().tolist(), strict=True):
        if a in (1, 2, 3, 4):
            tp += a in labels and b in labels
            fp += a not in labels and b in labels
            fn += a in labels and b not in labels
            tn += a not in labels and b not in labels
    return tp, fp, fn, tn


@settings(max_examples=25)
@given(drawn=CODES, said=CODES)
def test_counts_and_figures_are_those_of_single_pixels(drawn, said):
    for scoring in (FOUR, THREE, CLOUD):
        known = scoring.drawn(drawn).any(0)
        counts = count_pixels(scoring.drawn(drawn), scoring.said(said, resolution=10), known)
        figures = figures_of(counts)
        for row, group in enumerate(scoring.groups):
            tp, fp, fn, tn = one_by_one(drawn, said, group.labels)
            assert counts[row].tolist() == [tp, fp, fn, tn]
            for name, part, whole in (
                ("dice", 2 * tp, 2 * tp + fp + fn),
                ("iou", tp, tp + fp + fn),
                ("precision", tp, tp + fp),
                ("recall", tp, tp + fn),
                ("accuracy", tp + tn, tp + fp + fn + tn),
                ("said", tp + fp, tp + fp + fn + tn),
            ):
                got = figures[name][row]
                assert np.isnan(got) if whole == 0 else got == part / whole


def test_macro_is_a_mean_of_classes_and_micro_pools_their_pixels():
    # clear: 8 of 10 found, 1 too many; shadow: 1 of 2 found; thin was never drawn.
    counts = np.array([[8, 1, 2, 1], [1, 2, 1, 8], [0, 3, 0, 9]])
    table = table_of(counts, np.array([True, True, False]))
    dice = METRICS.index("dice")
    clear, shadow = 16 / 19, 2 / 5
    assert table[:, dice] == pytest.approx([clear, shadow, 0, (clear + shadow) / 2, 18 / 24])
    assert table[-1, METRICS.index("recall")] == pytest.approx(9 / 12)
    assert table[-1, METRICS.index("accuracy")] == pytest.approx(18 / 24)


def test_a_hand_made_confusion():
    drawn = np.array([[1, 1, 1, 2, 4, 4]])
    said = np.array([[1, 1, 4, 2, 0, 4]])
    matrix = confuse(THREE.drawn(drawn)[:, 0], THREE.drawn(said)[:, 0])
    assert matrix.tolist() == [[2, 0, 1, 0], [0, 1, 0, 0], [0, 0, 1, 1]]


def test_labels_and_masks_of_other_sizes_are_refused():
    with pytest.raises(InputError, match="cut the mask to the chip"):
        count_pixels(np.ones((1, 2, 2), bool), np.ones((1, 2, 3), bool), np.ones((2, 2), bool))


def test_the_interval_is_that_of_chips_drawn_one_by_one():
    rng = np.random.default_rng(5)
    counts = rng.integers(1, 50, (12, 1, 4))

    def dice(sums):
        return figures_of(sums)["dice"]

    value, low, high = bootstrap(counts, dice, draws=4000, seed=3)
    again = np.random.default_rng(99)
    drawn = [counts[again.integers(12, size=12)].sum(0) for _ in range(4000)]
    expected = np.quantile([2 * c[0, 0] / (2 * c[0, 0] + c[0, 1] + c[0, 2]) for c in drawn],
                           (0.025, 0.975))  # fmt: skip
    assert (low[0], high[0]) == pytest.approx(expected, abs=0.01)
    assert low[0] < value[0] < high[0]
    same = bootstrap(counts, dice, draws=4000, seed=3)
    assert [end.tolist() for end in same] == [end.tolist() for end in (value, low, high)]


def test_one_chip_has_no_interval_and_an_absent_class_no_figure():
    value, low, high = bootstrap(
        np.array([[[3, 1, 1, 5], [0, 0, 0, 10]]]),
        lambda sums: figures_of(sums)["dice"],
        draws=10,
        seed=0,
    )
    assert as_figure(value[0], low[0], high[0]).low is None
    assert as_figure(value[1], low[1], high[1]).value is None


def test_a_class_of_one_chip_is_left_out_of_draws_without_it():
    counts = np.array([[[5, 0, 0, 5]], [[0, 0, 0, 10]]])
    value, low, high = bootstrap(counts, lambda s: figures_of(s)["dice"], draws=50, seed=1)
    assert (value[0], low[0], high[0]) == (1, 1, 1)


@settings(max_examples=25)
@given(said=arrays.arrays(np.uint8, (12, 15), elements=st.sampled_from([1, 1, 1, 2, 3, 4])))
def test_the_widened_cloud_is_that_of_scipy(said):
    disc = np.hypot(*np.mgrid[-4:5, -4:5]) <= 4
    expected = binary_dilation(np.isin(said, [3, 4]), disc)
    groups = CLOUD_WIDENED.said(said, resolution=10)
    np.testing.assert_array_equal(groups[1], expected)
    np.testing.assert_array_equal(groups[0], ~expected)


def test_at_half_a_pixel_may_be_of_no_class_and_classes_put_together_add_up():
    shares = np.array([0.3, 0.1, 0.25, 0.35], np.float32)[:, None, None]
    assert not FOUR.likely(shares, resolution=10).any()
    assert THREE.likely(shares, resolution=10)[:, 0, 0].tolist() == [False, False, True]
    missing = np.full((4, 1, 1), np.nan)
    assert not any(scoring.likely(missing, resolution=10).any() for scoring in SCORINGS.values())


# --- calibration -----------------------------------------------------------------------------


def test_a_hand_computed_calibration_error():
    # Two bins of ten: .95 sure four times and right three times, .55 sure twice and right once.
    label = np.array([[1, 1, 1, 2, 1, 4]], np.uint8)
    sure = np.array([0.95, 0.95, 0.95, 0.95, 0.55, 0.55])
    shares = np.stack([sure, 1 - sure, 0 * sure, 0 * sure])[:, None]  # (4, 1, 6)
    bins = count_reliability(shares, label, np.ones((1, 6), bool))
    expected = (4 * abs(0.95 - 0.75) + 2 * abs(0.55 - 0.5)) / 6
    assert ece_of(bins[0]) == pytest.approx(expected)
    top, clear, shadow, *_ = reliability_of(bins[None], mask="net", dataset="val", draws=10, seed=0)
    assert (top.of, clear.of, shadow.of) == (TOP, "clear", "cloud_shadow")
    assert top.ece.value == pytest.approx(expected, abs=1e-6)
    assert top.ece.low is None  # one chip
    assert sum(top.pixels) == sum(shadow.pixels) == 6
    # Shadow against the rest: .05 four times, once right; .45 twice, never.
    assert shadow.ece.value == pytest.approx((4 * 0.2 + 2 * 0.45) / 6, abs=1e-6)


def test_probabilities_that_hold_have_no_calibration_error():
    rng = np.random.default_rng(0)
    shares = rng.dirichlet([0.4] * 4, size=40_000).T.reshape(4, 200, 200)
    draw = (rng.random((200, 200)) > shares.cumsum(0)).sum(0).clip(max=3)
    label = np.array(PREDICTED, np.uint8)[draw]
    bins = count_reliability(shares, label, np.ones(label.shape, bool))
    assert (ece_of(bins) < 0.02).all()
    sure = shares.argmax(0)
    always = np.zeros_like(shares)
    np.put_along_axis(always, sure[None], 1.0, axis=0)  # too sure of itself
    assert ece_of(count_reliability(always, label, np.ones(label.shape, bool)))[0] > 0.1


def test_calibration_leaves_out_unknown_and_missing_pixels():
    shares = np.full((4, 1, 3), 0.25)
    shares[:, 0, 2] = np.nan
    label = np.array([[Label.CLEAR, Label.UNDEFINED, Label.CLEAR]], np.uint8)
    known = np.ones((1, 3), bool)
    assert count_reliability(shares, label, known)[0, :, 0].sum() == 1
