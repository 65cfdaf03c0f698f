"""Gathers what happens in a run into the record that result.json holds; its own state is JSON, so it resumes."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from importlib import metadata
from typing import Any, Literal

from consilia.core.clock import timestamp
from consilia.federation.config import RunConfig
from consilia.federation.messages import PrepareReply
from consilia.federation.run_warnings import warnings_of
from consilia.methods.server import Server
from consilia.record.schema import (
    Absence,
    Evaluation,
    Exchange,
    FieldInfo,
    FinalModels,
    Record,
    RoundRecord,
    RunInfo,
    SiteInfo,
    SiteMetrics,
)

PACKAGES = (
    "consilia",
    "nvflare",
    "torch",
    "numpy",
    "scikit-learn",
    "pandas",
    "safetensors",
    "pillow",
    "monai",
    "timm",
    "transformers",
    "peft",
)


class Recorder:
    """The growing record of one run."""

    def __init__(self, config: RunConfig, engine: Literal["inprocess", "sim", "poc", "prod"]) -> None:
        self.config, self.engine = config, engine
        self.started = timestamp()
        self.fields: dict[str, FieldInfo] = {}
        self.global_model = True
        """Whether evaluations of kind global are of a global model, and so belong into the record."""
        self.exchange: Exchange | None = None
        self.sections: dict[str, Any] = {}
        self.server_fingerprint: str | None = None
        self.best_by: str | None = None
        self.absent: dict[str, str] = {}
        self.absences: list[Absence] = []
        self.class_names: list[str] = []
        self.sites: dict[str, SiteInfo] = {}
        self.preprocessing: dict[str, list[float]] | None = None
        self.rounds: list[RoundRecord] = []
        self.final: dict[Literal["last", "best"], FinalModels] = {}
        self._evaluations: dict[tuple[int, str], dict[str, SiteMetrics]] = {}
        self._in_json: dict[tuple[int, str], dict[str, Any]] = {}
        self._rounds_in_json: list[tuple[RoundRecord, dict[str, Any]]] = []
        self._earlier_seconds = 0.0
        self._clock = time.perf_counter()

    def add_site(self, name: str, reply: PrepareReply) -> None:
        """Note a site that takes part."""
        self.sites[name] = SiteInfo(
            train=reply.train,
            validation=reply.validation,
            test=reply.test,
            test_only=reply.train == 0,
            fingerprint=reply.fingerprint,
            tasks=reply.datasets,
            layout=reply.layout,
        )

    def missing(self) -> set[str]:
        """The sites that have not answered since they were asked in vain."""
        return {absence.site for absence in self.absences if absence.until is None}

    def end_absence(self, site: str, until: str) -> None:
        """Note that a site answers again."""
        for number, absence in enumerate(self.absences):
            if absence.site == site and absence.until is None:
                self.absences[number] = absence.model_copy(update={"until": until})

    def add_section(self, server: Server[Any]) -> None:
        """Note what a method says of its own work at the server so far."""
        section = server.section()
        if section is not None:
            self.sections[server.method.name] = section
        self.server_fingerprint = server.fingerprint()

    def add_evaluation(
        self, version: int, model: Literal["global", "personal"], site: str, metrics: SiteMetrics
    ) -> None:
        """Note a site's metrics of one model version."""
        self._evaluations.setdefault((version, model), {})[site] = metrics
        self._in_json.pop((version, model), None)

    def evaluation(self, version: int, model: Literal["global", "personal"]) -> Mapping[str, SiteMetrics]:
        """The metrics noted for one model version, by site."""
        return self._evaluations.get((version, model), {})

    def evaluations(self) -> list[Evaluation]:
        """All evaluations in order of version."""
        return [self._evaluation(*key) for key in sorted(self._evaluations)]

    def _evaluation(self, version: int, model: str) -> Evaluation:
        return Evaluation(
            version=version,
            model="global" if model == "global" else "personal",
            sites=dict(sorted(self._evaluations[version, model].items())),
        )

    def amend_round(self, seconds: float, sha256: str) -> None:
        """Note the method's own work after the newest round: how long it took, and the global model that it left."""
        last = self.rounds[-1]
        took = {**last.seconds, "after_round": seconds}
        self.rounds[-1] = last.model_copy(update={"seconds": took, "sha256": sha256})

    def digest(self, version: int) -> str | None:
        """The digest of the global model of a version; of the initial one there is none."""
        return self.rounds[version - 1].sha256 if version else None

    def seconds(self) -> float:
        """Wall-clock seconds so far, interruptions not counted."""
        return self._earlier_seconds + time.perf_counter() - self._clock

    def state(self) -> dict[str, Any]:
        """JSON state for a checkpoint."""
        return {
            "started": self.started,
            "seconds": self.seconds(),
            "class_names": self.class_names,
            "sites": {name: site.model_dump(mode="json", by_alias=True) for name, site in self.sites.items()},
            "rounds": self._rounds_as_json(),
            "absences": [item.model_dump(mode="json") for item in self.absences],
            "preprocessing": self.preprocessing,
            "sections": self.sections,
            "server_fingerprint": self.server_fingerprint,
            "evaluations": self._evaluations_as_json(),
        }

    # A checkpoint per round: what earlier ones have turned into JSON is not done again, or a round would cost the more
    # the later it is.

    def _rounds_as_json(self) -> list[dict[str, Any]]:
        for place, item in enumerate(self.rounds):
            known = self._rounds_in_json[place][0] if place < len(self._rounds_in_json) else None
            if known is not item:
                self._rounds_in_json[place:] = [(item, item.model_dump(mode="json", by_alias=True))]
        return [dumped for _, dumped in self._rounds_in_json]

    def _evaluations_as_json(self) -> list[dict[str, Any]]:
        for key in self._evaluations:
            if key not in self._in_json:
                self._in_json[key] = self._evaluation(*key).model_dump(mode="json", by_alias=True)
        return [self._in_json[key] for key in sorted(self._evaluations)]

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint's state."""
        self.started, self._earlier_seconds = state["started"], state["seconds"]
        self.class_names = list(state["class_names"])
        self.sites = {name: SiteInfo.model_validate(site) for name, site in state["sites"].items()}
        self.rounds = [RoundRecord.model_validate(item) for item in state["rounds"]]
        self.absences = [Absence.model_validate(item) for item in state.get("absences", [])]
        self.preprocessing = state.get("preprocessing")
        self.sections, self.server_fingerprint = state["sections"], state["server_fingerprint"]
        for item in map(Evaluation.model_validate, state["evaluations"]):
            self._evaluations[(item.version, item.model)] = dict(item.sites)

    def record(self, status: Literal["running", "finished", "stopped_early"]) -> Record:
        """The record of the run, finished or as far as it has got."""
        config = self.config
        run = RunInfo(
            id=config.run_id,
            name=f"{config.label}-seed{config.seed}",
            method=config.method.method,
            task=config.task,
            label=config.label,
            engine=self.engine,
            seed=config.seed,
            status=status,
            rounds_planned=config.rounds,
            rounds_done=len(self.rounds),
            started=self.started,
            seconds=self.seconds(),
            best_by=self.best_by,
        )
        record = Record(
            run=run,
            config=config.to_json(),
            versions=versions(),
            sites=dict(sorted(self.sites.items())),
            class_names=self.class_names,
            preprocessing=self.preprocessing,
            fields=self.fields,
            exchange=self.exchange,
            sections=self.sections,
            server_fingerprint=self.server_fingerprint,
            absent=dict(sorted(self.absent.items())),
            absences=self.absences,
            rounds=self.rounds,
            evaluations=[item for item in self.evaluations() if self.global_model or item.model != "global"],
            final=self.final,
        )
        return record if status == "running" else record.model_copy(update={"warnings": warnings_of(record)})


def versions() -> dict[str, str | None]:
    """Versions of what a result depends on; null where a package is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version(), "platform": platform.machine()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found
