"""The configuration of one run: everything a job says, and nothing about where a site's data are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, SerializeAsAny, ValidationError, field_validator, model_validator

import consilia
from consilia.core.errors import CannotTrain, ConfigError
from consilia.core.plain import PlainText
from consilia.core.schema import Strict, explain
from consilia.core.task import Task
from consilia.federation.config_keys import config_keys, meant
from consilia.methods.config import MethodConfig, RobustConfig, TrainingConfig
from consilia.methods.contract import declared_fields
from consilia.methods.registry import AllowedMethods, make_method, method_config, method_names, plugin_digest
from consilia.models.config import ModelConfig
from consilia.record.metrics import SELECT_BY, selectable

CONFIG_VERSION = 3
"""Goes up when the default of a key changes, and with it what a configuration means that leaves the key out."""


class RunConfig(Strict):
    """One federated run."""

    config_version: int = Field(CONFIG_VERSION, description="of the defaults; refused where it is another")
    label: str = Field(
        "",
        max_length=200,
        pattern=r"^([A-Za-z0-9][\w.-]*)?$",
        description="names the run in tables and folders; default: the method",
    )
    dataset: PlainText = Field("diagnosis", description="the dataset, by its name in the site.yaml of every site")
    task: Task = Field("classification", description="what is learnt; default of a study: as the site.yaml says")
    method: SerializeAsAny[MethodConfig]
    plugin: str | None = Field(None, description="SHA-256 of the file that the method comes from, if a plugin")
    model: ModelConfig
    training: TrainingConfig = TrainingConfig()
    rounds: int = Field(20, ge=1, description="of federated training")
    participation: float = Field(1.0, gt=0, le=1, description="fraction of the training sites sampled each round")
    min_sites: int = Field(
        2, ge=1, description="training sites needed to begin; updates needed in a round, or all where fewer were drawn"
    )
    seed: int = Field(0, ge=0, description="decides initial weights, batches and sampling")
    evaluate_every: int = Field(
        1, ge=0, description="rounds between evaluations of the global model; 0 = at the end only"
    )
    evaluate_at: Literal["all", "sampled"] = Field(
        "all", description="who evaluates while the rounds go on; sampled: the round's sites and the test-only ones"
    )
    select_by: str | None = Field(
        None, description="validation metric of the best round; default: loss, pooled over cases, or dice"
    )
    patience: int | None = Field(
        None, ge=1, description="stop after so many evaluations without a better validation value"
    )
    max_update_norm: Annotated[float, Field(gt=0)] | Literal["auto"] | None = Field(
        "auto", description="largest L2 norm of an update's change; null = none; auto: by the norm of the global model"
    )
    robust: RobustConfig = RobustConfig()
    exchange_dtype: Literal["float32", "float16"] = Field(
        "float32", description="of what travels; float16 halves it, and is what the server then keeps"
    )
    test_only_sites: tuple[PlainText, ...] = Field((), description="sites that train nothing: external test sites")
    preprocessing: Literal["site", "pooled"] = Field(
        "site", description="whose values prepare inputs: each site's own, or those of all training sites together"
    )
    licence: PlainText = Field("", max_length=200, description="under which its models may be used, for their cards")
    round_timeout: int = Field(3600, ge=0, description="seconds a site has for one task; 0 = for ever")

    @field_validator("config_version")
    @classmethod
    def _this_version(cls, value: int) -> int:
        if value != CONFIG_VERSION:
            raise ValueError(
                f"expected {CONFIG_VERSION}: install the version of Consilia that wrote this configuration, or make it "
                "anew with this one"
            )
        return value

    @field_validator("method", mode="before")
    @classmethod
    def _method_by_name(cls, value: Any) -> MethodConfig:
        return value if isinstance(value, MethodConfig) else method_config(value)

    @model_validator(mode="after")
    def _complete(self) -> RunConfig:
        if self.primary_metric not in selectable(self.task):
            raise ValueError(f"select_by of a {self.task} is one of {selectable(self.task)}, got {self.select_by!r}")
        method = make_method(self.method)
        if self.task not in method.tasks:
            raise CannotTrain(f"method {method.name} learns {' or '.join(method.tasks)}, the run's task is {self.task}")
        try:
            method.check_training(self.training)
        except ConfigError as error:
            raise CannotTrain(str(error)) from error
        if not method.robust and self.robust.rule != "mean":
            raise CannotTrain(
                f"method {method.name}: what its sites send beside the model adds up over the sites, which the "
                f"{self.robust.rule} does not do: set robust.rule=mean (robust.clip_norm may stay)"
            )
        if self.preprocessing == "pooled" and method.several_datasets:
            raise ValueError(f"preprocessing: pooled is for one dataset, method {method.name} trains several: set site")
        declared_fields(method)
        if self.training.class_weights is not None and self.task != "classification":
            raise ValueError(f"training.class_weights are for a classification, the run is a {self.task}: set null")
        if self.patience is not None and self.evaluate_every == 0:
            raise ValueError("patience counts evaluations, but evaluate_every is 0")
        arguments = {**method.model_arguments(), **self.model.args}
        object.__setattr__(self, "model", self.model.model_copy(update={"args": arguments}))
        digest = plugin_digest(method.name)
        if self.plugin is None:
            object.__setattr__(self, "plugin", digest)
        elif self.plugin != digest:
            raise ValueError(
                f"the run's method {method.name} comes from a plugin with SHA-256 {self.plugin}, here it is "
                f"{digest or 'installed'}: name that very file with --plugin"
            )
        if not self.label:
            object.__setattr__(self, "label", self.method.method)
        return self

    @property
    def primary_metric(self) -> str:
        """The validation metric by which the best round is chosen."""
        return self.select_by or SELECT_BY[self.task]

    @property
    def run_id(self) -> str:
        """Names the run at every participant: the same configuration is the same run, wherever and whenever it runs."""
        # Without what is left at its default: a new key changes no run, and a changed default changes the version.
        chosen = self.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        text = json.dumps({**chosen, "config_version": CONFIG_VERSION}, sort_keys=True)
        return f"{self.method.method}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"

    def to_json(self) -> dict[str, Any]:
        """Every value in plain JSON types, as a job carries them."""
        dumped: dict[str, Any] = self.model_dump(mode="json", by_alias=True)
        return dumped


def run_config(
    values: Mapping[str, Any],
    overrides: Sequence[str] = (),
    *,
    source: str = "configuration",
    allowed: AllowedMethods | None = None,
) -> RunConfig:
    """Validate a configuration after applying ``key.sub=value`` overrides (values are read as YAML).

    Args:
        values: the configuration.
        overrides: applied in turn.
        source: named in errors.
        allowed: of a participant who got the configuration in a job: a method that it does not list is not imported.

    Raises:
        ConfigError: names the source, the key, what was expected and what came.
    """
    merged = _plain_copy(values)
    for override in ("", *overrides):
        # Before each override, so that method.mu=1 finds a mapping where the method was given by name alone.
        if isinstance(merged.get("method"), str):
            merged["method"] = {"method": merged["method"]}
        if override:
            _apply(merged, override)
    _require_known(overrides, merged.get("method"))
    try:
        if allowed is not None:
            allowed.require(merged.get("method"))
        merged["method"] = method_config(merged.get("method"))
    except ValidationError as error:
        raise ConfigError(explain(error, _given_by(error, overrides, source, "method"), "method")) from error
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error
    try:
        return RunConfig.model_validate(merged)
    except ValidationError as error:
        raise ConfigError(explain(error, _given_by(error, overrides, source))) from error
    except CannotTrain as error:
        raise CannotTrain(f"{source}: {error}") from error


def require_version(version: str) -> None:
    """Refuse a job made by another version of Consilia, whose defaults and messages may differ.

    Raises:
        ConfigError: names both.
    """
    if version != consilia.__version__:
        raise ConfigError(f"the job was made by Consilia {version or 'unknown'}, here is {consilia.__version__}")


def _given_by(error: ValidationError, overrides: Sequence[str], source: str, *parents: str) -> str:
    """Where a wrong value comes from: the override that gives it, if one does, else the source of the whole."""
    places = {".".join(map(str, (*parents, *item["loc"]))) for item in error.errors(include_url=False)}
    given = [override for override in overrides if override.partition("=")[0].strip() in places]
    return f"--set {given[-1]}" if given and len(places) == 1 else source


def _require_known(overrides: Sequence[str], method: Any) -> None:
    """Refuse an override of a key that there is not, with the nearest one; of an unknown method the rest is refused."""
    name = method.get("method") if isinstance(method, Mapping) else None
    if not overrides or name not in method_names():
        return
    keys = config_keys(RunConfig, str(name))
    for override in overrides:
        hint = meant(override.partition("=")[0].strip(), keys)
        if hint is not None:
            raise ConfigError(f"--set {override}: unknown key; {hint} (consilia config {name} lists all keys)")


def _value(text: str) -> Any:
    # JSON first: YAML 1.1 takes 1e-5 for text.
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return yaml.safe_load(text)


def _plain_copy(values: Mapping[str, Any]) -> dict[str, Any]:
    copied: dict[str, Any] = json.loads(json.dumps(values))
    return copied


def _apply(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set takes key=value, for example training.batch_size=16; got {override!r}")
    *parents, last = key.strip().split(".")
    place = values
    for part in parents:
        place = place.setdefault(part, {})
        if not isinstance(place, dict):
            raise ConfigError(f"--set {override}: {part!r} is a single value, it has no {last!r}")
    try:
        place[last] = _value(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override}: the value is not YAML: {error}") from error
