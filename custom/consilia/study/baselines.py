"""What federation is judged against, on one machine only: all data pooled, every site alone, an answer without a model.

Each gives a record of the same schema as a federated run, with the same budget of passes over the data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from consilia.core.determinism import single_threaded, state_digest, torch_threads
from consilia.core.errors import ConfigError
from consilia.core.events import Progress, RoundDone, no_progress
from consilia.data.dataset import DatasetSplits, SiteData, Split, empty_split
from consilia.data.loading import load_site
from consilia.federation.config import RunConfig
from consilia.federation.messages import PrepareReply
from consilia.federation.recorder import Recorder
from consilia.federation.selection import BestRound
from consilia.federation.server_settings import ServerSettings, own_server
from consilia.methods.client import Client, ClientContext, Round
from consilia.methods.config import MethodConfig
from consilia.methods.contract import Method
from consilia.methods.registry import make_method
from consilia.methods.tasks import TASKS, Network, Predictions
from consilia.methods.tasks.classification import LOGITS
from consilia.models.sam_segmenter import MaskPrompts
from consilia.record.schema import FinalModels, Record, SiteMetrics
from consilia.study.public_only import public_only

BySite = dict[str, SiteMetrics]
State = dict[str, Tensor]


class Setting(NamedTuple):
    """What every baseline needs beside the data."""

    config: RunConfig
    server: ServerSettings
    progress: Progress


def run_baseline(
    name: str,
    config: RunConfig,
    site_files: Mapping[str, Path],
    *,
    progress: Progress = no_progress,
) -> Record:
    """Run a baseline of :data:`BASELINES` with a run's model, training and budget.

    Raises:
        ConfigError: a baseline that is unknown or not of this task, or a site's configuration is wrong.
        DataError: a site's data do not fit it.
    """
    if name not in BASELINES:
        raise ConfigError(f"baseline must be one of {sorted(BASELINES)}, got {name!r}")
    if name != PUBLIC_ONLY and make_method(config.method).several_datasets:
        raise ConfigError(f"baseline {name} is for methods that train one task, {config.method.method} trains several")
    if config.task != TASK_OF.get(name, config.task):
        raise ConfigError(f"baseline {name} is for {TASK_OF[name]}, the run is a {config.task}")
    config = config.model_copy(update={"label": name})
    with single_threaded(), torch_threads(config.training.threads):
        server = own_server(config, site_files)
        recorder = Recorder(config, "inprocess")
        if name == PUBLIC_ONLY:
            public_only(config, server, recorder, progress)
        else:
            sites = [load_site(path, config.dataset) for _, path in sorted(site_files.items())]
            recorder.class_names = list(sites[0].class_names)
            for site in sites:
                recorder.add_site(site.site, _describe(site))
            _ON_SITES[name](Setting(config, server, progress), sites, recorder)
        record = recorder.record("finished")
    run = record.run.model_copy(update={"method": name.replace("-", "_")})
    return record.model_copy(update={"run": run})


def _centralised(setting: Setting, sites: list[SiteData], recorder: Recorder) -> None:
    """One model on the union of the training splits, each preprocessed as at its site."""
    config = setting.config
    trainers = [site for site in sites if not site.is_test_only]
    train = _union(trainers)
    none = empty_split(train.inputs, train.labels)
    dataset = DatasetSplits(sites[0].class_names, train, none, none, config.task)
    pooled = SiteData("pooled", {config.dataset: dataset})
    learner = _learner(setting, pooled)
    state = learner.state()
    best = BestRound(config.primary_metric, state)
    for number in range(1, config.rounds + 1):
        state = _train(learner, state, number, config)
        if _looks(config, number):
            by_site = {site.site: _evaluate(learner, state, site) for site in sites}
            for name, metrics in by_site.items():
                recorder.add_evaluation(number, "global", name, metrics)
            best.offer(number, state, by_site)
        setting.progress(RoundDone(round=number, of=config.rounds))
    for key, version, chosen in (
        ("last", config.rounds, state),
        ("best", best.version or config.rounds, best.state if best.version else state),
    ):
        by_site = {site.site: _evaluate(learner, dict(chosen), site, thorough=True) for site in sites}
        recorder.final["last" if key == "last" else "best"] = _final(version, dict(chosen), by_site, {})


def _local_only(setting: Setting, sites: list[SiteData], recorder: Recorder) -> None:
    """Every site trains alone from the same initial weights; the best round is each site's own."""
    config = setting.config
    last: BySite = {}
    best: BySite = {}
    digest: State = {}
    for place, site in enumerate(site for site in sites if not site.is_test_only):
        learner = _learner(setting, site)
        state = learner.state()
        chosen = BestRound(config.primary_metric, state)
        for number in range(1, config.rounds + 1):
            state = _train(learner, state, number, config)
            if _looks(config, number):
                metrics = _evaluate(learner, state, site)
                recorder.add_evaluation(number, "personal", site.site, metrics)
                chosen.offer(number, state, {site.site: metrics})
        if chosen.version:
            best[site.site] = _evaluate(learner, dict(chosen.state), site, thorough=True)
        last[site.site] = _evaluate(learner, state, site, thorough=True)
        best.setdefault(site.site, last[site.site])
        digest |= {f"{site.site}/{name}": value for name, value in state.items()}
        setting.progress(RoundDone(round=place + 1, of=len(sites)))
    recorder.final["last"] = _final(config.rounds, digest, {}, last)
    recorder.final["best"] = _final(config.rounds, digest, {}, best)


def _majority(setting: Setting, sites: list[SiteData], recorder: Recorder) -> None:
    """Always the commonest class: of all training cases for the global metric, of the site's own for the personal."""
    trainers = [site for site in sites if not site.is_test_only]
    classes = sites[0].num_classes
    overall = torch.cat([site.train.labels for site in trainers]).bincount(minlength=classes)
    constant = {site.site: _constant(overall, site) for site in sites}
    own = {site.site: _constant(site.train.labels.bincount(minlength=classes), site) for site in trainers}
    for key in ("last", "best"):
        recorder.final[key] = _final(0, {}, constant, own)


def _filled_box(setting: Setting, sites: list[SiteData], recorder: Recorder) -> None:
    """The prompt itself as the answer, every pixel of the box: what the oracle alone is worth."""
    by_site = {site.site: _metrics(site, _filled) for site in sites}
    for key in ("last", "best"):
        recorder.final[key] = _final(0, {}, by_site, {})


_ON_SITES: dict[str, Callable[[Setting, list[SiteData], Recorder], None]] = {
    "centralised": _centralised,
    "local-only": _local_only,
    "majority": _majority,
    "filled-box": _filled_box,
}
PUBLIC_ONLY = "public-only"
BASELINES = (*_ON_SITES, PUBLIC_ONLY)
TASK_OF = {"majority": "classification", "filled-box": "segmentation"}
"""Baselines of one task only."""


def _describe(site: SiteData) -> PrepareReply:
    return PrepareReply(
        train=len(site.train),
        validation=len(site.validation),
        test=len(site.test),
        class_names=site.class_names,
        fingerprint=site.fingerprint(),
    )


def _learner(setting: Setting, data: SiteData) -> Client[MethodConfig]:
    config, server = setting.config, setting.server
    model = config.model.build(seed=config.seed, allowed=server.allow_models, folders=server.foundation_models)
    plain = Method(MethodConfig(method="none"))
    return plain.client(ClientContext(model, data, config.training, config.seed))


def _train(learner: Client[MethodConfig], state: State, number: int, config: RunConfig) -> State:
    """Round ``number`` with as many passes over the data as a site makes on average: local_epochs x participation.

    Where that is a fraction, whole passes are spread evenly over the rounds, and a round may have none.
    """
    per_round = config.training.local_epochs * config.participation
    passes = round(number * per_round) - round((number - 1) * per_round)
    return dict(learner.train(Round(number, state, epochs=passes)).state) if passes else state


def _looks(config: RunConfig, number: int) -> bool:
    return config.evaluate_every > 0 and (number % config.evaluate_every == 0 or number == config.rounds)


def _union(sites: list[SiteData]) -> Split:
    return Split(
        torch.cat([site.train.inputs for site in sites]),
        torch.cat([site.train.labels for site in sites]),
        tuple(f"{site.site}/{case}" for site in sites for case in site.train.case_ids),
        # Spacing plays no part in training, and the pooled data are for nothing else.
    )


def _evaluate(learner: Client[MethodConfig], state: State, site: SiteData, *, thorough: bool = False) -> SiteMetrics:
    learner.load(state)
    return _metrics(site, learner.predict, thorough=thorough)


def _constant(counts: Tensor, site: SiteData) -> SiteMetrics:
    # The logarithm of the class shares: the answer is the majority's, and the loss is that of the best constant guess.
    logits = ((counts + 1e-9) / counts.sum()).log().float()
    return _metrics(site, lambda split: {LOGITS: logits.expand(len(split), -1)})


def _filled(split: Split) -> Predictions:
    height, width = split.labels.shape[1:]
    down, across = torch.arange(height)[:, None], torch.arange(width)

    def fill(_: Tensor, prompts: MaskPrompts) -> Tensor:
        x1, y1, x2, y2 = prompts.boxes[:, :, None, None].unbind(dim=1)
        return ((across >= x1) & (across <= x2) & (down >= y1) & (down <= y2)).float()

    return TASKS["segmentation"].predict(
        Network(lambda inputs: inputs, fill), split.inputs, split.labels, split.case_ids
    )


def _metrics(site: SiteData, answer: Callable[[Split], Predictions], *, thorough: bool = True) -> SiteMetrics:
    found = {}
    for name in ("validation", "test"):
        split = site.split(name)
        found[name] = TASKS[site.task].metrics(answer(split), split, slow=thorough) if len(split) else None
    return SiteMetrics.model_validate(found)


def _final(version: int, state: State, shared: BySite, personal: BySite) -> FinalModels:
    return FinalModels.model_validate(
        {"version": version, "sha256": state_digest(state), "global": shared, "personal": personal, "variants": {}}
    )
