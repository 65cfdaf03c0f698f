"""The fields that a run's sites fill in their replies: the schemas, narrowed to the run's task and method."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel

from consilia.federation.config import RunConfig
from consilia.federation.messages import REPLIES, TaskName
from consilia.methods.catalogue import METHODS
from consilia.methods.learner import FLIPS, OPTIONAL
from consilia.record.schema import Metrics, SegmentationMetrics

NOTHING = "nothing"
"""Kind of a field that the schema has and the run never fills."""

KINDS: dict[type, str] = {bool: "boolean", int: "integer", float: "number", str: "text"}


def roles_of(config: RunConfig) -> tuple[str, ...]:
    """The dataset roles that a run reads at a site, sorted; of several a site may have some."""
    return tuple(sorted(config.method.tasks())) or (config.role,)


def fields_of(config: RunConfig) -> dict[TaskName, dict[str, str]]:
    """For each task that sites get in a run: the kind of each field of the reply's JSON by its path.

    See :mod:`consilia.federation.outgoing` for paths and kinds.
    """
    method = METHODS[config.method.method].learner
    fields = {}
    for task, reply in REPLIES.items():
        if task != "personalise" or method.personal:
            run = _Run(task, config.task == "segmentation", tuple(config.method.tasks()), method.tells(config.method))
            fields[task] = dict(_leaves(reply, (), run))
    return fields


class _Run(NamedTuple):
    """What narrows a reply's schema to one run."""

    task: TaskName
    segmentation: bool
    tasks: tuple[str, ...]
    tells: frozenset[str]

    def fills(self, path: tuple[str, ...]) -> bool:
        """Whether a field that may be missing is ever filled."""
        name, part = path[-1], path[0]
        if name in FLIPS:
            return name in self.tells and path[1:-1] == ("test",) and part in ("received", "trained")
        if name == "hd95":  # slow, so after the last round only
            return self.task != "train" and part != "mean_query"
        if name == "tasks":
            return bool(self.tasks) and name not in path[:-1]
        return name not in OPTIONAL or name in self.tells


def _leaves(annotation: Any, path: tuple[str, ...], run: _Run) -> Iterator[tuple[str, str]]:
    """Path and kind of every value of a type."""
    kinds = set(_alternatives(annotation))
    if kinds == {Metrics, SegmentationMetrics}:
        kinds = {SegmentationMetrics if run.segmentation else Metrics}
    (kind,) = kinds
    origin, place = get_origin(kind), ".".join(path)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        for name, part in kind.model_fields.items():
            below = (*path, part.alias or name)
            if not run.fills(below):
                yield ".".join(below), NOTHING
            elif name == "fingerprint":
                yield ".".join(below), "sha256"
            else:
                yield from _leaves(part.annotation, below, run)
    elif origin is dict:
        key, value = get_args(kind)
        keys = run.tasks if key is str else get_args(key)
        yield from _leaves(value, (*path, "|".join(keys)), run)
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
