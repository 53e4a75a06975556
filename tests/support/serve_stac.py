"""A real STAC API over a static catalogue, and its pixels with range requests, on loopback.

python tests/support/serve_stac.py CATALOG PORT PIXELS
"""

import sys

import uvicorn
from fastapi.staticfiles import StaticFiles
from stac_fastapi.static.api import Settings, make_api

if __name__ == "__main__":
    catalog, port, pixels = sys.argv[1:]
    app = make_api(Settings(catalog_href=f"file://{catalog}", app_port=int(port))).app
    app.mount("/pixels", StaticFiles(directory=pixels))
    uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="warning")
