"""What the sites of a job do, read and send: the manifest that a hospital approves, and the check of a message by it.

A manifest is derived from the run's configuration, and from the schemas of the replies
(:mod:`consilia.federation.messages`) narrowed to the run. It names every setting of the run with its value, every
tensor with its layout (``"float32[8, 30]"``) and, for every task, every field of the reply's JSON with its kind. A
path's parts are joined by dots; ``box|image`` is either of these keys, ``[]`` the items of a list, ``/`` a dot in a
key. There is no free key: a site cannot say anything by naming one.

Kinds: ``integer`` (up to 2**53), ``number`` (finite), ``boolean``, ``text`` (at most 200 characters), ``sha256`` (64
hexadecimal digits), and ``a|b`` (one of these texts). null, ``{}`` and ``[]`` may stand for any field that is named,
since they carry nothing. A field that the run never fills is not named, and a reply does not have it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, ValidationError, field_validator
from torch import Tensor, nn

from consilia.core.errors import ConfigError, ReleaseRefused
from consilia.core.reading import read_json
from consilia.core.schema import MAX_SHOWN, Strict, explain
from consilia.federation.config import RunConfig, run_config
from consilia.federation.messages import RequestKind
from consilia.federation.release_check import Node, check_error, compare, is_nothing, parsed, tree
from consilia.federation.release_fields import asked_of, datasets_of, fields_of
from consilia.methods.contract import TensorSpec, transmitted
from consilia.methods.registry import AllowedMethods, make_method
from consilia.models.exchange import ModelSize

CLIENT_CONFIG = "config_fed_client.json"

MAX_CONFIG_BYTES = 16 * 2**20
"""Of a file of a job: one with a manifest of ten thousand tensors has less than 2 MB."""

# Names are shown to who approves them: no control character may hide one.
TensorName = Annotated[str, Field(max_length=200, pattern=r"^[\w .-]+$")]
Place = Annotated[str, Field(max_length=2000, pattern=r"^[\w .|/\[\]-]+$")]
Layout = Annotated[str, Field(max_length=200, pattern=r"^[a-z]+\d*\[(\d+(, \d+)*)?\]$")]
Setting = Annotated[str, Field(max_length=500, pattern=r"^\w+(\.\w+)*$")]
SettingValue = Annotated[str, Field(max_length=10_000, pattern=r"^[ -~]+$")]
# As site.yaml has them.
DatasetName = Annotated[str, Field(max_length=200, pattern=r"^[A-Za-z0-9_.-]+$")]
Kind = Annotated[str, Field(pattern=r"^(integer|number|boolean|text|sha256|[\w.-]+(\|[\w.-]+)+)$")]


class Manifest(Strict):
    """What the sites of one job are asked to do, and what they send; nothing else.

    Attributes:
        asked: every setting of the run but its label and seed: the value as JSON, by its path in the configuration.
        model_size: of the whole network, frozen tensors included.
        datasets: the datasets of a site that the job reads, sorted.
        tensors: the layout of each tensor by name; they go with ``train`` alone, and a site may send some of them.
        fields: for each task that the job has, the kind of each field of the reply's JSON by its path.
    """

    asked: dict[Setting, SettingValue]
    model_size: ModelSize
    datasets: tuple[DatasetName, ...]
    tensors: dict[TensorName, Layout]
    fields: dict[RequestKind, dict[Place, Kind]]

    @field_validator("datasets")
    @classmethod
    def _sorted(cls, datasets: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(sorted(datasets))

    @field_validator("asked", "tensors", mode="before")
    @classmethod
    def _named_from_lines(cls, value: Any) -> Any:
        return _from_lines(value)

    @field_validator("fields", mode="before")
    @classmethod
    def _fields_from_lines(cls, value: Any) -> Any:
        return {task: _from_lines(lines) for task, lines in value.items()} if isinstance(value, dict) else value

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types, as a job and an approval carry them.

        Names stand in lines, not in keys: NVFlare takes a key that speaks of tokens or keys, as tensors' names do, for
        a secret, and ``nvflare job submit`` makes nested objects of keys with dots.
        """
        fields = {task: _lines(found) for task, found in self.fields.items()}
        tensors = _lines(dict(sorted(self.tensors.items())))
        return {
            "asked": _lines(self.asked),
            "model_size": self.model_size.model_dump(),
            "datasets": list(self.datasets),
            "tensors": tensors,
            "fields": fields,
        }

    @property
    def digest(self) -> str:
        """``sha256:`` and 64 digits of the canonical JSON: equal for equal manifests, however they were written."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
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
            ReleaseRefused: naming the task, the tensor or field, what was approved and what came.
        """
        fields = self._trees.get(task)
        if fields is None:
            raise ReleaseRefused(f"task {task[:60]!r} is not in the manifest, which has {sorted(self.fields)}")
        if error:
            check_error(task, content, tensors, error)
            return ()
        self._check_tensors(task, tensors)
        reported = parsed(task, content)
        compare(fields, reported, task)
        return tuple(sorted(name for name, value in reported.items() if not is_nothing(value)))

    def _check_tensors(self, task: str, tensors: Mapping[str, Any]) -> None:
        if tensors and task != "train":
            raise ReleaseRefused(f"{task}: {len(tensors)} tensor(s), approved are none: they go with train alone")
        for name, tensor in tensors.items():
            approved = self.tensors.get(name)
            if approved is None:
                raise ReleaseRefused(f"{task}: tensor {str(name)[:120]!r} is not in the manifest")
            # An instance of a subclass, a Parameter say, may carry more than its values.
            came = layout(tensor) if type(tensor) in (Tensor, np.ndarray) else f"a {type(tensor).__name__}"
            if came != approved:
                raise ReleaseRefused(f"{task}: tensor {name!r} is {came}, approved is {approved}")

    @cached_property
    def _trees(self) -> dict[str, Node]:
        return {task: tree(fields.items()) for task, fields in self.fields.items()}


def manifest_of(config: RunConfig, model: nn.Module) -> Manifest:
    """What the sites of a run are asked to do, and what they send.

    Args:
        config: the run.
        model: its network: the method says which of its tensors are sent, and what beside them.
    """
    method = make_method(config.method)
    # What travels beside the model keeps the type that the method declares.
    halved = set(method.exchanged(model)) if config.exchange_dtype == "float16" else set()
    tensors = {
        name: f"float16{list(spec.shape)}" if name in halved and spec.dtype.is_floating_point else layout(spec)
        for name, spec in sorted(transmitted(method, model).items())
    }
    return Manifest(
        asked=asked_of(config),
        model_size=ModelSize.of(model),
        datasets=datasets_of(config),
        tensors=tensors,
        fields=fields_of(config),
    )


def layout(tensor: Tensor | TensorSpec | np.ndarray[Any, Any]) -> str:
    """Type and shape of a tensor, e.g. ``float32[8, 30]``."""
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"


def read_manifest(place: Path) -> tuple[str, Manifest, RunConfig]:
    """The name, the manifest and the configuration of a job.

    Args:
        place: an exported job's folder, or the folder of a deployed job in a startup kit.

    Returns:
        The name, made fit for a file's: ASCII, at most 64 characters; the manifest, and the configuration.

    Raises:
        ConfigError: the folder is no job, or its manifest is missing, malformed, or at odds with its configuration.
    """
    found = sorted(place.glob(f"*/config/{CLIENT_CONFIG}"))
    if not found:
        raise ConfigError(f"{place} is no job: expected */config/{CLIENT_CONFIG} in it")
    (first, config), *others = [job_in(path) for path in found]
    if any(other.digest != first.digest for other, _ in others):
        raise ConfigError(f"{place}: the apps of this job have unlike manifests: {[str(path) for path in found]}")
    try:
        name = read_json(place / "meta.json", MAX_CONFIG_BYTES, links=False)["name"]
    except (ConfigError, KeyError, TypeError):
        name = None
    if not isinstance(name, str) or not name:
        name = place.resolve().name
    return re.sub(r"[^A-Za-z0-9_.-]", "-", name)[:64], first, config


def job_in(path: Path) -> tuple[Manifest, RunConfig]:
    """The manifest and the configuration in a job's ``config_fed_client.json``.

    Raises:
        ConfigError: there is none, or as :func:`checked_job` does.
    """
    try:
        executors = read_json(path, MAX_CONFIG_BYTES, links=False)["executors"]
        arguments = [item["executor"]["args"] for item in executors]
        found = [item for item in arguments if "release_manifest" in item]
    except (KeyError, TypeError) as error:
        raise ConfigError(f"{path} is no configuration of a Consilia job ({type(error).__name__}: {error})") from error
    # A second one, with a manifest or without, would answer tasks by a configuration that nobody has compared.
    if len(found) != 1 or len(arguments) != 1:
        text = f"found {len(found)} with one among {len(arguments)}"
        raise ConfigError(f"{path}: expected one executor, with a manifest (argument release_manifest), {text}")
    return checked_job(found[0].get("config"), found[0]["release_manifest"], str(path))


def checked_job(
    settings: Any, manifest: Any, source: str, allowed: AllowedMethods | None = None
) -> tuple[Manifest, RunConfig]:
    """The manifest and the configuration of a job, if they agree.

    Args:
        settings: the configuration's JSON.
        manifest: the manifest's JSON.
        source: named in errors.
        allowed: the methods that the site lists, of a job that runs there.

    Raises:
        ConfigError: one of them is malformed, or the job asks for something else than its manifest says; the first
            setting that differs is named.
    """
    said = as_manifest(manifest, source)
    if not isinstance(settings, dict):
        raise ConfigError(f"{source}: argument config: expected an object, got {type(settings).__name__}")
    try:
        json.dumps(settings, allow_nan=False)
    # A value that JSON lacks would be shown to who approves the job as none.
    except ValueError as error:
        raise ConfigError(f"{source}: argument config holds NaN or infinity: expected finite numbers") from error
    config = run_config(settings, source=source, allowed=allowed)
    _require_said(asked_of(config), said.asked, source)
    datasets = datasets_of(config)
    if datasets != said.datasets:
        text = f"{list(datasets)}, its manifest names {list(said.datasets)}"
        raise ConfigError(f"{source}: the job reads the datasets {text}")
    return said, config


def _require_said(asked: Mapping[str, str], said: Mapping[str, str], source: str) -> None:
    """Raise :class:`ConfigError` with the first setting of a job that is not as its manifest says."""
    for path in sorted(asked.keys() | said.keys()):
        here, there = (of.get(path, "nothing of it")[:MAX_SHOWN] for of in (asked, said))
        if asked.get(path) != said.get(path):
            unlike = f"its manifest says {there}, its configuration {here}"
            raise ConfigError(f"{source}: the job is not what it says it is: {path}: {unlike}")


def require_size(manifest: Any, built: ModelSize) -> None:
    """Raise :class:`ReleaseRefused` unless the network that a site has built is of the size that was approved."""
    said = as_manifest(manifest, "this job").model_size
    if built != said:
        here, there = (f"{size.elements} elements ({size.bytes} bytes)" for size in (built, said))
        raise ReleaseRefused(f"the model has {here}, approved are {there}")


def as_manifest(content: Any, source: str) -> Manifest:
    """Validate a manifest's JSON; raises ConfigError naming the source and the key."""
    if isinstance(content, dict) and "datasets" in content and "asked" not in content:
        raise ConfigError(
            f"{source}: the manifest does not say what the job asks of a site: an older Consilia has made it. Export "
            "the job anew; read it with consilia site manifest, remove an approval made of the old one, and approve "
            "the job anew"
        )
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        raise ConfigError(explain(error, f"{source}: the manifest is malformed")) from error


def _lines(named: Mapping[str, str]) -> list[str]:
    return [f"{name}: {what}" for name, what in named.items()]


def _from_lines(value: Any) -> Any:
    """What :func:`_lines` made lines of; anything else as it is."""
    if not isinstance(value, list):
        return value
    named = dict(str(line).split(": ", 1) for line in value if ": " in str(line))
    if len(named) != len(value):
        raise ValueError("expected one line 'name: layout', 'field: kind' or 'setting: value' for each")
    return named
