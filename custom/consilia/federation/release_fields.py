"""What a run asks of its sites, setting by setting; and the fields that they fill in their replies.

The fields are the schemas, narrowed to the run's task and method.
"""

from __future__ import annotations

import json
import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel

from consilia.core.task import Task
from consilia.federation.config import RunConfig
from consilia.federation.messages import REPLIES, RequestKind
from consilia.federation.release_check import WITHIN_KEY
from consilia.methods.contract import TRAIN_LOSS, Method
from consilia.methods.registry import make_method
from consilia.record.schema import ONLY_WHERE_FOUND
from consilia.record.tasks import METRICS_OF

KINDS: dict[type, str] = {bool: "boolean", int: "integer", float: "number", str: "text"}


METRICS = ("received", "trained", "personal", "variants")
"""Where a reply has metrics."""

UNBOUND = ("label", "seed")
"""Settings that no approval binds: under another name or seed a run is the same to a site."""


def asked_of(config: RunConfig) -> dict[str, str]:
    """Every setting of a run that an approval binds: its value as JSON, by its path, ``training.batch_size`` say."""
    return dict(_settings({name: value for name, value in config.to_json().items() if name not in UNBOUND}, ""))


def _settings(values: dict[str, Any], above: str) -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        # Only names make a path: a key with a dot in it could pass for two.
        if isinstance(value, dict) and value and all(key.isidentifier() for key in value):
            yield from _settings(value, f"{above}{name}.")
        else:
            yield above + name, json.dumps(value, sort_keys=True)


def datasets_of(config: RunConfig) -> tuple[str, ...]:
    """The datasets that a run reads at a site, sorted; of several a site may have some."""
    return tuple(sorted(make_method(config.method).datasets())) or (config.dataset,)


def fields_of(config: RunConfig) -> dict[RequestKind, dict[str, str]]:
    """For each request that sites get in a run: the kind of each field of the reply's JSON by its path.

    See :mod:`consilia.federation.release_manifest` for paths and kinds.
    """
    method, pooled = make_method(config.method), config.preprocessing == "pooled"
    return {
        kind: dict(_leaves(reply, (), _Run(kind, config.task, method, pooled)))
        for kind, reply in REPLIES.items()
        if kind != "personalize" or method.personal
    }


class _Run(NamedTuple):
    """What narrows a reply's schema to one run."""

    kind: RequestKind
    task: Task
    method: Method[Any]
    pooled: bool

    def fills(self, path: tuple[str, ...]) -> bool:
        """Whether a field that may be missing is ever filled."""
        name, part = path[-1], path[0]
        if name in ("negative_flips", "positive_flips"):  # of single classifications, round by round
            return not self.method.several_datasets and path[1:-1] == ("test",) and part in ("received", "trained")
        if part in METRICS and (detail := _detail(path)) is not None:
            return self._fills_detail(detail, path)
        if name == "hd95":  # slow, so after the last round only, of test cases, and of no variant
            return self.kind != "train" and part != "variants" and path[1] == "test"
        if name == "tasks":
            return self.method.several_datasets and name not in path[:-1]
        return {
            "datasets": self.method.several_datasets,
            "layout": not self.method.several_datasets,
            "moments": self.pooled,
            "variants": bool(self.method.variants()),
            "weight": self.method.weight() is not None,
        }.get(name, True)

    def _fills_detail(self, detail: str, path: tuple[str, ...]) -> bool:
        """Whether a threshold, or what only a final evaluation has, is ever filled."""
        several = self.method.several_datasets
        if path[0] == "variants":
            return False
        if detail == "threshold":
            return path[1] == "validation" and not several and "tasks" not in path
        return self.kind != "train" and path[1] == "test" and ("tasks" in path) == several

    def keys(self, path: tuple[str, ...]) -> tuple[str, ...]:
        """The keys of a dictionary whose schema leaves them open."""
        if path[-1] == "fields":
            return tuple(field.name for field in (TRAIN_LOSS, *self.method.fields()))
        return self.method.variants() if path[-1] == "variants" else tuple(self.method.datasets())


def _detail(path: tuple[str, ...]) -> str | None:
    """The key of metrics by which a field belongs to a final evaluation, or the threshold's."""
    below = path[3:] if path[0] == "variants" else path[2:]
    key = below[2] if len(below) > 2 and below[0] == "tasks" else (below or ("",))[0]
    return key if key in ONLY_WHERE_FOUND else None


def _leaves(annotation: Any, path: tuple[str, ...], run: _Run) -> Iterator[tuple[str, str]]:
    """Path and kind of every value of a type."""
    kinds = set(_alternatives(annotation))
    if kinds == set(METRICS_OF.values()):
        kinds = {METRICS_OF[run.task]}
    (kind,) = kinds
    origin, place = get_origin(kind), ".".join(path)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        for name, part in kind.model_fields.items():
            below = (*path, part.alias or name)
            if not run.fills(below):
                continue
            if name == "fingerprint":
                yield ".".join(below), "sha256"
            else:
                yield from _leaves(part.annotation, below, run)
    elif origin is dict:
        key, value = get_args(kind)
        if get_origin(key) is Literal:
            yield from _leaves(value, (*path, "|".join(get_args(key)).replace(".", WITHIN_KEY)), run)
        elif path[-1] == "fields":
            for name in run.keys(path):
                yield from _leaves(value, (*path, name), run)
        else:
            yield from _leaves(value, (*path, "|".join(run.keys(path))), run)
    elif origin is tuple:
        yield from _leaves(get_args(kind)[0], (*path[:-1], f"{path[-1]}[]"), run)
    elif origin is Literal:
        yield place, "|".join(get_args(kind))
    else:
        yield place, KINDS[kind]


def _alternatives(annotation: Any) -> Iterator[Any]:
    """The types that an annotation stands for, but for None."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _alternatives(get_args(annotation)[0])
    elif origin in (Union, types.UnionType):
        for choice in get_args(annotation):
            yield from _alternatives(choice)
    elif annotation is not type(None):
        yield annotation
