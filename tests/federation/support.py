"""Small runs for tests."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

import consilia
from consilia.core.events import Event
from consilia.data.site import load_site_config
from consilia.federation.config import RunConfig, run_config
from consilia.federation.coordinator import Coordinator
from consilia.federation.initial import initial_state as start
from consilia.federation.messages import REQUESTS, Broadcast, Reply
from consilia.federation.server_settings import ServerSettings
from consilia.federation.site import Site
from consilia.record.schema import Record

MLP = "consilia.models.mlp.MLP"


def small(method: Any = "fedkper", **settings: Any) -> RunConfig:
    """Three rounds of two epochs on the Wisconsin table."""
    values = {
        "method": method,
        "model": {"class": MLP, "args": {"in_features": 30, "num_classes": 2, "hidden": [8]}},
        "rounds": 3,
        "training": {"local_epochs": 2, "batch_size": 16, "learning_rate": 0.05, "device": "cpu"},
    }
    return run_config({**values, **settings})


def model_of(config: RunConfig) -> nn.Module:
    return config.model.build(seed=config.seed, allowed=(config.model.class_,), folders={})


def initial_state(config: RunConfig) -> dict[str, Any]:
    return start(config, model_of(config))


class Federation:
    """Sites and a coordinator joined by a loop that a test can bend: reorder, drop or replace replies."""

    def __init__(self, config: RunConfig, site_files: Mapping[str, Path], folder: Path) -> None:
        self.config, self.folder = config, folder
        self.sites = {name: Site(config, load_site_config(path)) for name, path in site_files.items()}
        self.events: list[Event] = []
        self.coordinator = Coordinator(
            config,
            sorted(self.sites),
            initial_state(config),
            folder,
            all_parameters=266,
            server=ServerSettings(engine="inprocess", allow_models=(config.model.class_,)),
            progress=self.events.append,
        )

    def order(self, targets: Sequence[str]) -> list[str]:
        return list(targets)

    def bend(self, site: str, task: Broadcast, reply: Reply) -> Reply | None:
        return reply

    def deliver(self, tasks: Sequence[Broadcast]) -> None:
        for task in tasks:
            for name in self.order(task.targets):
                reply = self.bend(name, task, self.sites[name].answer(task.request, task.tensors))
                if reply is not None:
                    self.coordinator.receive(name, reply)

    def run(self) -> Record:
        return self.coordinator.run(self.deliver)

    def rounds(self) -> Record:
        """The run without the work after its rounds: the sites' personal models and reports take longer than these."""
        return self.coordinator.run(
            lambda requests: self.deliver([item for item in requests if not item.request.final])
        )


def stop_in(federation: Federation, number: int, trained: int) -> None:
    """The run is killed in the middle of a round, when so many sites have trained and moved their own state on."""
    seen: list[str] = []

    def stop(site: str, task: Broadcast, reply: Reply) -> Reply:
        if task.request.kind == "train" and task.request.round == number:
            seen.append(site)
            if len(seen) == trained:
                raise KeyboardInterrupt
        return reply

    federation.bend = stop  # type: ignore[method-assign]


def without_clocks(record: Record) -> dict[str, Any]:
    """The record without what legitimately differs between two runs: clocks, and the engine."""
    plain: dict[str, Any] = record.plain()
    for key in ("started", "seconds", "engine"):
        del plain["run"][key]
    plain["absences"] = [item["site"] for item in plain["absences"]]
    for item in plain["rounds"]:
        del item["seconds"]
        # The reply carries its own seconds as text, whose length may differ by a digit.
        del item["bytes_up"]
    return plain


def write_job(folder: Path, manifest: Any, app: str = "app", config: RunConfig | None = None) -> Path:
    """The sites' half of a job, as it is exported."""
    path = folder / app / "config" / "config_fed_client.json"
    path.parent.mkdir(parents=True)
    settings = (config or small()).to_json()
    executor = {
        "path": "consilia.flare.executor.ConsiliaExecutor",
        "args": {"config": settings, "version": consilia.__version__, "release_manifest": manifest},
    }
    content = {
        "format_version": 2,
        "executors": [{"tasks": list(REQUESTS), "executor": executor}],
        "components": [],
        "task_data_filters": [],
        "task_result_filters": [],
    }
    path.write_text(json.dumps(content))
    (folder / "meta.json").write_text(json.dumps({"name": "heart job"}))
    return folder
