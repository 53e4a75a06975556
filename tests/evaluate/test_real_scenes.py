"""Sets without drawn labels, sets that peers quote, the goals: tiny files of their layout."""

import csv
import shutil

import numpy as np
import pytest
from PIL import Image
from support.chip_files import patch, write_patches
from support.labelled_chips import make_chip, write, write_chip, write_chips
from support.safe_products import Recipe, make_dn, write_safe, zip_safe
from support.scripts import load_script

from kappamask.base.bands import NAMES
from kappamask.base.errors import InputError
from kappamask.base.legend import PREDICTED, Label
from kappamask.cli import main
from kappamask.evaluate import Options, evaluate, run
from kappamask.evaluate.goals import find_value, goal_table, read_goals
from kappamask.evaluate.grounds import GROUND, NOT_CLEAR, read_scene
from kappamask.evaluate.metrics import METRICS
from kappamask.evaluate.peers import Answer
from kappamask.evaluate.published_sets import cloudsen12_sets, pixbox_set
from kappamask.evaluate.report import main_tables
from kappamask.evaluate.scores import ARGMAX, MACRO, Results, Score, score_all
from kappamask.evaluate.scoring import BOTH, SCORINGS
from kappamask.evaluate.tables import Lookup
from kappamask.train.chips import SLOT
from kappamask.train.series import CLOUDY

pytestmark = pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
B10 = SLOT["B10"]


class Stripes:
    """A mask that calls the first quarter of the columns cloud, the second shadow."""

    name = title = "stripes"
    says = frozenset(PREDICTED)

    def label(self, chip):
        quarter = np.arange(chip.label.shape[1]) * 4 // chip.label.shape[1]
        codes = np.array([4, 2, 1, 1], np.uint8)[quarter]
        return Answer(np.broadcast_to(codes, chip.label.shape))


def write_scenes(folder):
    """Two pairs, a scene of sea and one of snow; cirrus in the first and the last columns."""
    rows = []
    for path in (
        "pairs/a/clear.tif", "pairs/a/cloudy.tif", f"pairs/{NOT_CLEAR[0]}/clear.tif", GROUND[0][1],
    ):  # fmt: skip
        chip = make_chip(path, bands=NAMES, codes=(1,), level="L1C", size=64)
        chip.dn[B10] = 20
        chip.dn[B10, :, :8] = 300  # cirrus, under what `Stripes` calls cloud
        chip.dn[B10, :, 48:] = {"cloudy.tif": 201}.get(path.split("/")[-1], 120)  # or who knows
        write(folder / path, chip.dn, NAMES)
        rows.append({"path": path, "level": "L1C", "resolution_m": "10 x 7.4 (degrees)"})
    with (folder / "unlabelled.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)


@pytest.fixture
def scenes(tmp_path):
    """Real scenes beside labelled chips."""
    write_chips(tmp_path)
    write_scenes(tmp_path)
    return tmp_path


def sets_of(folder, **options):
    chosen = Options(peers=(), simulated=0, pictures=False, draws=0, **options)
    return {dataset.name: dataset for dataset in run.find_sets(folder, chosen)}


def test_clear_ground_is_unknown_where_b10_sees_anything_and_cirrus_known_where_it_is_sure(scenes):
    sets = sets_of(scenes, splits=("val",))
    ground, pairs, cirrus = (sets[name] for name in ("ground", "clear_pairs", "cirrus"))
    assert [chip.name for chip in pairs.chips] == ["a"]
    assert [chip.name for chip in ground.chips] == ["sea: scenes/hydro_iceland"]
    for chip in (*pairs.chips, *ground.chips):
        assert (chip.label[:, 8:48] == Label.CLEAR).all()
        assert (chip.label[:, :8] == Label.UNDEFINED).all()
        assert (chip.label[:, 48:] == Label.UNDEFINED).all()
    assert [chip.name for chip in cirrus.chips] == [
        "a/clear", "a/cloudy", f"{NOT_CLEAR[0]}/clear", "scenes/hydro_iceland",
    ]  # fmt: skip
    known = [(chip.label > 0).sum(0) > 0 for chip in cirrus.chips]
    assert [int(columns.sum()) for columns in known] == [8, 24, 8, 8]


def test_shares_are_those_of_known_pixels(scenes):
    sets = sets_of(scenes, splits=("val",))
    told = [sets[name] for name in ("clear_pairs", "cirrus")]
    found = Lookup(score_all([Stripes()], told, draws=0, seed=0).scores)
    # Columns 8 to 47 are known; cloud is said up to 15, shadow up to 31.
    for of, share in {"cloud": 8 / 40, "cloud_shadow": 16 / 40, "clear": 16 / 40}.items():
        score = found.get("clear_pairs", "three", "stripes", of, metric="said")
        assert score.value == pytest.approx(share)
    missed = found.get("cirrus", "three", "stripes", "clear", metric="said")
    assert missed.value == pytest.approx(16 / (8 + 24 + 8 + 8))


def test_the_command_tells_goals_shares_and_what_fewer_bands_cost(scenes, tmp_path, capsys):
    arguments = ["--data", str(scenes), "--out", str(tmp_path / "out"), "--split", "test"]
    assert main(["evaluate", *arguments, "--peers", "", "--no-pictures", "--simulated", "0"]) == 0
    said = capsys.readouterr().out
    for line in (
        "**What is asked for**",
        "| B10 above .02 at L1C called clear | ≤ .030 |",
        "| weights, megabytes | ≤ 10.00 | yes |",
        "**Clear members of pairs: false cloud and shadow: share of pixels**",
        "| cloud or thin cloud | sea: scenes/hydro_iceland |",
        "by bands given: share of pixels**",
        "| 4: B02 B03 B04 B08 |",
    ):
        assert line in said


def test_people_who_call_snow_clear_make_a_set_of_it(scenes):
    people = scenes / "people"
    people.mkdir()
    chip = make_chip("l8b_ice", bands=[*NAMES[1:4], "B8A", "B11"], codes=(1, 4), level="L1C")
    chip.dn[[SLOT[name] for name in ("B02", "B03", "B04", "B8A")]] = 6000
    chip.dn[SLOT["B11"]] = np.where(np.arange(64) < 32, 500, 5000)  # half of the clear is snow
    write_chip(people, chip)
    header = "file,split,label_kind,level,resolution_m"
    (people / "people.csv").write_text(f"{header}\nl8b_ice.tif,test,human,L1C,30\n")
    (found,) = sets_of(scenes, splits=("test",))["test_snow"].chips
    expected = np.where((chip.label == 1) & (np.arange(64) < 32), 1, 0)
    np.testing.assert_array_equal(found.label, expected)


def test_landscapes_are_drawn_as_small_sheets(scenes, tmp_path, monkeypatch):
    script = load_script("scripts/draw_labels.py")
    for path in ("series/oetztal_snow/2018-01-12.tif", "series/lazio_p0/2018-05-06.tif"):
        (scenes / path).parent.mkdir(parents=True)
        shutil.copy(scenes / "pairs" / "a" / "clear.tif", scenes / path)
        with (scenes / "unlabelled.csv").open("a") as table:
            table.write(f"{path},L1C,10\n")
    shutil.rmtree(scenes / "pairs" / NOT_CLEAR[0])
    monkeypatch.setattr(script, "read_germany", lambda: read_scene(scenes / GROUND[0][1]))
    known = {"a_cloudy": read_scene(scenes / "pairs" / "a" / "cloudy.tif")}
    script.draw_landscapes(scenes, known, script.network_of(None), tmp_path)
    shapes = {}
    for path in tmp_path.glob("*.jpg"):
        with Image.open(path) as picture:
            shapes[path.stem] = picture.size
    tile = script.SMALL + 2
    assert shapes["pairs"] == (5 * tile, script.SMALL + 4)
    assert shapes["scenes"] == (3 * tile, script.SMALL + 4)
    assert shapes["series"] == (5 * tile, script.SMALL + 4)
    assert shapes["snow"] == (3 * tile, script.SMALL + 4)
    assert set(shapes) == {"pairs", "scenes", "series", "snow", "germany"}


# --- goals --------------------------------------------------------------------------------------


def results_of(*scores):
    made = [
        Score(dataset, scoring, mask, ARGMAX, of, metric, value, None, None, 1, 1)
        for dataset, scoring, mask, of, metric, value in scores
    ]
    return Results(tuple(made), (), (), ())


def test_goals_are_reached_or_not_and_say_what_other_masks_have():
    results = results_of(
        ("test_l8b", "four", "net", "cloud_shadow", "dice", 0.6),
        ("test_l8b", "four", "ukis", "cloud_shadow", "dice", 0.287),
        ("cirrus", "three", "net", "clear", "said", 0.031),
        ("bright/S2_L2A_1", "four", "net", "clear", "said", 0.999),
        ("bright/S2_L2A_2", "four", "net", "clear", "said", 0.9),
        ("bright/another", "four", "net", "clear", "said", 0.1),
        ("clear_pairs/a", "four", "net", "clear", "said", 1.0),
        ("clear_pairs/b", "four", "net", "clear", "said", 0.98),
    )
    cut = results_of(("ground_bands", "three", "4: B02", "cloud_shadow", "said", 0.25))
    table = goal_table(results, ["net", "ukis", "absent"], {"bf16_agrees": 0.9981}, cut)
    assert table.head == ("of", "asked", "reached", "net", "ukis")
    assert {row[0]: row[1:] for row in table.rows} == {
        "L8 Biome, people: cloud shadow": ("≥ .600", "yes", ".600", ".287"),
        "Bolzano, clear dates: clear, worst date": ("≥ .995", "NO", ".900", "-"),
        "B10 above .02 at L1C called clear": ("≤ .030", "NO", ".031", "-"),
        "clear members of pairs: clear, mean (false cloud and shadow: the rest)": (
            "≥ .985", "yes", ".990", "-",
        ),
        "the same with B02 B03 B04 B08 alone: false shadow": ("-", "-", ".250", "-"),
        "labels that bf16 and fp32 share, simulated scenes": ("≥ .998", "yes", ".998", "-"),
    }  # fmt: skip


def test_goals_name_figures_that_there_are():
    for goal in read_goals():
        if "figure" in goal:
            _, scoring, of = goal["figure"]
            assert of in (*SCORINGS[scoring].scored, MACRO)
            assert goal.get("metric", "dice") in METRICS
            assert not {"least", "most"} <= set(goal)
            assert find_value(results_of(), goal, "net") is None


# --- what peers quote ---------------------------------------------------------------------------


def test_cloudsen12_is_read_patch_by_patch_for_every_mask(tmp_path):
    write_patches(tmp_path)
    write_patches(tmp_path, name="S2L2A.tif")
    l1c, l2a = cloudsen12_sets(tmp_path, "test")
    assert (l1c.name, l2a.name, len(l1c.chips)) == (
        "test_cloudsen12_l1c", "test_cloudsen12_l2a", 1,
    )  # fmt: skip
    dn, codes = patch()
    np.testing.assert_array_equal(l1c.chips[0].dn, dn)
    assert l1c.chips[0] is not l1c.chips[0]  # nothing is kept
    results = score_all([Stripes()], [l1c], draws=0, seed=0)
    found = Lookup(results.scores)
    known = np.isin(codes[:-1, :-1], (0, 1, 2, 3))  # padding is unknown
    said = Stripes().label(l1c.chips[0]).codes[:-1, :-1]
    clear, called = (codes[:-1, :-1] == 0)[known], (said == 1)[known]
    dice = 2 * (clear & called).sum() / (clear.sum() + called.sum())
    assert found.get("test_cloudsen12_l1c", "four", "stripes", "clear").value == pytest.approx(dice)
    assert found.get("test_cloudsen12_l1c", "valid", "stripes", "hidden") is not None
    table = next(tmp_path.glob("*.csv"))
    table.write_text(table.read_text().replace(",2\r\n", ",1\r\n").replace(",2\n", ",1\n"))
    with pytest.raises(InputError, match="patches of the split test, got none in"):
        list(cloudsen12_sets(tmp_path, "test"))


POINTS = (  # column, row, of cloud, of shadow, what it means
    (230, 5, 1, 0, Label.CLEAR),
    (231, 5, 7, 1, Label.CLEAR),  # in shadow of the ground
    (100, 90, 2, 0, Label.CLOUD),
    (101, 90, 10, 4, Label.SEMI_TRANSPARENT),
    (102, 90, 12, 0, CLOUDY),
    (150, 91, 0, 3, Label.CLOUD_SHADOW),
    (151, 91, 9, 3, BOTH),
)


def write_pixbox(folder, product, *, zipped=False, delimiter=","):
    """Write a table of points of two products, one of which is not there."""
    inner = folder / "PixBox-S2-CMIX"
    inner.mkdir()
    stem = "pixbox_sentinel2_cmix_20180425"
    columns = ["PRODUCT_ID", "PIXEL_X", "PIXEL_Y", "SHADOW_ID", "CLOUD_CHARACTERISTICS_ID"]
    with (inner / f"{stem}.csv").open("w", newline="") as file:
        table = csv.writer(file, delimiter=delimiter)
        table.writerow(["ID", *columns, "LATITUDE"])
        for x, y, cloud, shadow, _ in POINTS:
            table.writerow([1, 5472572, x, y, shadow, cloud, 50.5])
        table.writerow([1, 872013732, 5, 5, 0, 1, 50.5])
    absent = "S2A_MSIL1C_20180223T092031_N0206_R093_T36VUM_20180223T113049"
    lines = ["Products", f"872013732  {absent}.SAFE", f"5472572  {product.name}", "SHADOW_ID 3"]
    (inner / f"{stem}_definitions.txt").write_text("\n".join(lines))
    if zipped:
        zip_safe(product)


@pytest.mark.parametrize("zipped", [False, True])
def test_pixbox_points_lie_on_the_pixels_of_their_products(tmp_path, zipped):
    recipe = Recipe()
    product = write_safe(tmp_path / "Sentinel-2_L1C", recipe)
    write_pixbox(tmp_path, product, delimiter=";" if zipped else ",")
    dataset = pixbox_set(tmp_path)
    assert "1 products are not there" in dataset.labels
    (chip,) = dataset.chips
    expected = np.zeros(recipe.shape, np.uint8)
    for x, y, *_, code in POINTS:
        expected[y, x] = code
    np.testing.assert_array_equal(chip.label, expected)
    np.testing.assert_array_equal(chip.dn[SLOT["B04"]], make_dn(recipe, "32UPV", "B04", 10))
    found = Lookup(score_all([Stripes()], [dataset], draws=0, seed=0).scores)
    # Of 240 columns cloud is said below 60 and shadow below 120: of three points of cloud.
    balanced = {
        "cloud": (0 / 4 + 3 / 3) / 2,
        "cloud_shadow": (0 / 2 + 2 / 5) / 2,
        "clear": (2 / 2 + 3 / 5) / 2,
    }
    for of, value in balanced.items():
        score = found.get("pixbox", "points", "stripes", of, metric="balanced")
        assert score.value == pytest.approx(value), of


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda table: table.unlink(), "got no table"),
        (lambda table: table.write_text("PRODUCT_ID,PIXEL_X\n1,2\n"), "is it that of Landsat 8"),
        (lambda table: next(table.parent.glob("*.txt")).unlink(), "names? which product|say which"),
        (
            lambda table: table.write_text(table.read_text().replace(",3,0,", ",3,77,")),
            "got 77",
        ),
    ],
)
def test_what_pixbox_lacks_is_named(tmp_path, spoil, message):
    write_pixbox(tmp_path, tmp_path / f"{Recipe().name}.SAFE")
    spoil(next(tmp_path.rglob("pixbox*.csv")))
    with pytest.raises(InputError, match=message):
        pixbox_set(tmp_path)


def test_published_sets_stand_in_the_report(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    write_chips(data)
    (tmp_path / "patches").mkdir()
    write_patches(tmp_path / "patches")
    (tmp_path / "pixbox").mkdir()
    write_pixbox(tmp_path / "pixbox", write_safe(tmp_path / "pixbox"))
    options = Options(
        peers=(), splits=("test",), simulated=0, pictures=False, draws=0,
        cloudsen12=tmp_path / "patches", pixbox=tmp_path / "pixbox",
    )  # fmt: skip
    titles = [table.title for table in main_tables(evaluate(data, options))]
    assert any(title.startswith("CloudSEN12 test, L1C: dice (clear, cloud") for title in titles)
    assert any(title.startswith("PixBox-S2-CMIX: balanced accuracy: balanced") for title in titles)
