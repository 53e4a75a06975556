"""SAFE products whose metadata or archive is damaged, and a plain reading of the metadata."""

from __future__ import annotations

import io
import re
import struct
import zipfile
from dataclasses import dataclass
from datetime import datetime
from xml.etree import ElementTree as ET

from hypothesis import strategies as st
from support.safe_products import Recipe, write_safe

SHAPE = (36, 48)  # pixels of 10 m
RECIPES = [
    Recipe(shape=SHAPE),
    Recipe(shape=SHAPE, level="L2A", baseline="04.00", offset=-1000),
    Recipe(shape=SHAPE, old=True, baseline="02.01"),
    Recipe(shape=SHAPE, level="L1C", baseline="05.10", offset=-1000),
]
TEXTS = [
    "", " ", "x", "0", "-1", "1", "nan", "inf", "-inf", "1e400", "1e308", "1e-320", "9" * 400,
    "-1000", "1000", "-1000.4", "-99999", "10_000", "\u0660\u0664.\u0660\u0660", "\uff10",
    "../../../etc/passwd", "a\nb",
    "&amp;#0;", "EPSG:4326", "EPSG:32661", "EPSG:99999", "EPSG:32733", "epsg:32632", "32632",
    "EPSG:0032632", "Level-2A", "Level-1C", "Level-3A", "2017-04-30T10:30:21.026Z", "NaT", "now",
    "2017", "9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z", "2017-04-30T10:30:21+02:00",
    "2017-04-30 10:30:21", "2017-02-30T00:00:00Z", "02.04", "04.00", "05.11", "99.99", "4",
    "49.64 10.38 x 10.42", "49.64 10.38 49.64", "nan nan 1 1 2 2 nan nan",
    "1e300 1 2 3 4 5 1e300 1",
    "T32UPV", "S2A_T99XXX_N02.05", "1000000000", "1000000", "60", "36", "48", "600000", "5500020",
]  # fmt: skip
ATTRIBUTES = ["", "-1", "13", "x", "0", "1", "10", "20", "60", "1e1", "99", " 3 ", "\u0663", "1.0"]


@dataclass(frozen=True)
class Made:
    """One product and its two metadata files."""

    folder: object  # Path
    product: object
    tile: object
    recipe: Recipe


def make_products(folder):
    """Write one product of each recipe."""
    found = []
    for number, recipe in enumerate(RECIPES):
        product = write_safe(folder / str(number), recipe)
        (own,) = product.glob("*MTD_*.xml")
        (tile,) = product.glob("GRANULE/*/*MTD_*.xml")
        found.append(Made(product, own, tile, recipe))
    return found


# --- what is tried: the XML ----------------------------------------------------------------

_TEXT = re.compile(r">([^<>]+)</")
_ELEMENT = re.compile(r"<(\w+)(?:\s[^<>]*)?>[^<>]*</\1>")
_ATTRIBUTE = re.compile(r'\s(band_id|resolution|unit|xmlns:n1)="([^"]*)"')
_TAG = re.compile(r"</?(\w+)")
BILLION = (
    '<!DOCTYPE lolz [<!ENTITY a "lol">'
    + "".join(
        f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    + "]>"
)
EXTERNAL = '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>'
REMOTE = '<!DOCTYPE x SYSTEM "http://127.0.0.1:9/x.dtd">'


@st.composite
def damaged_xml(draw, text):
    """Change an XML file in one to three places, or as a whole: bytes."""
    for _ in range(draw(st.integers(0, 3))):
        pattern = draw(st.sampled_from([_TEXT] * 5 + [_ELEMENT] * 3 + [_ATTRIBUTE] * 2 + [_TAG]))
        found = list(pattern.finditer(text))
        if not found:
            continue
        at = draw(st.sampled_from(found))
        if pattern is _TEXT:
            new = draw(st.sampled_from(TEXTS))
            text = text[: at.start(1)] + new + text[at.end(1) :]
        elif pattern is _ATTRIBUTE:
            text = text[: at.start(2)] + draw(st.sampled_from(ATTRIBUTES)) + text[at.end(2) :]
        elif pattern is _TAG:
            text = text[: at.start(1)] + "Other" + text[at.end(1) :]
        else:
            other = draw(st.sampled_from(found)).group()
            new = draw(st.sampled_from(["", at.group() * 2, other, at.group() + other]))
            text = text[: at.start()] + new + text[at.end() :]
    return draw(damaged_bytes(text))


@st.composite
def damaged_bytes(draw, text):
    """Leave a text as it is in most cases, or spoil it as a whole."""
    how = draw(
        st.sampled_from(
            ["no"] * 12
            + ["cut", "flip", "utf-16", "latin-1", "lie", "entity", "billion", "external", "remote"]
            + ["deep", "empty", "garbage", "bom", "comment", "long", "null"]
        )
    )
    content = text.encode()
    start = text.index("?>") + 2 if "?>" in text else 0
    if how == "cut":
        return content[: draw(st.integers(0, len(content)))]
    if how == "flip":
        spoiled = bytearray(content)
        for _ in range(draw(st.integers(1, 5))):
            spoiled[draw(st.integers(0, len(spoiled) - 1))] ^= 1 << draw(st.integers(0, 7))
        return bytes(spoiled)
    deep = 20_000
    made = {
        "utf-16": lambda: text.replace("UTF-8", "UTF-16").encode("utf-16"),
        "latin-1": lambda: text.replace("UTF-8", "ISO-8859-1").encode("latin-1", "replace"),
        "lie": lambda: text.replace("UTF-8", draw(st.sampled_from(["klingon", "UTF-32", "cp037"]))),
        "entity": lambda: text.replace("</", "&x;</", 1),
        "billion": lambda: text[:start] + BILLION + text[start:].replace("</", "&i;</", 1),
        "external": lambda: text[:start] + EXTERNAL + text[start:].replace("</", "&a;</", 1),
        "remote": lambda: text[:start] + REMOTE + text[start:],
        "deep": lambda: text[:start] + "<a>" * deep + text[start:] + "</a>" * deep,
        "empty": lambda: b"",
        "garbage": lambda: draw(st.binary(max_size=200)),
        "bom": lambda: b"\xef\xbb\xbf" + content,
        "comment": lambda: text.replace("><", "><!-- x --><", 3),
        "long": lambda: text + " " * 10**6,
        "null": lambda: content[:50] + b"\0" + content[50:],
    }.get(how, lambda: content)()
    return made.encode("utf-8", "replace") if isinstance(made, str) else made


# --- what is tried: the archive ------------------------------------------------------------

NAMES = [
    "../escape.xml", "/etc/passwd", "a/../../b.xml", "C:/x.xml", "..\\x.xml", "x\\..\\y", "",
    "./MTD_MSIL1C.xml", "MTD_MSIL1C.xml", "a" * 5000, "ä/MTD_TL.xml", "x\0y.xml",
    "GRANULE/x/MTD_TL.xml",
    "GRANULE/L1C_T32UPV_A009686_20170430T103024/IMG_DATA/T32UPV_20170430T103021_B13.jp2",
]  # fmt: skip


@st.composite
def damaged_zips(draw, folder):
    """Pack a product with members that are gone, double, renamed, or bytes that are wrong."""
    files = {
        f"{folder.name}/{path.relative_to(folder).as_posix()}": path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    members = list(files.items())
    how = draw(st.sampled_from(["no", "drop", "add", "twice", "root", "bomb", "other"]))
    if how == "drop":
        members.pop(draw(st.integers(0, len(members) - 1)))
    elif how == "add":
        name = draw(st.sampled_from(NAMES))
        prefix = draw(st.sampled_from(["", f"{folder.name}/"]))
        members.insert(draw(st.integers(0, len(members))), (prefix + name or "x", b"<x/>"))
    elif how == "twice":
        members.append((draw(st.sampled_from(members))[0], b"<x/>"))
    elif how == "root":
        members = [(name.partition("/")[2], content) for name, content in members]
    elif how == "bomb":
        own = next(name for name in files if "MTD_MSI" in name or "MTD_SAF" in name)
        members = [(n, b" " * (101 * 2**20) if n == own else c) for n, c in members]
    elif how == "other":
        members = [(draw(st.sampled_from(NAMES)) or "x", b"x")]
    packed = io.BytesIO()
    method = draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA]))
    if how == "bomb":
        method = zipfile.ZIP_DEFLATED
    import warnings

    with (
        warnings.catch_warnings(action="ignore"),
        zipfile.ZipFile(packed, "w", method) as archive,
    ):
        for name, content in members:
            archive.writestr(name, content)
    return draw(damaged_archive(packed.getvalue()))


@st.composite
def damaged_archive(draw, content):
    """Leave an archive as it is in half of the cases, or spoil its bytes."""
    how = draw(st.sampled_from(["no"] * 6 + ["cut", "flip", "method", "encrypted", "directory"]))
    spoiled = bytearray(content)
    first = content.index(b"PK\x01\x02")  # the central directory
    if how == "cut":
        return content[: draw(st.integers(0, len(content)))]
    if how == "flip":
        for _ in range(draw(st.integers(1, 8))):
            spoiled[draw(st.integers(0, len(spoiled) - 1))] ^= 1 << draw(st.integers(0, 7))
    elif how == "directory":
        for _ in range(draw(st.integers(1, 4))):
            spoiled[draw(st.integers(first, len(spoiled) - 1))] = draw(st.integers(0, 255))
    elif how in ("method", "encrypted"):
        at = [found.start() for found in re.finditer(b"PK\x01\x02", content)]
        for place in at:
            if how == "method":
                struct.pack_into("<H", spoiled, place + 10, draw(st.sampled_from([1, 9, 97, 99])))
            else:
                struct.pack_into("<H", spoiled, place + 8, 1)
    return bytes(spoiled)


# --- a naive reading -----------------------------------------------------------------------


def plain(content):
    """Every element's text by its name without namespace, in order; None if it is no XML."""
    try:
        root = ET.fromstring(content)  # noqa: S314  what the product has accepted
    except Exception:  # noqa: BLE001  then nothing is compared
        return None
    found = {}
    for element in root.iter():
        name = str(element.tag).rpartition("}")[2]
        found.setdefault(name, []).append((element.text or "", dict(element.attrib)))
    return found


def first(found, *names):
    """Text of the first element of these names that says something."""
    for name in names:
        for text, _ in found.get(name, ()):
            if text.strip():
                return text.strip()
    return None


def plain_time(text):
    """A time as the products write it; None where it is written otherwise."""
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ")  # noqa: DTZ007  UTC throughout
    except ValueError:
        return None


def plain_offsets(found):
    """The offsets listed, by number of the band: all that are said of each."""
    said = {}
    for name in ("RADIO_ADD_OFFSET", "BOA_ADD_OFFSET"):
        for text, attributes in found.get(name, ()):
            said.setdefault((attributes.get("band_id") or "").strip(), set()).add(text)
    return said
