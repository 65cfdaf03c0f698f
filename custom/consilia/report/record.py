"""The record of a run, ``result.json``: its schema, and how it is read and written. See docs/result-schema.md.

Version r is the global model after round r; version 0 is the initial model. Undefined values are null, never NaN.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, NonNegativeInt, ValidationError, model_validator

from consilia.core.errors import ConfigError
from consilia.core.files import write_json

SCHEMA = "consilia.result/1"

Fraction = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]


class Part(BaseModel):
    """Base of the record's parts: unknown keys and NaN are refused; JSON uses the aliases ``schema`` and ``global``."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, populate_by_name=True, serialize_by_alias=True)


class RunInfo(Part):
    """What was run. ``label`` groups the seeds of one method; ``started`` is ISO 8601; ``seconds`` wall clock."""

    id: str
    name: str
    method: str
    label: str
    engine: Literal["inprocess", "sim", "poc", "prod"]
    seed: int
    status: Literal["finished", "stopped_early"]
    rounds_planned: NonNegativeInt
    rounds_done: NonNegativeInt
    started: str
    seconds: NonNegative


class SiteInfo(Part):
    """Cases per split, whether the site only evaluates, and the fingerprint of its data (no patient is in it)."""

    train: NonNegativeInt
    validation: NonNegativeInt
    test: NonNegativeInt
    evaluator: bool
    fingerprint: str


class Contribution(Part):
    """One accepted update: ``weight`` is its normalised share of the aggregate, ``score`` the method's raw score."""

    weight: NonNegative
    score: float | None
    samples: NonNegativeInt
    train_loss: float | None
    train_accuracy: Fraction | None


class RoundRecord(Part):
    """Round r = 1..T, from version r-1 to version r. Bytes are per site as sent; ``seconds`` per phase."""

    round: Annotated[int, Field(ge=1)]
    participants: list[str]
    contributions: dict[str, Contribution]
    refused: dict[str, str]
    missing: list[str]
    bytes_down: dict[str, NonNegativeInt]
    bytes_up: dict[str, NonNegativeInt]
    seconds: dict[str, NonNegative]
    sha256: str


class Metrics(Part):
    """Of one model on one split of one site. Flips count against the site's previous evaluation of the same kind."""

    count: Annotated[int, Field(ge=1, le=10_000_000)]
    correct: NonNegativeInt
    accuracy: Fraction
    balanced_accuracy: Fraction
    auroc: Fraction | None
    loss: Annotated[float, Field(ge=0, le=1e9)] | None
    negative_flips: NonNegativeInt | None = None
    positive_flips: NonNegativeInt | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Metrics:
        flips = (self.negative_flips or 0) + (self.positive_flips or 0)
        if max(self.correct, flips) > self.count or abs(self.accuracy - self.correct / self.count) > 1e-6:
            raise ValueError(
                f"{self.correct} of {self.count} correct, {flips} flips and accuracy {self.accuracy} disagree"
            )
        return self


class SiteMetrics(Part):
    """A split without cases (or not evaluated) is null."""

    validation: Metrics | None
    test: Metrics | None


class Evaluation(Part):
    """``global``: that version at every site. ``personal``: round r's participants' own models before aggregation."""

    version: NonNegativeInt
    model: Literal["global", "personal"]
    sites: dict[str, SiteMetrics]


class FinalModels(Part):
    """A chosen global version, and the personal models that every training site made from it after the rounds."""

    version: NonNegativeInt
    sha256: str
    global_: dict[str, SiteMetrics] = Field(alias="global")
    personal: dict[str, SiteMetrics]


class Record(Part):
    """A whole run. ``config`` and ``versions`` are kept as given; yardsticks are records of their own."""

    schema_: Literal["consilia.result/1"] = Field(default="consilia.result/1", alias="schema")
    run: RunInfo
    config: dict[str, JsonValue]
    versions: dict[str, str | None]
    sites: dict[str, SiteInfo]
    class_names: list[str]
    rounds: list[RoundRecord]
    evaluations: list[Evaluation]
    final: dict[Literal["last", "best"], FinalModels]

    @model_validator(mode="after")
    def _only_known_sites(self) -> Record:
        named: set[str] = set()
        for part in self.rounds:
            named.update(part.participants, part.contributions, part.refused, part.missing)
            named.update(part.bytes_down, part.bytes_up)
        for evaluation in self.evaluations:
            named.update(evaluation.sites)
        for chosen in self.final.values():
            named.update(chosen.global_, chosen.personal)
        if unknown := sorted(named - self.sites.keys()):
            raise ValueError(f"sites must list every site that is used, but lacks {', '.join(unknown)}")
        return self

    def plain(self) -> dict[str, Any]:
        """The record as plain dicts, lists, numbers and strings, keyed and ordered as in result.json."""
        # A record made in memory and the same one read from disk must give the same report to the byte.
        plain: dict[str, Any] = json.loads(json.dumps(self.model_dump(mode="json", by_alias=True), sort_keys=True))
        return plain


def save_record(record: Record, path: Path) -> None:
    """Write ``result.json`` atomically."""
    write_json(path, record.plain())


def load_record(path: Path) -> Record:
    """Read a ``result.json``.

    Raises:
        ConfigError: the file is missing, is not JSON, or does not fit the schema; names the file and the key.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the record of a run ({error.strerror})") from error
    except ValueError as error:
        raise ConfigError(f"{path}: expected a result.json, but it is not JSON ({error})") from error
    schema = content.get("schema") if isinstance(content, dict) else None
    if schema != SCHEMA:
        raise ConfigError(f"{path}: key schema: expected {SCHEMA!r}, got {schema!r}")
    try:
        return Record.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"]) or "(whole file)"
        # For a missing key pydantic reports the surrounding object as the input: too much for a message.
        got = "" if isinstance(first["input"], dict | list) else f", got {first['input']!r}"
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise ConfigError(f"{path}: key {key}: {first['msg']}{got}{more}") from error
