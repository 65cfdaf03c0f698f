"""A reply against the fields that a manifest lets it carry: what is not named is refused, and never quoted."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from consilia.aggregation.validation import MAX_INTEGER
from consilia.core.errors import ReleaseRefused
from consilia.core.plain import ERROR_KIND
from consilia.core.reading import unique
from consilia.federation.update_validation import MAX_CONTENT_BYTES

MAX_TEXT = 200

WITHIN_KEY = "/"
"""In a path, stands for a dot within a key: ``operating/sensitivity`` is one key, ``operating.sensitivity``."""


@dataclass
class Node:
    """One place in a reply: the kind of its value, its parts by key, or its items."""

    kind: str = ""
    parts: dict[str, Node] = field(default_factory=dict)
    items: Node | None = None

    @property
    def approved(self) -> str:
        return self.kind or ("a list" if self.items else "an object")


def tree(fields: Iterable[tuple[str, str]]) -> Node:
    """The places of a reply from the paths of its fields and their kinds; see the module ``release_manifest``."""
    root = Node()
    for path, kind in fields:
        places = [root]
        for part in path.split("."):
            keys = part.removesuffix("[]").replace(WITHIN_KEY, ".").split("|")
            places = [place.parts.setdefault(key, Node()) for place in places for key in keys]
            if part.endswith("[]"):
                for place in places:
                    place.items = place.items or Node()
                places = [place.items for place in places if place.items]
        for place in places:
            place.kind = kind
    return root


def compare(node: Node, value: Any, place: str) -> None:
    """Raise :class:`ReleaseRefused` if a value holds anything else than the place ``node`` may; no value is in it."""
    if is_nothing(value):
        return
    if isinstance(value, dict) and node.parts:
        for key, part in value.items():
            if key not in node.parts:
                raise ReleaseRefused(f"{place}: field {key[:60]!r} is not in the manifest")
            compare(node.parts[key], part, f"{place}.{key}")
    elif isinstance(value, list) and node.items:
        for item in value:
            compare(node.items, item, f"{place}[]")
    elif not _fits(node.kind, value):
        raise ReleaseRefused(f"{place} is {_described(value)}, approved is {node.approved}")


def _fits(kind: str, value: Any) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    if isinstance(value, int):
        return kind in ("integer", "number") and abs(value) <= MAX_INTEGER
    if isinstance(value, float):
        return kind == "number" and math.isfinite(value)
    if not isinstance(value, str):
        return False
    if kind == "sha256":
        return re.fullmatch(r"[0-9a-f]{64}", value) is not None
    return len(value) <= MAX_TEXT if kind == "text" else "|" in kind and value in kind.split("|")


def _described(value: Any) -> str:
    """What a value is, without telling it: it is what must not leave."""
    if isinstance(value, str):
        return f"a text of {len(value)} characters"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int):
        return "an integer" if abs(value) <= MAX_INTEGER else "an integer beyond 2**53"
    if isinstance(value, float):
        return "a number" if math.isfinite(value) else "not a finite number"
    return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"


def is_nothing(value: Any) -> bool:
    """Whether a value carries nothing."""
    return value is None or (isinstance(value, dict | list) and not value)


def parsed(task: str, content: str) -> dict[str, Any]:
    """The object that a reply's JSON holds; raises :class:`ReleaseRefused` where it is not plain, or too long."""
    if len(content) > MAX_CONTENT_BYTES:
        raise ReleaseRefused(f"{task}: the content has {len(content)} characters, at most {MAX_CONTENT_BYTES} may be")
    try:
        fields = json.loads(content, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise ReleaseRefused(f"{task}: the content is not plain JSON ({type(error).__name__})") from None
    if not isinstance(fields, dict):
        raise ReleaseRefused(f"{task}: the content is {_described(fields)}, approved is an object")
    return fields


def check_error(task: str, content: str, tensors: Mapping[str, Any], error: str) -> None:
    """Raise :class:`ReleaseRefused` unless an error is a class name with nothing beside it."""
    if ERROR_KIND.fullmatch(error) is None:
        raise ReleaseRefused(f"{task}: the error is a text of {len(error)} characters, approved is a class name")
    if content or tensors:
        raise ReleaseRefused(f"{task}: an error with {len(content)} characters and {len(tensors)} tensors beside it")
