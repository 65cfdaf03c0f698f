"""What a site does with each task. Personal models, correctness histories and per-case figures stay at home."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from consilia.core.errors import ConfigError
from consilia.core.files import write_bytes, write_json
from consilia.core.tensor_files import overwrite_tensors, write_tensors
from consilia.data.loading import PREPROCESSING, preprocessing_file
from consilia.data.site import RUNS, load_site_config
from consilia.evaluation.forgetting import flips
from consilia.federation.config import RunConfig
from consilia.federation.local_report import write_local_report, write_task_examples
from consilia.federation.messages import (
    EvaluateReply,
    PersonaliseReply,
    PrepareReply,
    Reply,
    TaskInfo,
    TrainMetrics,
    TrainReply,
    payload_bytes,
)
from consilia.federation.run_data import load_run_data
from consilia.federation.site_errors import note_error
from consilia.methods.catalogue import METHODS
from consilia.methods.config import Settings
from consilia.methods.fedkim.config import FedKIMConfig
from consilia.methods.learner import never
from consilia.models.exchange import in_type
from consilia.record.schema import SiteMetrics

log = logging.getLogger(__name__)

HISTORY = "correctness.safetensors"
Figures = tuple[SiteMetrics, dict[str, Tensor]]
"""Metrics of both splits, and the answers to the test split's cases."""
KEPT_VERSIONS = 3
"""Correctness vectors kept per model: the last one, and those a resumed run may fall back to."""


class Site:
    """One participant's half of a run.

    Args:
        config: the run.
        site_yaml: the site's own file; its data, its list of model classes, its state folder.
        should_stop: polled during training.
    """

    def __init__(self, config: RunConfig, site_yaml: Path, *, should_stop: Callable[[], bool] = never) -> None:
        self.config = config
        self.settings = load_site_config(site_yaml)
        self.name = self.settings.site
        self.folder = self.settings.state_dir / RUNS / config.run_id
        # One role's data or several tasks': the method's learner knows which.
        self.data: Any = load_run_data(config, site_yaml)
        if self.data.task != config.task:
            raise ConfigError(f"the run is a {config.task}, role {config.role!r} of {site_yaml} a {self.data.task}")
        model = config.model.build(
            seed=config.seed, allowed=self.settings.allow_models, folders=self.settings.foundation_models
        )
        learner: Any = METHODS[config.method.method].learner
        self.learner = learner(
            model, self.data, config.training, config.method, seed=config.seed, should_stop=should_stop
        )

    def answer(self, info: TaskInfo, tensors: Mapping[str, Tensor] | None) -> Reply:
        """Carry out a task. What goes wrong is logged here, at the site; the server learns the error's kind only."""
        try:
            handler = {
                "prepare": self._prepare,
                "train": self._train,
                "evaluate": self._evaluate,
                "personalise": self._personalise,
            }[info.task]
            reply = handler(info, tensors or {})
            log.info(
                "site %s sends for task %s: %d bytes, %d tensors, fields %s",
                self.name,
                info.task,
                payload_bytes(reply.tensors, reply.content),
                len(reply.tensors),
                sorted(json.loads(reply.content)),
            )
            return reply
        # Also MemoryError and torch's out-of-memory: a dead process would end the job for every site.
        except Exception as error:
            kept = note_error(self.settings.state_dir, f"task {info.task}", error)
            log.error("site %s: task %s failed with %s; see %s", self.name, info.task, type(error).__name__, kept)
            return Reply(error=type(error).__name__)

    def _prepare(self, info: TaskInfo, tensors: Mapping[str, Tensor]) -> Reply:
        if not info.resume:
            # The personal models of an earlier run of this configuration stay until new ones take their place.
            (self.folder / HISTORY).unlink(missing_ok=True)
        write_json(self.folder / "run.json", self.config.to_json())
        data = self.data
        self.learner.check_model()
        _load_ahead()
        reply = PrepareReply(
            train=len(data.train),
            validation=len(data.validation),
            test=len(data.test),
            class_names=data.class_names,
            fingerprint=data.fingerprint(),
            tasks=data.training_cases() if self.config.method.tasks() else {},
        )
        return _reply(reply)

    def _train(self, info: TaskInfo, tensors: Mapping[str, Tensor]) -> Reply:
        started = time.perf_counter()
        received = self._figures_of(tensors, "global", info.version)[0] if info.evaluate else None
        update = self.learner.train(tensors, info.version + 1)
        card = model_card(self.config, self.data.class_names, "personal-round")
        overwrite_tensors(self.folder / "personal-round.safetensors", update.tensors, card)
        trained = self._figures("personal", info.version + 1)[0] if info.evaluate else None
        reply = TrainReply(
            version=info.version,
            samples=update.samples,
            score=update.score,
            metrics=TrainMetrics.model_validate(finite(update.metrics)),
            received=received,
            trained=trained,
            seconds=time.perf_counter() - started,
        )
        dtype = self.config.exchange_dtype
        return _reply(reply, {name: in_type(tensor, dtype) for name, tensor in update.tensors.items()})

    def _evaluate(self, info: TaskInfo, tensors: Mapping[str, Tensor]) -> Reply:
        started = time.perf_counter()
        received, answers = self._received(info, tensors)
        if info.final and isinstance(self.config.method, FedKIMConfig):
            path = self.folder / f"report-{info.keep}.html"
            write_task_examples(path, self.data, answers, self.config.method.catalogue)
        reply = EvaluateReply(
            version=info.version,
            received=received,
            mean_query=self._ablated(info),
            seconds=time.perf_counter() - started,
        )
        return _reply(reply)

    def _personalise(self, info: TaskInfo, tensors: Mapping[str, Tensor]) -> Reply:
        """Train once more from the final global model with the method's own loss; the result never leaves."""
        started = time.perf_counter()
        received, before = self._received(info, tensors)
        mean_query = self._ablated(info)
        attention = self.learner.attention(self.data.test)
        self.learner.train(tensors, info.version + 1, epochs=self.config.training.personalise_epochs)
        self._keep(f"personal-{info.keep}", self.learner.state())
        fitted = preprocessing_file(self.settings, self.config.role).read_bytes()
        write_bytes(self.folder / PREPROCESSING, fitted, private=True)
        # Not part of the forgetting history: this is no round.
        personal, after = self._figures("personal", version=None, thorough=True)
        answers = {"global": before, "personal": after}
        write_local_report(self.folder / f"report-{info.keep}.html", self.data, answers, attention)
        reply = PersonaliseReply(
            version=info.version,
            received=received,
            personal=personal,
            mean_query=mean_query,
            seconds=time.perf_counter() - started,
        )
        return _reply(reply)

    def _keep(self, name: str, state: Mapping[str, Tensor]) -> None:
        card = model_card(self.config, self.data.class_names, name)
        write_tensors(self.folder / f"{name}.safetensors", state, card, private=True)

    def _received(self, info: TaskInfo, state: Mapping[str, Tensor]) -> Figures:
        # The best round was evaluated when it was the newest: coming back to it is no news for the history.
        version = info.version if info.keep == "last" else None
        return self._figures_of(state, "global", version, thorough=info.final)

    def _ablated(self, info: TaskInfo) -> SiteMetrics | None:
        """Figures of the final global model, just received, without the method's personal touch."""
        touchless = self.learner.ablated() if info.final else None
        if touchless is None:
            return None
        with touchless:
            return self._figures("ablated", version=None)[0]

    def _figures_of(
        self, state: Mapping[str, Tensor], kind: str, version: int | None, *, thorough: bool = False
    ) -> Figures:
        self.learner.load(state)
        return self._figures(kind, version, thorough=thorough)

    def _figures(self, kind: str, version: int | None, *, thorough: bool = False) -> Figures:
        """Metrics of the model as it now is; with a version, also its flips since the last evaluation of that kind."""
        figures: dict[str, dict[str, Any] | None] = {}
        answers: dict[str, Tensor] = {}
        for name in ("validation", "test"):
            split = self.data.split(name)
            answers = self.learner.answers(split)
            metrics = self.learner.measure(answers, split, thorough=thorough)
            right = self.learner.right(answers, split)
            if metrics is not None and right is not None and name == "test" and version is not None:
                negative, positive = self._flips(kind, version, right)
                metrics |= {"negative_flips": negative, "positive_flips": positive}
            figures[name] = metrics
        return SiteMetrics.model_validate(figures), answers

    def _flips(self, kind: str, version: int, correct: Tensor) -> tuple[int, int]:
        path = self.folder / HISTORY
        history = load_file(path) if path.is_file() else {}
        versions = sorted(int(key.rpartition("/")[2]) for key in history if key.startswith(f"{kind}/"))
        earlier = [then for then in versions if then < version]
        # The history starts at all wrong, so a first evaluation forgets nothing (specification 6.1).
        previous = history[f"{kind}/{earlier[-1]}"] if earlier else torch.zeros_like(correct)
        history[f"{kind}/{version}"] = correct
        for old in earlier[: -(KEPT_VERSIONS - 1)]:
            del history[f"{kind}/{old}"]
        write_tensors(path, history, durable=False, private=True)
        return flips(previous, correct)


def _load_ahead() -> None:
    """Load what a process loads when it first trains and evaluates: the first round has a time limit to keep to."""
    import_module("sklearn.metrics")
    # The first optimiser of a process loads torch's compiler.
    torch.optim.SGD([torch.zeros(1)])


def model_card(config: RunConfig, class_names: tuple[str, ...], kind: str) -> dict[str, str]:
    """Metadata of a saved model: what is needed to build it again and use it on new cases."""
    content = {
        "model": config.model.model_dump(mode="json", by_alias=True),
        "task": config.task,
        "role": config.role,
        "class_names": list(class_names),
        "method": config.method.method,
        "kind": kind,
        "run_id": config.run_id,
    }
    return {"consilia": json.dumps(content, sort_keys=True)}


def finite(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """Metrics with what is not a finite number undefined."""
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}


def _reply(content: Settings, tensors: Mapping[str, Tensor] | None = None) -> Reply:
    return Reply(content.model_dump_json(by_alias=True), tensors or {})
