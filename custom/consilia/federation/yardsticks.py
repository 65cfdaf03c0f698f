"""What federation is judged against, on one machine only: all data pooled, every site alone, the majority answer.

Each gives a record of the same schema as a federated run, with the same budget of passes over the data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from consilia.core.determinism import single_threaded, state_digest
from consilia.core.errors import ConfigError
from consilia.data.dataset import SiteData, Split, empty_split
from consilia.data.loading import load_site
from consilia.evaluation.classification import classification_metrics
from consilia.federation.config import RunConfig
from consilia.federation.messages import PrepareReply
from consilia.federation.progress import Progress, no_progress
from consilia.federation.record_keeper import RecordKeeper
from consilia.federation.selection import BestRound
from consilia.methods.fedavg.config import FedAvgConfig
from consilia.methods.fedavg.learner import FedAvgLearner
from consilia.models.build import build_model
from consilia.report.record import FinalModels, Record, SiteMetrics

Figures = dict[str, SiteMetrics]
State = dict[str, Tensor]


def run_yardstick(
    name: str,
    config: RunConfig,
    site_files: Mapping[str, Path],
    *,
    progress: Progress = no_progress,
) -> Record:
    """Run ``centralised``, ``local-only`` or ``majority`` with a run's model, training and budget.

    Raises:
        ConfigError: an unknown yardstick, or a site's configuration is wrong.
        DataError: a site's data do not fit it.
    """
    if name not in YARDSTICKS:
        raise ConfigError(f"yardstick must be one of {sorted(YARDSTICKS)}, got {name!r}")
    config = config.model_copy(update={"label": name})
    with single_threaded():
        sites = [load_site(path, config.role) for _, path in sorted(site_files.items())]
        keeper = RecordKeeper(config, "inprocess")
        keeper.class_names = list(sites[0].class_names)
        for site in sites:
            keeper.add_site(site.site, _describe(site))
        YARDSTICKS[name](config, sites, keeper, progress)
        record = keeper.record("finished")
    record.run.method = name.replace("-", "_")
    return record


def _centralised(config: RunConfig, sites: list[SiteData], keeper: RecordKeeper, tell: Progress) -> None:
    """One model on the union of the training splits, each preprocessed as at its site."""
    trainers = [site for site in sites if not site.is_evaluator]
    pooled = SiteData("pooled", config.role, sites[0].class_names, _union(trainers), *_no_more(trainers[0]))
    learner = _learner(config, pooled)
    state = learner.state()
    best = BestRound(config.select_by, state)
    for number in range(1, config.rounds + 1):
        state = _train(learner, state, number, config)
        if _looks(config, number):
            figures = {site.site: _figures(learner, state, site) for site in sites}
            for site, metrics in figures.items():
                keeper.add_evaluation(number, "global", site, metrics)
            best.offer(number, state, figures)
        tell({"event": "round", "round": number, "of": config.rounds})
    for key, version, chosen in (
        ("last", config.rounds, state),
        ("best", best.version or config.rounds, best.state if best.version else state),
    ):
        figures = {site.site: _figures(learner, dict(chosen), site) for site in sites}
        keeper.final["last" if key == "last" else "best"] = _final(version, dict(chosen), figures, {})


def _local_only(config: RunConfig, sites: list[SiteData], keeper: RecordKeeper, tell: Progress) -> None:
    """Every site trains alone from the same initial weights; the best round is each site's own."""
    last: Figures = {}
    best: Figures = {}
    digest: State = {}
    for place, site in enumerate(site for site in sites if not site.is_evaluator):
        learner = _learner(config, site)
        state = learner.state()
        chosen = BestRound(config.select_by, state)
        for number in range(1, config.rounds + 1):
            state = _train(learner, state, number, config)
            if _looks(config, number):
                metrics = _figures(learner, state, site)
                keeper.add_evaluation(number, "personal", site.site, metrics)
                chosen.offer(number, state, {site.site: metrics})
        if chosen.version:
            best[site.site] = _figures(learner, dict(chosen.state), site)
        last[site.site] = _figures(learner, state, site)
        best.setdefault(site.site, last[site.site])
        digest |= {f"{site.site}/{name}": value for name, value in state.items()}
        tell({"event": "round", "round": place + 1, "of": len(sites)})
    keeper.final["last"] = _final(config.rounds, digest, {}, last)
    keeper.final["best"] = _final(config.rounds, digest, {}, best)


def _majority(config: RunConfig, sites: list[SiteData], keeper: RecordKeeper, tell: Progress) -> None:
    """Always the commonest class: of all training cases for the global figure, of the site's own for the personal."""
    trainers = [site for site in sites if not site.is_evaluator]
    classes = sites[0].num_classes
    overall = torch.cat([site.train.labels for site in trainers]).bincount(minlength=classes)
    constant = {site.site: _constant(overall, site) for site in sites}
    own = {site.site: _constant(site.train.labels.bincount(minlength=classes), site) for site in trainers}
    for key in ("last", "best"):
        keeper.final[key] = _final(0, {}, constant, own)


YARDSTICKS: dict[str, Callable[..., None]] = {
    "centralised": _centralised,
    "local-only": _local_only,
    "majority": _majority,
}


def _describe(site: SiteData) -> PrepareReply:
    return PrepareReply(
        train=len(site.train),
        validation=len(site.validation),
        test=len(site.test),
        class_names=site.class_names,
        fingerprint=site.fingerprint(),
    )


def _learner(config: RunConfig, data: SiteData) -> FedAvgLearner:
    # The person who types the command chooses the model: no foreign job is involved.
    model = build_model(config.model.class_, config.model.args, seed=config.seed, allowed=(config.model.class_,))
    return FedAvgLearner(model, data, config.training, FedAvgConfig(), seed=config.seed)


def _train(learner: FedAvgLearner, state: State, number: int, config: RunConfig) -> State:
    """Round ``number`` with as many passes over the data as a site makes on average: local_epochs x participation.

    Where that is a fraction, whole passes are spread evenly over the rounds, and a round may have none.
    """
    per_round = config.training.local_epochs * config.participation
    passes = round(number * per_round) - round((number - 1) * per_round)
    return dict(learner.train(state, number, epochs=passes).tensors) if passes else state


def _looks(config: RunConfig, number: int) -> bool:
    return config.evaluate_every > 0 and (number % config.evaluate_every == 0 or number == config.rounds)


def _union(sites: list[SiteData]) -> Split:
    return Split(
        torch.cat([site.train.inputs for site in sites]),
        torch.cat([site.train.labels for site in sites]),
        tuple(f"{site.site}/{case}" for site in sites for case in site.train.case_ids),
    )


def _no_more(like: SiteData) -> tuple[Split, Split]:
    return empty_split(like.train.inputs), empty_split(like.train.inputs)


def _figures(learner: FedAvgLearner, state: State, site: SiteData) -> SiteMetrics:
    learner.load(state)
    return _metrics(
        {name: (learner.logits(site.split(name)), site.split(name).labels) for name in ("validation", "test")}
    )


def _constant(counts: Tensor, site: SiteData) -> SiteMetrics:
    # The logarithm of the class shares: the answer is the majority's, and the loss is that of the best constant guess.
    logits = ((counts + 1e-9) / counts.sum()).log().float()
    return _metrics({n: (logits.expand(len(site.split(n)), -1), site.split(n).labels) for n in ("validation", "test")})


def _metrics(outputs: Mapping[str, tuple[Tensor, Tensor]]) -> SiteMetrics:
    found = {name: classification_metrics(logits, labels) for name, (logits, labels) in outputs.items()}
    return SiteMetrics.model_validate(found)


def _final(version: int, state: State, shared: Figures, personal: Figures) -> FinalModels:
    return FinalModels.model_validate(
        {"version": version, "sha256": state_digest(state), "global": shared, "personal": personal}
    )
