"""What a site does with each request. Personal models, correctness histories and per-case results stay at the site."""

from __future__ import annotations

import copy
import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path

from torch import Tensor

from consilia.aggregation import check_update
from consilia.core.determinism import torch_threads
from consilia.core.errors import ConfigError, LimitReached
from consilia.core.files import refuse_links, write_json
from consilia.core.stop import StopSignal, never
from consilia.core.tensor_files import overwrite_tensors
from consilia.data.loading import pooled_preprocessing
from consilia.data.site import RUNS, SITE_FILE, SiteConfig
from consilia.federation.config import RunConfig
from consilia.federation.messages import (
    EvaluateReply,
    PersonalizeReply,
    Reply,
    Request,
    TrainReply,
    as_reply,
    payload_bytes,
)
from consilia.federation.model_card import personal_card, save_model
from consilia.federation.personal import make_personal
from consilia.federation.release_fields import datasets_of
from consilia.federation.release_manifest import manifest_of
from consilia.federation.requests import require_within
from consilia.federation.run_data import description, load_run_data, warn_of_own_values
from consilia.federation.saved_predictions import write_predictions
from consilia.federation.site_errors import note_error
from consilia.federation.site_evaluation import SiteEvaluation
from consilia.federation.site_gate import SiteGate
from consilia.federation.site_limits import compared, require
from consilia.federation.site_store import SiteStore
from consilia.methods.client import ClientContext, Round
from consilia.methods.contract import State, Update, transmitted
from consilia.methods.registry import AllowedMethods, make_method
from consilia.methods.server import check_tensors
from consilia.methods.tasks import Predictions
from consilia.models.exchange import ModelSize, exchanged_state, in_type, require_names

log = logging.getLogger(__name__)


class Site:
    """One participant's half of a run.

    Args:
        config: the run.
        settings: of the site's own file; its data, its lists of model classes and methods, its state folder.
        should_stop: polled during training.
        pages: whether its own report is a page, or its table of cases alone.

    Raises:
        LimitReached: the run asks more than the site's limits allow.
        ConfigError: the site has no such data, or a symbolic link is among its own files.
    """

    def __init__(
        self, config: RunConfig, settings: SiteConfig, *, should_stop: StopSignal = never, pages: bool = True
    ) -> None:
        self.config, self.settings = config, settings
        self.name, self._pages = settings.site, pages
        self.folder = settings.state_dir / RUNS / config.run_id
        self.store = SiteStore(self.folder, whole_history=settings.keep_predictions)
        AllowedMethods(settings.allow_methods, Path(SITE_FILE)).require(config.method.method)
        require(compared(config, settings.limits))
        folders = [settings.dataset_dir(name) for name in datasets_of(config) if name in settings.datasets]
        refuse_links(settings.state_dir, settings.state_dir, self.folder, *folders)
        self.data = load_run_data(config, settings)
        warn_of_own_values(config, settings)
        self._pooled: Mapping[str, Sequence[float]] | None = None
        if self.data.task != config.task:
            raise ConfigError(
                f"the run is a {config.task}, dataset {config.dataset!r} of site {self.name} a {self.data.task}"
            )
        model = config.model.build_at(settings, seed=config.seed)
        self.model_size = ModelSize.of(model)
        self.method = make_method(config.method)
        self.payload_specs = self.method.payload(model)
        self.transmitted = transmitted(self.method, model)
        cases = {name: len(dataset.train) for name, dataset in self.data.datasets.items()}
        self.gate = SiteGate(config, settings, manifest_of(config, model).digest, cases)
        self._aborted = should_stop
        self._model = model
        self._open_client()
        self.error: BaseException | None = None
        """What went wrong with the last request that failed."""
        shared = exchanged_state(model, config.exchange_dtype, self.client.shared)
        self._expected = {name: tensor.to("meta") for name, tensor in shared.items()}

    def _open_client(self) -> None:
        """The method's half and the evaluation, on the data as they are now; before anything is trained."""
        context = ClientContext(
            self._model, self.data, self.config.training, self.config.seed, self._should_stop, self._pages
        )
        self.client = self.method.client(context)
        self.evaluation = SiteEvaluation(self.client, self.method, self.data, self.store, self.settings.limits)
        self._initial = copy.deepcopy(self.client.state_dict())

    def _prepare_inputs(self, request: Request) -> None:
        """In a run that pools preprocessing: make the inputs with the values that the first request brings.

        Raises:
            ConfigError: a request brings none, others than the one before, or some although the run pools nothing.
            DataError: they are no mean and deviation of the site's columns or channels.
        """
        came, said = request.preprocessing, self.config.preprocessing
        if (came is not None) != (said == "pooled") or self._pooled not in (None, came):
            raise ConfigError(f"request {request.kind}: the run's preprocessing is {said}, the request's is not")
        if came is None or self._pooled is not None:
            return
        own = self.data.dataset().preprocessing
        columns = None if own is None or own.moments is None else len(own.moments.values)
        values = {str(key): list(found) for key, found in came.items()}
        pooled = pooled_preprocessing(self.settings, self.config.dataset, values, columns)
        self.data = load_run_data(self.config, self.settings, pooled)
        self._pooled = came
        self._open_client()

    def answer(self, request: Request, tensors: Mapping[str, Tensor] | None) -> Reply:
        """Carry out a request. What goes wrong is logged here, at the site; the server learns the error's kind only."""
        with torch_threads(self.config.training.threads):
            return self._answer(request, tensors)

    def _answer(self, request: Request, tensors: Mapping[str, Tensor] | None) -> Reply:
        try:
            require_within(request, self.config)
            with self.gate.opened(request):
                reply = self._carried_out(request, tensors or {})
            log.info(
                "site %s sends for request %s: %d bytes, %d tensors, fields %s",
                self.name,
                request.kind,
                payload_bytes(reply.tensors, reply.content),
                len(reply.tensors),
                sorted(json.loads(reply.content)),
            )
            return reply
        except LimitReached as error:
            self.error = error
            note_error(self.settings.state_dir, f"request {request.kind}", error)
            log.error("site %s refuses request %s: %s", self.name, request.kind, error)
            return Reply(error=LimitReached.__name__)
        # Also MemoryError and torch's out-of-memory: a dead process would end the job for every site.
        except (Exception, SystemExit) as error:
            self.error = error
            place = note_error(self.settings.state_dir, f"request {request.kind}", error)
            log.error(
                "site %s: request %s failed with %s; see %s", self.name, request.kind, type(error).__name__, place
            )
            return Reply(error=type(error).__name__)

    def _carried_out(self, request: Request, tensors: State) -> Reply:
        if request.kind == "prepare":
            return self._prepare(request)
        self._prepare_inputs(request)
        state, payload = self._received(request, tensors)
        self._restore(request)
        handler = {"train": self._train, "evaluate": self._evaluate, "personalize": self._personalize}
        return handler[request.kind](request, state, payload)

    def _should_stop(self) -> bool:
        self.gate.poll()
        return self._aborted()

    # ---- the four requests -------------------------------------------------------------------------------------

    def _prepare(self, request: Request) -> Reply:
        if not request.resume:
            self.store.begin()
        write_json(self.folder / "run.json", self.config.to_json())
        self.client.check_model()
        _load_ahead()
        # Told by its own values, before as after the sites have pooled theirs.
        data = self.data if self._pooled is None else load_run_data(self.config, self.settings)
        return as_reply(description(data))

    def _train(self, request: Request, state: State, payload: State) -> Reply:
        started, number = time.perf_counter(), request.round + 1
        received = self.evaluation.global_metrics(request, state)[0] if request.evaluate else None
        update = self.client.train(Round(number, state, payload))
        if not isinstance(update, Update):
            raise ConfigError(f"method {self.method.name}: train() gives {type(update).__name__}, expected an Update")
        if self.client.has_state:
            self.store.save_state(number, self.client.state_dict())
        card = personal_card(self.config, self.data, "personal-round", rounds=number, pooled=self._pooled)
        overwrite_tensors(self.folder / "personal-round.safetensors", update.state, card.metadata())
        trained = None
        if request.evaluate:
            self.client.load(self.client.state_for("personal", state))
            trained = self.evaluation.metrics("personal", number)[0]
        reply = TrainReply(
            round=request.round,
            cases=update.cases,
            weight=update.weight,
            fields=finite(update.fields),
            received=received,
            trained=trained,
            seconds=time.perf_counter() - started,
        )
        return as_reply(reply, self._sent(update))

    def _evaluate(self, request: Request, state: State, payload: State) -> Reply:
        started = time.perf_counter()
        received, predictions = self.evaluation.global_metrics(request, state)
        variants = self.evaluation.variants(request) if received is not None else {}
        if request.final and received is not None:
            thresholds = {"global": request.threshold}
            self._keep(request, {"global": predictions})
            self.client.report(self.folder / f"report-{request.keep}.html", {"global": predictions}, None, thresholds)
        seconds = time.perf_counter() - started
        return as_reply(EvaluateReply(round=request.round, received=received, variants=variants, seconds=seconds))

    def _personalize(self, request: Request, state: State, payload: State) -> Reply:
        """Make the personal model from the final global one; it never leaves."""
        started = time.perf_counter()
        received, before = self.evaluation.global_metrics(request, state)
        variants = self.evaluation.variants(request) if received is not None else {}
        attention = self.client.attention(self.data.test)
        personal_state = make_personal(self.client, self.config, request.round, state, payload)
        name = f"personal-{request.keep}"
        # Not part of the forgetting history: this is no round.
        personal, after = self.evaluation.metrics("personal", version=None, slow=True, threshold="own")
        card = personal_card(self.config, self.data, name, personal, rounds=request.round, pooled=self._pooled)
        save_model(self.folder / f"{name}.safetensors", personal_state, card, private=True)
        # Without a global model, what is received with the site's own part is a step on the way to the personal one.
        predictions = {"global": before, "personal": after} if self.method.global_model else {"personal": after}
        thresholds = {"global": request.threshold, "personal": getattr(personal.validation, "threshold", None)}
        self._keep(request, predictions)
        self.client.report(self.folder / f"report-{request.keep}.html", predictions, attention, thresholds)
        return as_reply(
            PersonalizeReply(
                round=request.round,
                received=received,
                personal=personal,
                variants=variants,
                seconds=time.perf_counter() - started,
            )
        )

    def _keep(self, request: Request, predictions: Mapping[str, Mapping[str, Predictions]]) -> None:
        write_predictions(self.settings, self.config.run_id, request.keep, self.data, predictions)

    # ---- what comes and goes -----------------------------------------------------------------------------------

    def _received(self, request: Request, tensors: State) -> tuple[State, State]:
        """The global state and, where the request is to train, the method's payload.

        Raises:
            CheckpointError: names are missing, or unknown.
            UpdateRejected: a tensor is of another layout than the model's or the method's declaration, is not finite,
                or a payload's norm is larger than declared.
        """
        specs = {} if request.kind == "evaluate" else self.payload_specs
        payload = {name: tensors[name] for name in specs if name in tensors}
        state = {name: tensor for name, tensor in tensors.items() if name not in payload}
        require_names(state, self.client.shared)
        check_update(state, 0, reference=self._expected, max_norm=None, max_weight=0)
        check_tensors(payload, specs)
        return state, payload

    def _sent(self, update: Update) -> State:
        """The update's tensors in the exchange's type; refuses one that the method has not declared."""
        state = {name: in_type(tensor, self.config.exchange_dtype) for name, tensor in update.state.items()}
        sent = {**state, **update.extras}
        if unknown := sorted(set(sent) - set(self.transmitted)):
            raise ConfigError(f"method {self.method.name} sends tensor {unknown[0]!r}, which it has not declared")
        declared = {field.name for field in self.method.fields()} | {"train_loss"}
        if undeclared := sorted(set(update.fields) - declared):
            raise ConfigError(f"method {self.method.name} reports {undeclared[0]!r}, which it has not declared")
        return sent

    def _restore(self, request: Request) -> None:
        """Put the client state in place that counts for a request, and delete those that no request can name again."""
        self.store.keep_states({request.client_round, request.best_client_round})
        if self.client.has_state:
            number = request.client_round
            self.client.load_state_dict(self.store.load_state(number) if number else copy.deepcopy(self._initial))


def _load_ahead() -> None:
    """Load what a process loads when it first evaluates: the first round has a time limit to keep to."""
    import_module("sklearn.metrics")


def finite(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """Metrics with what is not a finite number undefined."""
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}
