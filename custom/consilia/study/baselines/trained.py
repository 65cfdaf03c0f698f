"""The run's network without federation: on all training cases together, and at every site alone."""

from __future__ import annotations

from pathlib import Path

from consilia.core.events import RoundDone, TrainedAlone
from consilia.data.dataset import DatasetSplits, SiteData, empty_split
from consilia.federation.config import RunConfig
from consilia.federation.model_card import personal_card, save_model
from consilia.federation.recorder import Recorder
from consilia.federation.selection import BestRound
from consilia.methods.client import Client, ClientContext, Round
from consilia.methods.config import MethodConfig
from consilia.methods.contract import Method
from consilia.record.schema import SiteMetrics
from consilia.record.study_result import Version
from consilia.study.baselines.common import (
    BySite,
    Saved,
    Setting,
    State,
    final_models,
    pooled,
    shared_metrics,
    site_metrics,
    training_sites,
)

Learner = Client[MethodConfig]
ALONE = "local-only"
"""What the site's own report calls a model that it has trained by itself."""


def centralised(setting: Setting, sites: list[SiteData], recorder: Recorder) -> Saved:
    """One model on the union of the training splits, each preprocessed as at its site."""
    config = setting.config
    train = pooled(training_sites(sites), "train")
    none = empty_split(train.inputs, train.labels)
    dataset = DatasetSplits(sites[0].class_names, train, none, none, config.task)
    learner = _learner(setting, SiteData("pooled", {config.dataset: dataset}))
    state = learner.state()
    best = BestRound(config.primary_metric, state)
    for number in range(1, config.rounds + 1):
        state = _train(learner, state, number, config, len(training_sites(sites)))
        if _looks(config, number):
            by_site = {site.site: _evaluate(learner, state, site) for site in sites}
            for name, metrics in by_site.items():
                recorder.add_evaluation(number, "global", name, metrics)
            best.offer(number, state, by_site)
        setting.progress(RoundDone(round=number, of=config.rounds))
    saved: Saved = {}
    for key, version, chosen in _versions(config, state, best):
        learner.load(chosen)
        threshold, by_site = shared_metrics(sites, learner.predict)
        setting.keep("global", [key], sites, learner.predict)
        recorder.final[key] = final_models(version, chosen, by_site, {}, threshold)
        saved[key] = chosen
    return saved


def local_only(setting: Setting, sites: list[SiteData], recorder: Recorder) -> Saved:
    """Every site trains alone from the same initial weights; the best round is each site's own."""
    config = setting.config
    found: dict[Version, BySite] = {"last": {}, "best": {}}
    digests: Saved = {"last": {}, "best": {}}
    trainers = training_sites(sites)
    for place, site in enumerate(trainers):
        learner = _learner(setting, site)
        state = learner.state()
        best = BestRound(config.primary_metric, state)
        for number in range(1, config.rounds + 1):
            state = _train(learner, state, number, config)
            if _looks(config, number):
                metrics = _evaluate(learner, state, site)
                recorder.add_evaluation(number, "personal", site.site, metrics)
                best.offer(number, state, {site.site: metrics})
        for key, version, chosen in _versions(config, state, best):
            found[key][site.site] = _evaluate(learner, chosen, site, slow=True)
            setting.keep("personal", [key], [site], learner.predict)
            digests[key] |= {f"{site.site}/{name}": value for name, value in chosen.items()}
            if setting.folder is not None:
                name, folder = f"personal-{key}", setting.site_folder(site.site)
                own = personal_card(config, site, name, found[key][site.site], method=config.label, rounds=version)
                save_model(folder / f"{name}.safetensors", chosen, own, private=True)
                if setting.pages:
                    _report(learner, site, folder / f"report-{key}.html", own.threshold)
        setting.progress(TrainedAlone(site=site.site, number=place + 1, of=len(trainers)))
    recorder.final["last"] = final_models(config.rounds, digests["last"], {}, found["last"])
    recorder.final["best"] = final_models(config.rounds, digests["best"], {}, found["best"])
    return {}


def _report(learner: Learner, site: SiteData, path: Path, threshold: float | None) -> None:
    """The site's own report on the model that it has just evaluated; it stays at the site as a federated run's does."""
    if len(site.test):
        learner.report(path, {ALONE: {site.name: learner.predict(site.test)}}, None, {ALONE: threshold})


def _versions(config: RunConfig, state: State, best: BestRound) -> list[tuple[Version, int, State]]:
    """The last version and the best one, which is the last where no validation case chose any."""
    chosen = (best.version, dict(best.state)) if best.version else (config.rounds, state)
    return [("last", config.rounds, state), ("best", *chosen)]


def _learner(setting: Setting, data: SiteData) -> Learner:
    config, server = setting.config, setting.server
    model = config.model.build(seed=config.seed, allowed=server.allow_models, folders=server.foundation_models)
    plain = Method(MethodConfig(method="none"))
    return plain.client(ClientContext(model, data, config.training, config.seed))


def _train(learner: Learner, state: State, number: int, config: RunConfig, sites: int = 1) -> State:
    """Round ``number`` with as many passes over the data as a site makes on average: local_epochs x participation.

    Where that is a fraction, whole passes are spread evenly over the rounds, and a round may have none. With
    ``local_steps`` it has as many steps as its ``sites`` make together on average, one at least.
    """
    if config.training.local_steps is not None:
        steps = max(1, round(config.training.local_steps * sites * config.participation))
        return dict(learner.train(Round(number, state, steps=steps)).state)
    per_round = config.training.local_epochs * config.participation
    passes = round(number * per_round) - round((number - 1) * per_round)
    return dict(learner.train(Round(number, state, epochs=passes)).state) if passes else state


def _looks(config: RunConfig, number: int) -> bool:
    return config.evaluate_every > 0 and (number % config.evaluate_every == 0 or number == config.rounds)


def _evaluate(learner: Learner, state: State, site: SiteData, *, slow: bool = False) -> SiteMetrics:
    learner.load(state)
    return site_metrics(site, learner.predict, slow=slow)
