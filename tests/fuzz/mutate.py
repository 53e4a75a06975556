"""Changes of one field of a JSON document; what they put there is what breaks programs."""

from __future__ import annotations

import copy

from hypothesis import strategies as st


def nested(depth):
    """Lists within each other."""
    value = 1
    for _ in range(depth):
        value = [value]
    return value


# Of JSON; what follows in `WORSE` only a Python caller can pass.
HOSTILE = [
    None, True, False, 0, -1, 1, 7.5, 1e308, -1e308, 1e-320, 10**30, -(10**400),
    "", " ", "x", "NaN", "null", "0", "-1", "1e999", "9" * 400, "\u0660\u0664.\u0660\u0660",
    "\u0966\u0969.\u0966\u0967", "a b", "ä" * 40,
    "\x00", "../../etc/passwd", "file:///etc/passwd", "http://[", "%", "{}", "EPSG:", "\n",
    [], {}, [[]], [None], [0, 0], {"": None}, {"type": "x"}, [1, "a", None], nested(40),
]  # fmt: skip
WORSE = [float("nan"), float("inf"), float("-inf"), "\ud800", (1, 2), b"x", {1: 2}]


def paths(value, at=()):
    """List where every field of a document stands."""
    found = []
    keys = (
        value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    )
    for key in keys:
        found.append((*at, key))
        found += paths(value[key], (*at, key))
    return found


def holder(document, path):
    """Find what holds the field."""
    for key in path[:-1]:
        document = document[key]
    return document


def put(document, path, value):
    """Copy a document with another value in one place."""
    changed = copy.deepcopy(document)
    holder(changed, path)[path[-1]] = copy.deepcopy(value)
    return changed


def remove(document, path):
    """Copy a document without one field."""
    changed = copy.deepcopy(document)
    del holder(changed, path)[path[-1]]
    return changed


def retyped(value):
    """Give the same in other types."""
    same = [str(value), [value], {"value": value}]
    if isinstance(value, str):
        same += [value[: len(value) // 2], value * 2, value + " "]
        same += [value.upper(), value.lower(), value[::-1], value.replace("-", "")]
        if value.replace(".", "", 1).isdigit() and len(value) < 20:
            same += [float(value), int(float(value))]
    elif isinstance(value, bool):
        same += [int(value), str(value).lower(), not value]
    elif isinstance(value, int | float):
        same += [-value, f"{value}"]
        same += [value * 1e6, value / 3, float(value)] if abs(value) < 1e300 else []
    elif isinstance(value, list):
        same += [value[:-1], value[::-1], value * 2, dict(enumerate(map(str, value)))]
    elif isinstance(value, dict):
        same += [list(value), list(value.values())]
    return same


class Changed:
    """A document and what was done to it; only the latter is shown when a case fails."""

    def __init__(self, document):
        self.document, self.steps = document, []
        self.name = document.get("id") or ", ".join(document)

    def __repr__(self):
        return f"<{self.name}: {self.steps}>"


@st.composite
def mutated(draw, document, *, targets=None, values=HOSTILE, most=3, weights=None):
    """Change one to `most` fields.

    `targets` are values worth a try by the name of the field; `weights` how often a path
    is chosen: a function of the path that gives a whole number.
    """
    made = Changed(document)
    for _ in range(draw(st.integers(1, most))):
        places = paths(made.document)
        if weights is not None:
            places = [path for path in places for _ in range(weights(path))]
        if not places:
            break
        path = draw(st.sampled_from(places))
        own = (targets or {}).get(path[-1])
        kinds = ["hostile", "delete", "retype", "swap", *(["target"] * 4 if own else [])]
        kind = draw(st.sampled_from(kinds))
        made.steps.append((kind, path))
        if kind == "delete":
            made.document = remove(made.document, path)
            continue
        before = holder(made.document, path)[path[-1]]
        if kind == "swap":
            other = draw(st.sampled_from(places))
            value = holder(made.document, other)[other[-1]]
        else:
            choice = {"hostile": values, "target": own, "retype": retyped(before)}[kind]
            value = draw(st.sampled_from(choice))
        made.steps[-1] += (value,)
        made.document = put(made.document, path, value)
    return made
