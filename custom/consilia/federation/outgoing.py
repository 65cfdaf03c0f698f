"""What the sites of a job send: the manifest that a hospital approves, and the check of a message against it.

A manifest is derived from the schemas of the replies (:mod:`consilia.federation.messages`) and narrowed to one run. It
names every tensor with its layout (``"float32[8, 30]"``) and, for every task, every field of the reply's JSON with its
kind. A path's parts are joined by dots; ``box|image`` is either of these keys, ``[]`` the items of a list. There is no
free key: a site cannot say anything by naming one.

Kinds: ``integer`` (up to 2**53), ``number`` (finite), ``boolean``, ``text`` (at most 200 characters), ``sha256`` (64
hexadecimal digits), ``a|b`` (one of these texts), and ``nothing`` for what the schema has but this run never fills.
null, ``{}`` and ``[]`` may stand for any field, since they carry nothing.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, ValidationError, field_validator
from torch import Tensor

from consilia.core.errors import ConfigError, OutgoingRefused
from consilia.core.validation import MAX_INTEGER
from consilia.federation.config import RunConfig, explain
from consilia.federation.intake import MAX_CONTENT_BYTES
from consilia.federation.messages import TaskName
from consilia.federation.outgoing_fields import fields_of
from consilia.methods.config import Settings

MAX_TEXT = 200
CLIENT_CONFIG = "config_fed_client.json"

# Names are shown to who approves them: no control character may hide one.
TensorName = Annotated[str, Field(max_length=200, pattern=r"^[\w .-]+$")]
Place = Annotated[str, Field(max_length=2000, pattern=r"^[\w .|\[\]-]+$")]
Layout = Annotated[str, Field(pattern=r"^[a-z]+\d*\[(\d+(, \d+)*)?\]$")]
Kind = Annotated[str, Field(pattern=r"^(integer|number|boolean|text|sha256|nothing|[\w.-]+(\|[\w.-]+)+)$")]


class Manifest(Settings):
    """What the sites of one job send, and nothing else.

    Attributes:
        tensors: the layout of each tensor by name; they go with ``train`` alone, and a site may send some of them.
        fields: for each task that the job has, the kind of each field of the reply's JSON by its path.
    """

    tensors: dict[TensorName, Layout]
    fields: dict[TaskName, dict[Place, Kind]]

    @field_validator("tensors", mode="before")
    @classmethod
    def _from_lines(cls, value: Any) -> Any:
        if not isinstance(value, list):
            return value
        named = dict(str(line).rsplit(": ", 1) for line in value if ": " in str(line))
        if len(named) != len(value):
            raise ValueError("expected one line 'name: layout' for each tensor")
        return named

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types, as a job and an approval carry them.

        Tensors are lines, since NVFlare takes a key that speaks of tokens or keys, as tensors' names do, for a secret.
        """
        dumped: dict[str, Any] = self.model_dump(mode="json")
        return {**dumped, "tensors": [f"{name}: {layout}" for name, layout in sorted(self.tensors.items())]}

    @property
    def digest(self) -> str:
        """``sha256:`` and 64 digits of the canonical JSON: equal for equal manifests, however they were written."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"

    def check(self, task: str, content: str, tensors: Mapping[str, Any], error: str) -> tuple[str, ...]:
        """Refuse a message that holds anything else than this manifest names; no value of it is in the error.

        Args:
            task: the task that the message answers.
            content: the reply's JSON; empty with an error.
            tensors: torch tensors, or NumPy arrays where a filter of the site's own made them.
            error: the kind of error by its class name, else empty.

        Returns:
            The fields of the reply, at its top, that carry something; sorted.

        Raises:
            OutgoingRefused: naming the task, the tensor or field, what was approved and what came.
        """
        fields = self._trees.get(task)
        if fields is None:
            raise OutgoingRefused(f"task {task[:60]!r} is not in the manifest, which has {sorted(self.fields)}")
        if error:
            _check_error(task, content, tensors, error)
            return ()
        self._check_tensors(task, tensors)
        told = _parsed(task, content)
        _compare(fields, told, task)
        return tuple(sorted(name for name, value in told.items() if not _is_nothing(value)))

    def _check_tensors(self, task: str, tensors: Mapping[str, Any]) -> None:
        if tensors and task != "train":
            raise OutgoingRefused(f"{task}: {len(tensors)} tensor(s), approved are none: they go with train alone")
        for name, tensor in tensors.items():
            approved = self.tensors.get(name)
            if approved is None:
                raise OutgoingRefused(f"{task}: tensor {str(name)[:120]!r} is not in the manifest")
            # An instance of a subclass, a Parameter say, may carry more than its values.
            came = layout(tensor) if type(tensor) in (Tensor, np.ndarray) else f"a {type(tensor).__name__}"
            if came != approved:
                raise OutgoingRefused(f"{task}: tensor {name!r} is {came}, approved is {approved}")

    @cached_property
    def _trees(self) -> dict[str, _Node]:
        return {task: _tree(fields.items()) for task, fields in self.fields.items()}


def manifest_of(config: RunConfig, exchanged: Mapping[str, Tensor]) -> Manifest:
    """What the sites of a run send.

    Args:
        config: the run.
        exchanged: what its model exchanges, see :func:`consilia.models.exchange.exchanged_state`.
    """
    half = config.exchange_dtype == "float16"
    tensors = {
        name: f"float16{list(tensor.shape)}" if half and tensor.is_floating_point() else layout(tensor)
        for name, tensor in sorted(exchanged.items())
    }
    return Manifest(tensors=tensors, fields=fields_of(config))


def layout(tensor: Tensor | np.ndarray[Any, Any]) -> str:
    """Type and shape of a tensor, e.g. ``float32[8, 30]``."""
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"


def read_manifest(place: Path) -> tuple[str, Manifest]:
    """The name and the manifest of a job.

    Args:
        place: an exported job's folder, or the folder of a deployed job in a startup kit.

    Raises:
        ConfigError: the folder is no job, or its manifest is missing or malformed.
    """
    found = sorted(place.glob(f"*/config/{CLIENT_CONFIG}"))
    if not found:
        raise ConfigError(f"{place} is no job: expected */config/{CLIENT_CONFIG} in it")
    manifests = {path: manifest_in(path) for path in found}
    first, *others = manifests.values()
    if any(other.digest != first.digest for other in others):
        raise ConfigError(f"{place}: the apps of this job have unlike manifests: {[str(path) for path in found]}")
    try:
        name = json.loads((place / "meta.json").read_text())["name"]
    except (OSError, ValueError, KeyError, TypeError):
        name = None
    if not isinstance(name, str) or not name:
        name = place.resolve().name
    return re.sub(r"[^\w.-]", "-", name)[:64], first


def manifest_in(path: Path) -> Manifest:
    """The manifest in a job's ``config_fed_client.json``; raises ConfigError if there is none or it is malformed."""
    try:
        executors = json.loads(path.read_text())["executors"]
        found = [item["executor"]["args"]["outgoing"] for item in executors if "outgoing" in item["executor"]["args"]]
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is no configuration of a Consilia job ({type(error).__name__}: {error})") from error
    if len(found) != 1:
        raise ConfigError(f"{path}: expected one executor with a manifest (argument outgoing), found {len(found)}")
    return as_manifest(found[0], str(path))


def as_manifest(content: Any, source: str) -> Manifest:
    """Validate a manifest's JSON; raises ConfigError naming the source and the key."""
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"{source}: the manifest is malformed: {explain(error)}") from error


# From fields to a check ----------------------------------------------------------------------------------------------


@dataclass
class _Node:
    """One place in a reply: the kind of its value, its parts by key, or its items."""

    kind: str = ""
    parts: dict[str, _Node] = field(default_factory=dict)
    items: _Node | None = None

    @property
    def approved(self) -> str:
        return self.kind or ("a list" if self.items else "an object")


def _tree(fields: Iterable[tuple[str, str]]) -> _Node:
    root = _Node()
    for path, kind in fields:
        places = [root]
        for part in path.split("."):
            keys = part.removesuffix("[]").split("|")
            places = [place.parts.setdefault(key, _Node()) for place in places for key in keys]
            if part.endswith("[]"):
                for place in places:
                    place.items = place.items or _Node()
                places = [place.items for place in places if place.items]
        for place in places:
            place.kind = kind
    return root


def _compare(node: _Node, value: Any, place: str) -> None:
    if _is_nothing(value):
        return
    if isinstance(value, dict) and node.parts:
        for key, part in value.items():
            if key not in node.parts:
                raise OutgoingRefused(f"{place}: field {key[:60]!r} is not in the manifest")
            _compare(node.parts[key], part, f"{place}.{key}")
    elif isinstance(value, list) and node.items:
        for item in value:
            _compare(node.items, item, f"{place}[]")
    elif not _fits(node.kind, value):
        raise OutgoingRefused(f"{place} is {_described(value)}, approved is {node.approved}")


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


def _is_nothing(value: Any) -> bool:
    return value is None or (isinstance(value, dict | list) and not value)


def _parsed(task: str, content: str) -> dict[str, Any]:
    if len(content) > MAX_CONTENT_BYTES:
        raise OutgoingRefused(f"{task}: the content has {len(content)} characters, at most {MAX_CONTENT_BYTES} may be")
    try:
        told = json.loads(content, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise OutgoingRefused(f"{task}: the content is not plain JSON ({type(error).__name__})") from None
    if not isinstance(told, dict):
        raise OutgoingRefused(f"{task}: the content is {_described(told)}, approved is an object")
    return told


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Of two values under one key a reader sees the last, but both would leave.
    told = dict(pairs)
    if len(told) != len(pairs):
        raise ValueError("a key stands twice")
    return told


def _check_error(task: str, content: str, tensors: Mapping[str, Any], error: str) -> None:
    if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,79}", error) is None:
        raise OutgoingRefused(f"{task}: the error is a text of {len(error)} characters, approved is a class name")
    if content or tensors:
        raise OutgoingRefused(f"{task}: an error with {len(content)} characters and {len(tensors)} tensors beside it")
