"""Products in buckets, on a server of our own that checks who signed; by the variables of GDAL."""

import datetime as dt
import hashlib
import hmac
import re
from urllib.parse import unquote

import numpy as np
import pytest
import requests
from support import file_server, loopback
from support.eopf_stores import write_store
from support.safe_products import Recipe, write_safe, zip_safe

import kappamask as km
from kappamask.base.errors import InputError, ReadError
from kappamask.jobs import MaskOptions, mask_products
from kappamask.scenes import buckets

KEY, SECRET = "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"  # of AWS' examples
RECIPE = Recipe(level="L2A", baseline="05.11", offset=-1000, shape=(60, 90))


def digest(key, text):
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


class Bucket(file_server.Handler):
    """Gives objects to whoever signs as GDAL does; names in headers say which were signed."""

    def do_GET(self):
        told = re.fullmatch(
            r"AWS4-HMAC-SHA256 Credential=(\w+)/(\d+)/([\w-]+)/s3/aws4_request,\s*"
            r"SignedHeaders=([\w;-]+),\s*Signature=(\w+)",
            self.headers.get("Authorization", ""),
        )
        if not told or told[1] != KEY or not self.is_right(*told.groups()[1:]):
            self.server.held.refused.append(self.path)
            self.reply(403)
            return
        self.server.held.agents.add(self.headers.get("User-Agent", "").partition("/")[0])
        self.path = unquote(self.path)
        super().do_GET()

    do_HEAD = do_GET  # noqa: N815  as http.server names it

    def is_right(self, day, region, names, signature):
        path, _, query = self.path.partition("?")
        lines = [f"{name}:{self.headers[name]}" for name in names.split(";")]
        content = self.headers["x-amz-content-sha256"]
        asked = "\n".join([self.command, path, query, *lines, "", names, content])
        scope = f"{day}/{region}/s3/aws4_request"
        stamp = self.headers["x-amz-date"]
        key = f"AWS4{SECRET}".encode()
        for part in (day, region, "s3", "aws4_request"):
            key = digest(key, part)
        said = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(asked.encode()).hexdigest()}"
        return digest(key, said).hex() == signature


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """The bucket "eodata" with one product in three forms; the environment names it."""
    safe = write_safe(tmp_path, RECIPE)
    names = [path.relative_to(safe).as_posix() for path in safe.rglob("*") if path.is_file()]
    places = "".join(f'<fileLocation href="./{name}"/>' for name in names)
    (safe / "manifest.safe").write_text(f"<manifest>{places}</manifest>")
    zip_safe(safe)
    write_store(tmp_path, RECIPE, "esa")
    files = file_server.Files(
        {
            f"/eodata/a folder/{path.relative_to(tmp_path).as_posix()}": path.read_bytes()
            for path in tmp_path.rglob("*")
            if path.is_file()
        }
    )
    files.refused, files.agents = [], set()
    with loopback.serve(files, Bucket):
        for name, value in {
            "AWS_S3_ENDPOINT": files.url.removeprefix("http://"),
            "AWS_HTTPS": "NO",
            "AWS_VIRTUAL_HOSTING": "FALSE",
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "eu-central-1",
        }.items():
            monkeypatch.setenv(name, value)
        files.local = safe
        yield files


@pytest.mark.parametrize("suffix", [".SAFE", ".zip", ".zarr"])
def test_a_product_in_a_bucket_is_the_one_on_disk(bucket, suffix):
    if suffix == ".zarr":
        pytest.importorskip("zarr", reason="needs kappamask[formats]")
    cube = km.open_safe(f"s3://eodata/a folder/{RECIPE.name}{suffix}", bands=["B02", "B8A"])
    expected = km.open_safe(bucket.local, bands=["B02", "B8A"])
    np.testing.assert_array_equal(cube.values, expected.values)
    assert bucket.refused == []
    assert len(bucket.agents) == (1 if suffix == ".zarr" else 2)  # ours, and GDAL's


def test_a_product_in_a_bucket_is_masked_as_one_on_disk(bucket, tmp_path):
    options = MaskOptions(pictures=False)
    there, here = (
        mask_products([place], tmp_path / str(number), options=options).masks[0]
        for number, place in enumerate([f"s3://eodata/a folder/{RECIPE.name}.SAFE", bucket.local])
    )
    assert there.name == here.name
    assert there.read_bytes() == here.read_bytes()
    assert SECRET not in there.with_suffix(".json").read_text()


def test_wrong_keys_are_told_without_them(bucket, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", f"{SECRET[:-1]}Z")
    with pytest.raises(ReadError, match=r"eodata/a%20folder/S2A.*HTTP 403") as caught:
        km.open_safe(f"s3://eodata/a folder/{RECIPE.name}.SAFE")
    assert bucket.refused
    assert KEY not in str(caught.value)
    assert SECRET[:-1] not in repr(buckets.find_keys())


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_without_keys_the_variables_are_named(bucket, monkeypatch, name):
    monkeypatch.delenv(name)
    with pytest.raises(InputError, match="set both in the environment, or AWS_NO_SIGN_REQUEST"):
        km.open_safe("s3://eodata/a folder/S2A.SAFE")
    assert bucket.refused == bucket.asked == []
    monkeypatch.setenv("AWS_NO_SIGN_REQUEST", "YES")
    with pytest.raises(ReadError, match="HTTP 403"):
        km.open_safe("s3://eodata/a folder/S2A.SAFE")


def test_a_bucket_sends_nobody_elsewhere(bucket):
    """Its token travels in a header that requests would take along."""
    with file_server.serve(file_server.Files()) as other:
        bucket.moved = dict.fromkeys(
            [f"/eodata/a folder/{RECIPE.name}.SAFE/manifest.safe"], other.url
        )
        with pytest.raises(ReadError, match="HTTP 302"):
            km.open_safe(f"s3://eodata/a folder/{RECIPE.name}.SAFE")
        assert other.asked == []


def test_a_request_is_signed_as_the_example_of_aws_is(monkeypatch):
    """https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html, GET Object."""

    class Then(dt.datetime):
        @classmethod
        def now(cls, _):
            return cls(2013, 5, 24, tzinfo=dt.UTC)

    monkeypatch.setattr(buckets, "datetime", Then)
    request = requests.Request(
        "GET", "https://examplebucket.s3.amazonaws.com/test.txt", headers={"Range": "bytes=0-9"}
    ).prepare()
    signed = buckets.Signed(KEY, SECRET, "", "us-east-1")(request)
    assert signed.headers["Authorization"].endswith(
        "Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
    )


@pytest.mark.parametrize(
    "location",
    ["s3://16843009\\@allowed/x", "s3://host?x/y", "s3://evil:8080#/x", "s3://a@b.c/x", "s3://"],
)
def test_what_is_no_name_of_a_bucket_is_no_address(location, monkeypatch):
    """It would send the request, signed, to another host than the endpoint."""
    monkeypatch.setenv("AWS_NO_SIGN_REQUEST", "YES")
    with pytest.raises(InputError, match="the name of a bucket has 3 to 255 letters"):
        buckets.address_of(location)
    with pytest.raises(InputError, match="the name of a bucket"):
        km.open_safe(f"{location}/S2A.SAFE")


@pytest.mark.parametrize(
    ("told", "address"),
    [
        ({}, "https://eodata.s3.amazonaws.com/a%20b"),
        ({"AWS_VIRTUAL_HOSTING": "FALSE"}, "https://s3.amazonaws.com/eodata/a%20b"),
        ({"AWS_HTTPS": "NO"}, "http://eodata.s3.amazonaws.com/a%20b"),
        ({"AWS_S3_ENDPOINT": "http://host:90/"}, "http://eodata.host:90/a%20b"),
    ],
)
def test_the_environment_tells_where_a_bucket_is(monkeypatch, told, address):
    for name in ("AWS_S3_ENDPOINT", "AWS_HTTPS", "AWS_VIRTUAL_HOSTING"):
        monkeypatch.delenv(name, raising=False)
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    assert buckets.address_of("s3://eodata/a b") == address
