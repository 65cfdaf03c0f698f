"""The keys of a run's configuration: type, default and meaning of each, and what a mistyped one was meant to be."""

from __future__ import annotations

import inspect
import json
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from consilia.methods.registry import method_class

PLAIN_NAMES = {int: "whole number", float: "number", str: "text", bool: "true or false", types.NoneType: "null"}
REQUIRED = object()
MAX_SHOWN = 40
"""Characters of a default."""
CLOSE = 0.75
"""How alike two keys are, of 1, for one to be taken for the other mistyped."""


@dataclass(frozen=True)
class Key:
    """One key, with dots: ``training.learning_rate``.

    Attributes:
        name: as ``--set`` takes it.
        type: in words, with bounds.
        default: as YAML reads it; empty where a value is required.
        meaning: one line.
        free: whether anything may stand below it.
    """

    name: str
    type: str
    default: str
    meaning: str
    free: bool = False


def config_keys(config: type[BaseModel], method: str) -> list[Key]:
    """Every key of a run's configuration with a method's own parameters.

    Args:
        config: :class:`~consilia.federation.config.RunConfig`.
        method: the name of a method that is installed, or of a plugin.

    Raises:
        ConfigError: there is no such method.
    """
    own = method_class(method).Config
    return [
        replace(key, default=method) if key.name == "method.method" else key
        for key in _keys(config, "", {"method": own})
    ]


def meant(key: str, keys: Sequence[Key]) -> str | None:
    """None for a key that there is; else, as a question or a list, what it was probably meant to be."""
    names = [own.name for own in keys]
    if key in names or any(name.startswith(f"{key}.") for name in names):
        return None
    if any(key.startswith(f"{own.name}.") for own in keys if own.free):
        return None
    alike = max(names, key=lambda name: _likeness(key, name))
    if _likeness(key, alike) >= CLOSE:
        return f"did you mean {alike!r}?"
    place = key.rpartition(".")[0]
    beside = [name for name in names if name.startswith(f"{place}.")] if place else []
    return f"expected one of {', '.join(beside or dict.fromkeys(name.partition('.')[0] for name in names))}"


def _likeness(key: str, name: str) -> float:
    """Of the whole keys; of their last parts alone a little less, for one that stands elsewhere."""
    short, own = key.rpartition(".")[2], name.rpartition(".")[2]
    last = 0.9 if own.endswith(f"_{short}") else SequenceMatcher(None, short, own).ratio()
    return max(SequenceMatcher(None, key, name).ratio(), 0.95 * last)


def _keys(
    model: type[BaseModel], above: str, instead: Mapping[str, type[BaseModel]], default: object = None
) -> Iterator[Key]:
    """The keys of a configuration that stands below ``above``, where it is ``default`` if nothing is said."""
    meanings = _documented(model)
    for name, field in model.model_fields.items():
        key = above + (field.alias or name)
        value = getattr(default, name) if isinstance(default, model) else _default(field)
        below = [instead[name]] if name in instead else list(_models(field.annotation))
        if not below or _has_others(field.annotation):
            meaning = (field.description or meanings.get(name, "")).removesuffix(".")
            yield Key(key, _words(field.annotation, field.metadata), _shown(value), meaning, _is_free(field.annotation))
        for part in below:
            yield from _keys(part, f"{key}.", {}, value)


def _default(field: FieldInfo) -> object:
    return REQUIRED if field.is_required() else field.get_default(call_default_factory=True, validated_data={})


def _shown(value: object) -> str:
    if value is REQUIRED:
        return ""
    text = value if isinstance(value, str) and value else json.dumps(value, default=str)
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 3] + "..."


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The configurations that a type may hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (Annotated, Union, types.UnionType):
        for part in get_args(annotation):
            yield from _models(part)


def _has_others(annotation: Any) -> bool:
    """Whether a type may hold something else than a configuration, null say."""
    if get_origin(annotation) is Annotated:
        return _has_others(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return any(_has_others(part) for part in get_args(annotation))
    return not (isinstance(annotation, type) and issubclass(annotation, BaseModel))


def _is_free(annotation: Any) -> bool:
    return annotation is Any or get_origin(annotation) is dict or annotation is dict


def _words(annotation: Any, bounds: Sequence[Any] = ()) -> str:
    """A type as a person says it."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _words(parts[0], parts[1:])
    if origin is Literal:
        return " or ".join(map(str, parts))
    if origin in (Union, types.UnionType):
        inner = [part for part in parts if part is not types.NoneType]
        words = [text for part in inner if (text := _words(part, bounds))]
        return " or ".join(dict.fromkeys([*words, "null"] if types.NoneType in parts else words))
    if origin in (tuple, list):
        return f"list of {_words(parts[0])}"
    if origin is dict:
        return "mapping"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "mapping"
    name = PLAIN_NAMES.get(annotation, "any")
    return " ".join([name, *_bounds(bounds)]) if annotation in (int, float) else name


def _bounds(bounds: Sequence[Any]) -> list[str]:
    """``> 0``, ``<= 1`` and so on, of pydantic's constraints."""
    found = []
    for bound in bounds:
        inner = getattr(bound, "metadata", None) or [bound]
        for one in inner:
            for sign, name in ((">", "gt"), (">=", "ge"), ("<", "lt"), ("<=", "le")):
                value = getattr(one, name, None)
                if value is not None:
                    found.append(f"{sign} {value:g}")
    return found


def _documented(model: type[BaseModel]) -> dict[str, str]:
    """What the section ``Attributes:`` of a class says of its fields."""
    text = inspect.cleandoc(model.__doc__ or "")
    _, there, section = text.partition("Attributes:\n")
    if not there:
        return {}
    entries = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", section, re.MULTILINE)
    return {name: " ".join(meaning.split()) for name, meaning in entries}
