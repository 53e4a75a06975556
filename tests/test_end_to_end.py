"""The path a user takes, over HTTP: a real STAC API and range requests on localhost."""

import json
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import rasterio
import requests
from shapely import box
from support import bolzano

from kappamask.base.windows import LATTICE
from kappamask.cli import main
from kappamask.predict.array import predict_array

pytestmark = [pytest.mark.shared, pytest.mark.slow]


@pytest.fixture(scope="module")
def stac_api(shared_data, tmp_path_factory):
    """stac-fastapi.static over the dates of Bolzano; gives its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    scenes = shared_data / "bolzano"
    catalog = bolzano.write_catalog(
        tmp_path_factory.mktemp("catalog"),
        scenes,
        href=lambda path: f"{url}/pixels/{path.relative_to(scenes).as_posix()}",
    )
    server = Path(__file__).parent / "support" / "serve_stac.py"
    command = [sys.executable, "-W", "ignore", server, catalog, str(port), scenes]
    log = tmp_path_factory.mktemp("log") / "server.log"
    with (
        log.open("w") as output,
        subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT) as process,
    ):
        for _ in range(150):
            try:
                if requests.get(url, timeout=5).ok:
                    break
            except requests.ConnectionError:
                assert process.poll() is None, log.read_text()
                time.sleep(0.2)
        else:
            pytest.fail(f"the STAC API did not start:\n{log.read_text()}")
        yield url
        process.terminate()


def test_the_server_answers_range_requests(stac_api):
    pixels = f"{stac_api}/pixels/S2_L2A_20220602/B02.tif"
    answer = requests.get(pixels, headers={"Range": "bytes=0-15"}, timeout=10)
    assert (answer.status_code, len(answer.content)) == (206, 16)


@pytest.fixture(scope="module")
def masks(stac_api, tmp_path_factory):
    """`kappamask mask` on that API, run once for each of two spans of dates."""
    out = tmp_path_factory.mktemp("masks")
    bbox = ",".join(map(str, bolzano.BBOX))
    for dates in ("2022-06-01/2022-06-07", "2022-06-20/2022-06-22"):
        command = ["mask", "--catalog", stac_api, "--bbox", bbox, "--date", dates, "--out"]
        assert main([*command, str(out)]) == 0
    return out


def test_mask_labels_all_dates_that_were_asked_for(masks):
    days = ["02", "05", "07", "20", "22"]  # of the twelve that the API holds
    assert len(list(masks.glob("*.tif"))) == len(list(masks.glob("*.png"))) == len(days)
    items = [json.loads(path.read_text()) for path in sorted(masks.glob("*.json"))]
    assert [item["properties"]["datetime"][8:10] for item in items] == days


def test_masks_equal_predict_array_on_pixels_read_by_rasterio(masks, shared_data):
    """Invariants 2 and 3: the offset is taken off once, and both doors agree bit for bit."""
    (mask,) = masks.glob("*20220602*.tif")
    with rasterio.open(mask) as source:
        labels, inner = source.read(1), source.bounds
    margin = LATTICE.margin
    # the network sees as many pixels around the area, as far as the files reach
    bounds = box(*inner).buffer(10 * margin, join_style="mitre").bounds
    layers = []
    for band in bolzano.BANDS:
        with rasterio.open(shared_data / "bolzano/S2_L2A_20220602" / f"{band}.tif") as source:
            window = source.window(*bounds)
            dn = source.read(1, window=window, boundless=True, fill_value=0)
        layers.append(np.where(dn == 0, np.nan, (dn.astype(np.float32) - 1000) * np.float32(1e-4)))
    origin = (round(-bounds[3] / 10), round(bounds[0] / 10))
    around = predict_array(np.stack(layers), bolzano.BANDS, level="L2A", origin=origin)
    expected = around[margin:-margin, margin:-margin]
    np.testing.assert_array_equal(labels, expected)


def test_clouds_and_shadows_that_one_sees_are_labelled(masks):
    """Cloud of all kinds on 06-02; overcast on 06-07 and 06-22; clear on 06-20 (not trained on)."""

    def shares(day):
        (path,) = masks.glob(f"*202206{day}*.tif")
        with rasterio.open(path) as source:
            counts = np.bincount(source.read(1).ravel(), minlength=6)
        return counts[:5] / counts[1:5].sum()

    assert shares("02")[4] > 0.15
    assert shares("02")[3:].sum() > 0.38
    assert shares("02")[2] > 0.04
    assert shares("07")[4] > 0.98
    assert shares("22")[4] > 0.98
    assert shares("20")[1] >= 0.97


def test_search_lists_the_items(stac_api, capsys):
    bbox = ",".join(map(str, bolzano.BBOX))
    command = ["search", "--catalog", stac_api, "--bbox", bbox, "--date", "2022-06-10/2022-06-20"]
    assert main(command) == 0
    assert len(capsys.readouterr().out.splitlines()) == 5
