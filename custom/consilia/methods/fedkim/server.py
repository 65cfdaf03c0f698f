"""FedKIM at the server: each tensor is averaged over the sites that trained it, then their knowledge is injected.

After every round the server aligns and injects on its own public data and sends changed encoders back; when the rounds
are over it evaluates every task.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch

from consilia.core.determinism import state_digest
from consilia.core.errors import CheckpointError, ConfigError
from consilia.core.events import Notice, ServerWorks
from consilia.core.files import write_json
from consilia.evaluation.open_answers import require_nltk
from consilia.methods.contract import Method, State
from consilia.methods.fedkim import section as record
from consilia.methods.fedkim.answers_page import ANSWERS, write_answers
from consilia.methods.fedkim.cases import Cases, fingerprint, load_server_cases, some
from consilia.methods.fedkim.config import FedKIMConfig
from consilia.methods.fedkim.estimate import estimate, in_words
from consilia.methods.fedkim.evaluation import ask, ask_extractor, baselines, examples, few_shot, validated
from consilia.methods.fedkim.injected import LANGUAGE, InjectedModel, frozen_language
from consilia.methods.fedkim.injection import Injection, injection_store, plan
from consilia.methods.fedkim.owners import owners
from consilia.methods.fit import choose_device
from consilia.methods.server import MODEL_CARD, Server, ServerContext, UpdateMetadata, Weights
from consilia.models.encoders import SeriesEncoder
from consilia.models.extractor import ENCODER, KnowledgeExtractor

REPORT = "report"
"""In the server's state: what the record will hold, beside the tensors."""


class FedKIMServer(Server[FedKIMConfig]):
    """Aggregates the extractor, and holds the injected model from round to round.

    theta_m = sum_k n_km theta_km / sum_k n_km for every encoder m, over the sites k that have a task reading it. n_km
    counts the site's training cases of the tasks that read modality m; a head's are its own task's.

    Args:
        method: FedKIM with its parameters.
        context: where the server's data and models are.

    Raises:
        ConfigError: the server has no data of its own, no such language model, or the network is no extractor.
    """

    def __init__(self, method: Method[FedKIMConfig], context: ServerContext) -> None:
        super().__init__(method, context)
        config = self.config
        if context.data is None:
            raise ConfigError(
                "method fedkim injects with the server's own public data: name their file (of site.yaml's form, a "
                "dataset per task) as data in the server's server.yaml"
            )
        self.seed = context.seed
        self.cases = load_server_cases(context.data, config.task_definitions)
        require_nltk()  # now, and not when hours of rounds are over
        language = frozen_language(config, context.foundation_models)
        extractor = context.model()
        if not isinstance(extractor, KnowledgeExtractor):
            raise ConfigError(f"method fedkim needs a KnowledgeExtractor, got {type(extractor).__name__}")
        self.extractor = extractor
        self._require_encoders()
        if config.injection.gradient_checkpointing:
            language.model.gradient_checkpointing_enable({"use_reentrant": False})
        device = choose_device(config.injection.device)
        self.model = InjectedModel(language, self.extractor, config, self.seed).to(device)
        self.public = {name: self.cases[name].public for name in config.task_definitions.seen if name in self.cases}
        self._report = record.Injection(
            seen=[name for name in config.task_definitions.seen if name in self.cases],
            unseen=[name for name in config.task_definitions.unseen if name in self.cases],
            fingerprint=fingerprint(self.cases),
            experts=config.experts if config.adapter == "m3oe" else 0,
            parameters=self._count(),
        )
        self._examples: list[dict[str, Any]] = []
        self.context.progress(Notice(reason=in_words(estimate(self.model, self.public, config, device))))

    # ---- rounds ------------------------------------------------------------------------------------------------

    def expected(self, names: Collection[str], datasets: Mapping[str, int]) -> Collection[str]:
        """The encoders and heads of the site's tasks."""
        return [name for name in names if self._cases(name, datasets)]

    def weights(self, updates: Mapping[str, UpdateMetadata]) -> Weights:
        """n_km by site and tensor."""
        names = self.extractor.state_dict()
        return {
            site: {name: float(cases) for name in names if (cases := self._cases(name, update.datasets))}
            for site, update in updates.items()
        }

    def after_round(self, state: State, round_number: int) -> State:
        """Inject the aggregated extractor's knowledge; with ``encoder_pushback`` the encoders come back changed.

        An injection that was interrupted goes on where its last checkpoint was made, if it began from the same state.
        """
        started = time.perf_counter()
        self._load_extractor(state)
        seen = {name: self.cases[name] for name in self._report.seen}
        own = {name: ask_extractor(self.extractor, self._test(name), seed=self.seed) for name in seen}
        settings = self.config.injection
        planned = plan(self.public, settings, self.seed, "injection", round_number)
        injection = Injection(self.model, self.public, settings, planned, self.context.should_stop)
        store = injection_store(self.context.folder)
        key = f"{round_number} {self._report.fingerprint} {state_digest({**state, **self.model.tensors()})}"
        injection.run(store, key, self.seed, lambda step, steps: self._report_progress(round_number, step, steps))
        done = record.InjectionRound(
            round=round_number,
            steps=len(planned),
            seconds=time.perf_counter() - started,
            loss=injection.mean_losses(),
            validation=validated(self.model, seen, seed=self.seed),
            gates={name: self._gates(name) for name in self.cases} if self.model.routed else {},
        )
        self._report = self._report.model_copy(
            update={"rounds": [*self._report.rounds, done], "test": {"extractor": own}}
        )
        return self._pushed_back(state)

    def finish(self) -> None:
        """Evaluate every task's test cases, and those of unseen tasks again after a few labelled public cases."""
        test: dict[record.Answerer, dict[str, record.TaskAnswers]] = {"injected": {}, "linear": {}, "majority": {}}
        few_labelled, stop = {}, self.context.should_stop
        for name, cases in self.cases.items():
            self.context.progress(ServerWorks(doing=f"evaluating {name}"))
            test["injected"][name] = ask(self.model, self._test(name), seed=self.seed, should_stop=stop)
            self._examples += examples(self.model, self._test(name))
            candidates = len(self.config.task_definitions.tasks[name].answers)
            read = [self.extractor.encoders[modality] for modality in self.config.task_definitions.tasks[name].encoded]
            series = any(isinstance(encoder, SeriesEncoder) for encoder in read)
            shown = baselines(cases.public, self._test(name), candidates, series=series, seed=self.seed)
            test["linear"][name], test["majority"][name] = shown["linear"], shown["majority"]
            if name in self._report.unseen and self.config.evaluation.few_shot:
                few_labelled[name] = few_shot(self.model, cases.public, self._test(name), self.config, self.seed, stop)
        injection_store(self.context.folder).clear()
        own = {"extractor": self._report.test["extractor"]} if "extractor" in self._report.test else {}
        self._report = self._report.model_copy(update={"test": {**test, **own}, "few_shot": few_labelled})

    def section(self) -> dict[str, Any]:
        """What the record holds of the injection."""
        return self._report.model_dump(mode="json")

    def fingerprint(self) -> str:
        """Of the server's public data."""
        return self._report.fingerprint

    # ---- state -------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """What the injection has trained, and what it has reported so far."""
        return {**self.model.tensors(), REPORT: self._report.model_dump(mode="json")}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint. Raises :class:`CheckpointError` if it is of another model."""
        tensors = {name: value for name, value in state.items() if name != REPORT}
        report = record.Injection.model_validate(state[REPORT])
        if set(tensors) != set(self.model.trained()):
            odd = sorted(set(tensors) ^ set(self.model.trained()))
            raise CheckpointError(f"the checkpoint's injected model differs from this one in {odd[0]!r}")
        if report.fingerprint != self._report.fingerprint:
            raise CheckpointError(f"{self.context.data}: the server's data are others than when the run began")
        self.model.load(tensors)
        self._report = report

    def save(self, folder: Path) -> None:
        """The model, the card of its run, and a page of examples.

        The page shows single test cases of the server's own, and only its owner can read it.
        """
        self.model.save(folder)
        write_answers(folder / ANSWERS, self._examples)
        write_json(folder / MODEL_CARD, dict(self.context.run))

    def _load_extractor(self, state: State) -> None:
        places = self.extractor.state_dict()
        unknown = sorted(set(state) - set(places))
        if unknown:
            raise CheckpointError(f"the global state has tensor {unknown[0]!r}, which the extractor lacks")
        with torch.no_grad():
            for name, tensor in state.items():
                places[name].copy_(tensor)

    def _pushed_back(self, state: State) -> State:
        if not self.config.encoder_pushback:
            return dict(state)
        now = self.extractor.state_dict()
        return {
            name: now[name].to("cpu", tensor.dtype, copy=True) if name.startswith(ENCODER) else tensor
            for name, tensor in state.items()
        }

    # ---- small things ------------------------------------------------------------------------------------------

    def _cases(self, name: str, datasets: Mapping[str, int]) -> int:
        return sum(datasets.get(task, 0) for task in owners(name, self.config.task_definitions))

    def _require_encoders(self) -> None:
        there = set(self.extractor.encoders)
        for name in self.cases:
            missing = sorted(set(self.config.task_definitions.tasks[name].encoded) - there)
            if missing:
                raise ConfigError(f"task {name} reads {missing}, model.args.encoders has {sorted(there)}")

    def _test(self, name: str) -> Cases:
        return some(self.cases[name].test, self.config.evaluation.test_cases, self.seed, "test")

    @torch.no_grad()
    def _gates(self, task: str) -> list[float]:
        return [min(max(float(gate), 0.0), 1.0) for gate in self.model.gates(task)]

    def _report_progress(self, round_number: int, step: int, steps: int) -> None:
        self.context.progress(ServerWorks(doing="injecting", round=round_number, step=step, of=steps))

    def _count(self) -> record.Parameters:
        sizes = {name: parameter.numel() for name, parameter in self.model.trained().items()}
        router = sum(size for name, size in sizes.items() if "router" in name)
        adapters = sum(size for name, size in sizes.items() if name.startswith(LANGUAGE))
        everything = sum(parameter.numel() for parameter in self.model.language.parameters())
        return record.Parameters(
            language_model=everything - adapters,
            experts=adapters - router,
            router=router,
            aligner=sum(size for name, size in sizes.items() if name.startswith("aligner.")),
            encoders=sum(size for name, size in sizes.items() if name.startswith("extractor.")),
        )
