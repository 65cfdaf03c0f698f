"""A finished run at the site that it left out: personal models of the global one, made from a few labelled cases.

What a method does at a site when the rounds are over is done here for each draw (``Client.personalize``), from the
global model after the last round; of ``centralised`` it is FedAvg's fine-tuning. Inputs are prepared as in the run, so
that without labelled cases the predictions on the fixed test are the run's own. They stay in the site's folder of the
run, a row per draw and test case; the run's folder has ``new-site/new-site.json``: what was done, or why not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from consilia.core.checkpoint import CheckpointStore
from consilia.core.determinism import single_threaded, torch_threads
from consilia.core.errors import CannotTrain, ConsiliaError, TrainingStopped, described
from consilia.core.events import no_progress
from consilia.core.files import write_bytes, write_json
from consilia.core.schema import Strict
from consilia.core.stop import never
from consilia.core.tensor_files import read_tensors
from consilia.data.dataset import SiteData
from consilia.data.site import load_site_config
from consilia.data.yaml_file import read_yaml, validate
from consilia.federation.checkpoints import CHECKPOINT
from consilia.federation.config import RunConfig
from consilia.federation.personal import make_personal
from consilia.federation.run_data import as_in_the_run, load_run_data
from consilia.federation.run_folder import RESULT
from consilia.federation.saved_predictions import by_case, predictions_file, read_predictions
from consilia.federation.server_settings import own_server
from consilia.federation.server_work import ServerWork, open_server
from consilia.methods.client import CannotEvaluate, ClientContext
from consilia.methods.config import MethodConfig
from consilia.methods.contract import Method, State
from consilia.methods.registry import make_method, plugin_file
from consilia.models.exchange import copy_into, exchanged_state
from consilia.record.files import load_record
from consilia.study.new_site import EVERY, Count, NewSite, classes_of, divided, labelled

FOLDER = "new-site"
"""Below a run's folder: what became of the site that it left out, and what that cost."""
FILE = f"{FOLDER}.json"
FORMAT = 1
"""Of what is computed: a change of it makes every adaptation anew."""
FINE_TUNED = "centralised"
"""The one baseline with a network that a site can train on."""


class Step(Strict):
    """So many labelled cases: in how many draws, or why there is no model of them."""

    cases: Count
    labelled: int = 0
    draws: int = 0
    reason: str = ""


class Adapted(Strict):
    """What a run gave at the site that it left out. ``key``: digest of all that decides it."""

    key: str
    steps: tuple[Step, ...]


def key_of(config: RunConfig, sites: Mapping[str, Path], site: str, new_site: NewSite) -> str:
    """Digest of the run, the division of the site's cases, and what is asked for."""
    specs = load_site_config(sites[site]).datasets
    splits = {name: spec.splits.model_dump(mode="json") for name, spec in sorted(specs.items())}
    parts = [FORMAT, config.run_id, site, splits, new_site.model_dump(mode="json")]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def adapted(
    config: RunConfig, sites: Mapping[str, Path], folder: Path, site: str, new_site: NewSite
) -> tuple[Adapted, pd.DataFrame] | None:
    """What is there of an adaptation, and its predictions; None where it is not made, or other than is asked for.

    Arguments as of :func:`adapt`.
    """
    record = folder / FILE
    found = validate(Adapted, read_yaml(record), record) if record.is_file() else None
    if found is None or found.key != key_of(config, sites, site, new_site):
        return None
    if not any(step.draws for step in found.steps):
        return found, pd.DataFrame()
    file = predictions_file(load_site_config(sites[site]), config.run_id, FOLDER)
    return (found, read_predictions(file)) if file.is_file() else None


def adapt(
    config: RunConfig, sites: Mapping[str, Path], folder: Path, baseline: str | None, site: str, new_site: NewSite
) -> Adapted:
    """Make the personal models, keep their predictions, and write what was done: predictions first, :data:`FILE` last.

    Args:
        config: of the run.
        sites: each one's site.yaml.
        folder: of the adaptation, below the run's.
        baseline: its name, where the run is a baseline's.
        site: that was left out.
        new_site: what is asked for.
    """
    frames: list[pd.DataFrame] = []
    steps: list[Step] = []
    with single_threaded(), torch_threads(config.training.threads):
        try:
            bench: _Bench | CannotTrain = _Bench(config, sites, folder.parent, baseline, site)
        except CannotTrain as reason:
            bench = reason
        except ConsiliaError:
            raise
        # A plugin's server may raise anything: it is a row of the table, and ends no study.
        except Exception as error:
            bench = CannotTrain(described(error, plugin_file()))
        for cases in new_site.cases:
            if isinstance(bench, CannotTrain):
                steps.append(Step(cases=cases, reason=str(bench)))
                continue
            try:
                found = list(bench.step(cases, new_site.draws))
            except TrainingStopped:
                raise
            # Whatever a method raises, of a plugin's too: it is a row of the table.
            except Exception as error:
                ours = isinstance(error, ConsiliaError | CannotEvaluate)
                steps.append(Step(cases=cases, reason=str(error) if ours else described(error, plugin_file())))
                continue
            frames += found
            steps.append(Step(cases=cases, labelled=bench.count(cases), draws=len(found)))
    file = predictions_file(load_site_config(sites[site]), config.run_id, FOLDER)
    if frames:
        text = pd.concat(frames, ignore_index=True).to_csv(index=False, lineterminator="\n")
        write_bytes(file, text.encode(), durable=False, private=True)
    result = Adapted(key=key_of(config, sites, site, new_site), steps=tuple(steps))
    write_json(folder / FILE, result.model_dump(mode="json"))
    return result


class _Bench:
    """The site's divided cases, the network, and the global model from which every draw starts anew."""

    def __init__(
        self, config: RunConfig, sites: Mapping[str, Path], run_folder: Path, baseline: str | None, site: str
    ) -> None:
        if baseline not in (None, FINE_TUNED):
            raise CannotTrain(f"{baseline} has no network that a site could train on")
        self.config = config
        self.method: Method[Any] = (
            make_method(config.method) if baseline is None else Method(MethodConfig(method="none"))
        )
        if self.method.several_datasets:
            raise CannotTrain("it trains several data sets together")
        model_file = run_folder / "global-last.safetensors"
        if not model_file.is_file():
            raise CannotTrain("it leaves no global model")
        self.state: State = read_tensors(model_file)[0]
        self.settings = load_site_config(sites[site])
        self.data = _as_in_the_run(config, sites, site)
        whole = self.data.test
        pool, tests = divided(self.settings, self.data.name, whole)
        self.pool, self.test = whole.take(torch.from_numpy(pool)), whole.take(torch.from_numpy(tests))
        self.classes = classes_of(self.pool, self.data.task)
        self.model = config.model.build_at(self.settings, seed=config.seed)
        self.initial = exchanged_state(self.model)
        self.rounds = load_record(run_folder / RESULT).final["last"].version
        self.payload = _payload(config, sites, run_folder, self.rounds) if self.method.payload(self.model) else {}

    def count(self, cases: Count) -> int:
        """How many labelled cases that is."""
        return len(self.pool) if cases == EVERY else int(cases)

    def step(self, cases: Count, draws: int) -> Iterator[pd.DataFrame]:
        """Predictions on the fixed test for each draw of so many labelled cases.

        Raises:
            CannotTrain: the site has fewer, or the method makes no personal models.
        """
        count = self.count(cases)
        if count > len(self.pool):
            raise CannotTrain(f"the site has {len(self.pool)} cases to label")
        if count and not self.method.personal:
            raise CannotTrain("it makes no personal models")
        for draw in range(draws if 0 < count < len(self.pool) else 1):
            chosen = labelled(self.classes, cases, draw, self.data.site)
            yield self._predictions(chosen).assign(cases=str(cases), draw=draw)

    def _predictions(self, chosen: np.ndarray) -> pd.DataFrame:
        """Of the personal model of these labelled cases; of none, of the global model."""
        own = self.data.dataset()
        train, none = self.pool.take(torch.from_numpy(chosen)), self.pool.take(torch.arange(0))
        data = SiteData(self.data.site, {self.data.name: replace(own, train=train, validation=none, test=self.test)})
        # A method may look at the network when it begins.
        copy_into(self.model, self.initial)
        client = self.method.client(
            ClientContext(self.model, data, self.config.training, self.config.seed, never, pages=False)
        )
        if len(chosen):
            make_personal(client, self.config, self.rounds, self.state, self.payload)
        else:
            client.load(client.state_for("global", self.state))
        return by_case(data, {"personal": {data.name: client.predict(self.test)}}).drop(columns=["model", "dataset"])


def _as_in_the_run(config: RunConfig, sites: Mapping[str, Path], site: str) -> SiteData:
    """The site's data, all of them test cases, prepared as they were in the run."""
    names = [site] if config.preprocessing == "site" else sorted(sites)
    settings = [load_site_config(sites[name]) for name in names]
    prepared = as_in_the_run(config, settings, [load_run_data(config, own) for own in settings])
    return prepared[names.index(site)]


def _payload(config: RunConfig, sites: Mapping[str, Path], run_folder: Path, rounds: int) -> State:
    """What the method's server sends to who trains, as its last checkpoint has it."""
    store = CheckpointStore(run_folder / CHECKPOINT)
    if not store.exists():
        raise CannotTrain("the checkpoint with what its server sends beside the model is gone")
    saved = store.load()
    server = open_server(config, own_server(config, sites), run_folder, no_progress, never)
    ServerWork(server, config.training.threads).restore(saved.state["server"], saved.models)
    return server.declared_payload(rounds + 1)
