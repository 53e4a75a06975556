"""Web pages of other origins ask the server in a real browser: the openEO Web Editor, and a thief.

The editor with its own client library. Skipped without a browser or the library (`make npm`).
"""

import http.server
import json
import os
import queue
import shutil
import subprocess
import threading
from functools import partial
from pathlib import Path

import numpy as np
import openeo
import pytest
import rasterio
from PIL import Image
from support import synthetic
from support.fake_engine import process
from support.openeo_server import fake_server, serving
from support.process_graphs import load

from kappamask.base.legend import LEGEND, Label
from kappamask.openeo.graphs import cloud_labels
from kappamask.openeo.server.settings import Settings

LIBRARIES = Path(__file__).parents[1] / "support" / "processgraphs" / "node_modules"
SCRIPTS = ("axios/dist/axios.min.js", "@openeo/js-client/openeo.min.js")
BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
EDITOR = os.environ.get("OPENEO_WEB_EDITOR")
TOKEN = "0123456789abcdef-the-token"  # noqa: S105  of a server that lives for seconds
PAGE = """<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,">
<script src="/axios/dist/axios.min.js"></script>
<script src="/@openeo/js-client/openeo.min.js"></script>
<script>
const given = GIVEN;
const tell = told => fetch("/told", {method: "POST", body: JSON.stringify(told)});
async function ask() {
  const connection = await OpenEO.connect(given.url);
  if (given.token) await connection.authenticateBasic("anybody", given.token);
  const job = await connection.createJob({process_graph: given.graph}, "from a page");
  await job.startJob();
  do {
    await new Promise(resolve => setTimeout(resolve, 200));
    await job.describeJob();
  } while (["created", "queued", "running"].includes(job.status));
  const results = await job.getResultsAsStac();
  const {href} = Object.values(results.assets)[0];
  const answer = await fetch(href);
  const picture = new Image();
  picture.src = href;
  await picture.decode();
  document.body.append(picture);
  return {job: job.status, fetched: answer.status, type: answer.headers.get("content-type"),
          size: [picture.naturalWidth, picture.naturalHeight]};
}
addEventListener("load", () => ask().then(tell, error => tell({error: `${error}`})));
</script>
"""

EVIL = "evil.example"  # a name that leads to this machine
THIEF = """<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,">
<iframe name="frame"></iframe>
<script>
const given = GIVEN;
const body = JSON.stringify(given.body);
const post = (type, more) => ({method: "POST", headers: {"Content-Type": type}, body, ...more});
const ways = {
  read: {},
  json: post("application/json"),
  text: post("text/plain", {mode: "no-cors"}),
  form: {method: "POST", mode: "no-cors", body: new URLSearchParams(given.body)},
  files: {method: "POST", mode: "no-cors", body: new FormData()},
};
async function steal() {
  const told = {};
  for (const url of given.urls) {
    for (const [name, way] of Object.entries(ways)) {
      const answer = await fetch(url + "/jobs", way).catch(() => ({status: "refused"}));
      told[name] = [...(told[name] ?? []), answer.status];
    }
    navigator.sendBeacon(url + "/jobs", new Blob([body], {type: "text/plain"}));
    const form = document.createElement("form");
    Object.assign(form, {action: url + "/jobs", method: "post", target: "frame"});
    form.enctype = "text/plain";
    const field = document.createElement("input");
    Object.assign(field, {name: body.slice(0, -1) + ', "', value: '": 1}'});  // "=" within is JSON
    form.append(field);
    document.body.append(form);
    const loaded = new Promise(resolve =>
      document.querySelector("iframe").addEventListener("load", resolve, {once: true}));
    form.submit();
    await loaded;
  }
  return told;
}
addEventListener("load", () => steal().then(
  told => fetch("/told", {method: "POST", body: JSON.stringify(told)})));
</script>
"""


@pytest.fixture(scope="module")
def browser():
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"needs a browser: one of {', '.join(BROWSERS)}")
    return found


@pytest.fixture(scope="module")
def library():
    if not all((LIBRARIES / script).is_file() for script in SCRIPTS):
        pytest.skip("needs @openeo/js-client: run `make npm`")


class Pages(http.server.SimpleHTTPRequestHandler):
    """Serves one page and the scripts; keeps what the page tells."""

    def __init__(self, *arguments, page, told, **options):
        self.page, self.told = page, told
        super().__init__(*arguments, directory=str(LIBRARIES), **options)

    def do_GET(self):
        if self.path != "/":
            super().do_GET()
            return
        content = self.page.encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_POST(self):
        self.told.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


def look_at(browser, folder, server, page, *, host="127.0.0.1"):
    """Open a page of `server`, under any name, and wait for what it tells."""
    told = queue.Queue()
    server.RequestHandlerClass = partial(Pages, page=page, told=told)
    url = f"http://{host}:{server.server_address[1]}/"
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0",
               f"--host-resolver-rules=MAP {EVIL} 127.0.0.1",
               f"--user-data-dir={folder}", url]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as opened:
        try:
            return told.get(timeout=180)
        finally:
            opened.kill()


@pytest.mark.slow
@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("token", [TOKEN, None])
def test_a_page_logs_in_computes_and_shows_the_picture(browser, scene, tmp_path, token):
    graph = load(scene, ["B04"], temporal_extent=["2022-06-10", "2022-06-30"])
    graph = graph.save_result("PNG").flat_graph()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), None) as pages:
        threading.Thread(target=pages.serve_forever, daemon=True).start()
        origin = f"http://127.0.0.1:{pages.server_address[1]}"
        who = {"token": token} if token else {"origins": (origin,)}
        with serving(Settings(str(scene.catalog), tmp_path / "work", port=0, **who)) as url:
            given = json.dumps({"url": url, "token": token, "graph": graph})
            told = look_at(browser, tmp_path / "profile", pages, PAGE.replace("GIVEN", given))
        pages.shutdown()
    assert told == {
        "job": "finished",
        "fetched": 200,
        "type": "image/png",
        "size": [synthetic.WIDTH, synthetic.HEIGHT],
    }


@pytest.mark.slow
@pytest.mark.parametrize("host", ["127.0.0.1", EVIL])
def test_a_page_of_anybody_posts_nothing_to_a_server_without_a_token(browser, tmp_path, host):
    """Every way that a page has: fetch of all kinds, a form, a beacon; by address and by name."""
    body = process("add", x=1, y=2)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), None) as pages:
        threading.Thread(target=pages.serve_forever, daemon=True).start()
        origin = f"http://{host}:{pages.server_address[1]}"
        for named in (False, True):  # whom the owner names may: so the page does ask
            who = {"origins": (origin,)} if named else {}
            with fake_server(tmp_path / f"work-{named}", **who) as client:
                port = client.url.rpartition(":")[2]
                urls = [client.url, f"http://{EVIL}:{port}"]
                page = THIEF.replace("GIVEN", json.dumps({"urls": urls, "body": {"process": body}}))
                profile = tmp_path / f"profile-{named}"
                told = look_at(browser, profile, pages, page, host=host)
                jobs = client.ask("get", "/jobs").json()["jobs"]
            # by a name that is none of this machine not even the page that the owner named
            assert told["json"] == ([201, 403] if named else ["refused"] * 2)
            assert told["read"] == ([200, 403] if named else ["refused"] * 2)
            assert len(jobs) == named
        pages.shutdown()


@pytest.mark.slow
@pytest.mark.skipif(
    not EDITOR,
    reason="the openEO Web Editor is in no package: OPENEO_WEB_EDITOR names a build of it (the "
    "folder dist), NODE_PATH the folder that holds puppeteer-core",
)
def test_the_web_editor_logs_in_and_shows_labels_on_its_map(browser, scene, tmp_path):
    """It opens the job's graph, and its result by the link alone, in the colours of classes."""
    files = partial(http.server.SimpleHTTPRequestHandler, directory=EDITOR)
    settings = Settings(str(scene.catalog), tmp_path / "work", port=0, token=TOKEN)
    with (
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), files) as pages,
        serving(settings) as url,
    ):
        threading.Thread(target=pages.serve_forever, daemon=True).start()
        connection = openeo.connect(url).authenticate_basic("anybody", TOKEN)
        graph = cloud_labels(load(scene, temporal_extent=["2022-06-10", "2022-06-30"]))
        job = connection.create_job(graph.save_result("GTiff").flat_graph(), title="Labels")
        job.start_and_wait(print=lambda _: None, max_poll_interval=0.3)
        page = f"http://127.0.0.1:{pages.server_address[1]}/?server={url}"
        script = LIBRARIES.parent / "web_editor.js"
        words = ["node", script, browser, page, TOKEN, tmp_path / "editor.png"]
        subprocess.run(words, check=True, capture_output=True, timeout=500)
        (asset,) = job.get_results().get_assets()
        with rasterio.open(asset.download(tmp_path / "labels.tif")) as raster:
            codes = raster.read(1)
        pages.shutdown()
    with Image.open(tmp_path / "editor.png") as picture:
        seen = np.asarray(picture.convert("RGB"))[:, 800:]  # the map
    for label in (Label.CLEAR, Label.CLOUD_SHADOW, Label.SEMI_TRANSPARENT, Label.CLOUD):
        share = (codes == label).mean()
        if share > 0.02:
            assert (seen == LEGEND[label].rgb).all(axis=-1).sum() > 1000 * share, label.name
