"""Consilia from Python: what the commands ``run``, ``compare``, ``evaluate`` and ``predict`` do, with typed results.

    import consilia
    run = consilia.run("fedavg", data="heart.yaml", rounds=20, out="runs/heart")
    run.to_frame()

The commands call these functions and print what they give: settings, folders, files and errors are the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from consilia.core.errors import CheckpointError, ConfigError
from consilia.core.events import Progress, no_progress
from consilia.core.tensor_files import read_tensors
from consilia.evaluation.frames import comparison_frame
from consilia.federation.model_card import ModelCard, read_card
from consilia.federation.model_evaluation import PARTS, Evaluated, evaluate_model
from consilia.federation.saved_model import LoadedModel, Predicted, load_model
from consilia.methods.registry import load_plugin, plugin_digest, plugin_file
from consilia.record.schema import Record
from consilia.record.study_result import StudyResult
from consilia.study.baselines import BASELINES
from consilia.study.execute import StudyProgress
from consilia.study.plan import Planned
from consilia.study.running import FinishedRun, no_study_progress, run_method, run_study
from consilia.study.study import EACH, Study, StudySource, study_of

Place = str | Path
Settings = Mapping[str, Any] | Sequence[str]
"""Values of a configuration's keys, by key (``{"training.batch_size": 16}``), or as texts ``key=value``."""


@dataclass(frozen=True)
class Comparison:
    """A finished study.

    Attributes:
        study: what was run.
        runs: in the order of data sets, options, left-out sites, folds, labels and seeds.
        folder: one folder per run, and the reports.
        without: the runs that have no result, and why.
        result: means with intervals, contrasts and verdicts; see docs/studies.md.
    """

    study: Study
    runs: tuple[FinishedRun, ...]
    folder: Path
    without: tuple[Planned, ...] = ()
    result: StudyResult | None = None

    @property
    def records(self) -> list[Record]:
        """What the runs gave."""
        return [run.record for run in self.runs]

    def to_frame(self) -> pd.DataFrame:
        """A row per method, version and metric: mean, standard deviation and number of seeds.

        Before them a column for each axis along which the study goes: ``data``, ``option``, ``left_out``, ``fold``; see
        :func:`consilia.evaluation.frames.comparison_frame`.
        """
        groups: dict[tuple[tuple[str, object], ...], list[Record]] = {}
        for run in self.runs:
            axes = {} if run.federation is None else run.federation.axes
            groups.setdefault(tuple(axes.items()), []).append(run.record)
        frames = []
        for where, records in groups.items():
            frame = comparison_frame(records)
            for place, (name, value) in enumerate(where):
                frame.insert(place, name, value)
            frames.append(frame)
        return pd.concat(frames, ignore_index=True)


@dataclass(frozen=True)
class SavedModel:
    """A model's file and its card. A site's own file says how its cases are read, and whether it allows the network."""

    path: Path
    card: ModelCard

    def at(self, site: Place) -> LoadedModel:
        """The network, built at a site; raises as :func:`consilia.federation.saved_model.load_model`."""
        return load_model(self.path, Path(site))

    def predict(
        self, cases: Place, *, site: Place, dataset: str | None = None, boxes: Place | None = None
    ) -> Predicted:
        """Answers on new cases; see :meth:`consilia.federation.saved_model.LoadedModel.predict`."""
        return self.at(site).predict(Path(cases), dataset, None if boxes is None else Path(boxes))

    def evaluate(self, *, site: Place, dataset: str | None = None, split: str = "test") -> Evaluated:
        """Metrics on a site's labelled cases; see :func:`evaluate`."""
        return evaluate(self.path, site=site, dataset=dataset, split=split)


def run(
    method: str,
    *,
    data: Place | None = None,
    study: StudySource | None = None,
    engine: str = "inprocess",
    rounds: int | None = None,
    seed: int = 0,
    settings: Settings = (),
    plugin: Place | None = None,
    out: Place | None = None,
    overwrite: bool = False,
    workers: int = 1,
    progress: Progress = no_progress,
) -> FinishedRun:
    """Train one federation with one method; a run that is there already is not run again.

    Args:
        method: a method's name, or a label of the study.
        data: an embedded name, a folder of sites (``*/site.yaml``), or a federation file.
        study: a study file, an embedded study's name, or the content of such a file.
        engine: ``inprocess``, one plain loop, or ``sim``, NVFlare's simulator. Both give the same model to the bit.
        rounds: of federated training.
        seed: decides initial weights, batches and sampling.
        settings: values of configuration keys; ``consilia config METHOD`` lists them.
        plugin: a Python file that defines a method of one's own.
        out: folder of the run; default ``runs/METHOD-seedN``.
        overwrite: remove what an earlier run left in the folder.
        workers: of engine ``inprocess``: processes that share the sites, each on one core. The models stay the same.
        progress: called with every event.

    Raises:
        ConfigError: what is asked for does not fit; nothing is left in the folder then.
        DataError: the data do not fit their description.
    """
    use_plugin(plugin)
    return run_method(
        study_of(study, data),
        method,
        run_folder(method, seed, out),
        engine=engine,
        seed=seed,
        overrides=overrides(settings, rounds),
        overwrite=overwrite,
        workers=workers,
        progress=progress,
    )


def run_folder(method: str, seed: int, out: Place | None) -> Path:
    """The folder of a run: the given one, or its default."""
    return Path("runs") / f"{method}-seed{seed}" if out is None else Path(out)


def compare(
    study: StudySource = "wisconsin",
    *,
    only: Sequence[str] = (),
    engine: str = "inprocess",
    seeds: Sequence[int] | None = None,
    rounds: int | None = None,
    leave_out: str | Sequence[str] = (),
    train_cases: float | None = None,
    settings: Settings = (),
    plugin: Place | None = None,
    out: Place | None = None,
    jobs: int | None = None,
    progress: StudyProgress = no_study_progress,
) -> Comparison:
    """Run a study, methods x seeds and the baselines; runs that are there already are not run again.

    Args:
        study: a study file, an embedded study's name, or the content of such a file.
        only: some of its methods, methods' names and baselines; all of the study's by default.
        engine: as of :func:`run`.
        seeds: of the runs; default: the study's.
        rounds: of federated training.
        leave_out: a site that trains nothing and is tested on; of several, or ``all``, each in turn.
        train_cases: training cases used per site, or a fraction of them below 1.
        settings: values of configuration keys, for all runs.
        plugin: a Python file that defines a method of one's own.
        out: folder of the study; default ``runs/STUDY``.
        jobs: runs at a time; default: as many as the machine has cores, and one with ``sim``.
        progress: called with the name of a run and each of its events.

    Raises:
        ConfigError: what is asked for does not fit; nothing is left in the folder then.
        DataError: the data do not fit their description.
    """
    use_plugin(plugin)
    chosen, folder = planned(study, seeds=seeds, leave_out=leave_out, train_cases=train_cases, out=out)
    done = run_study(
        chosen,
        folder,
        engine=engine,
        labels=only or None,
        overrides=overrides(settings, rounds),
        jobs=jobs,
        command=_command(study, engine, seeds, leave_out, train_cases, overrides(settings, rounds), folder),
        progress=progress,
    )
    return Comparison(chosen, done.runs, folder, done.without, done.result)


def _command(
    study: StudySource,
    engine: str,
    seeds: Sequence[int] | None,
    leave_out: str | Sequence[str],
    train_cases: float | None,
    settings: Sequence[str],
    folder: Path,
) -> list[str]:
    """What runs the study, as the command line has it; of one that is given by its content the file is left open."""
    words = ["consilia", "compare", "STUDY.yaml" if isinstance(study, Mapping) else str(study)]
    words += [] if engine == "inprocess" else ["--engine", engine]
    words += [] if seeds is None else ["--seeds", ",".join(map(str, seeds))]
    words += [
        part for site in ([leave_out] if isinstance(leave_out, str) else leave_out) for part in ("--leave-out", site)
    ]
    words += [] if train_cases is None else ["--train-cases", f"{train_cases:g}"]
    words += [part for setting in settings for part in ("--set", setting)]
    words += [] if (plugin := plugin_file()) is None else ["--plugin", str(plugin)]
    return [*words, "--out", str(folder)]


def planned(
    study: StudySource,
    *,
    seeds: Sequence[int] | None,
    leave_out: str | Sequence[str],
    train_cases: float | None,
    out: Place | None,
) -> tuple[Study, Path]:
    """A study with what is asked for besides, and its folder."""
    chosen = study_of(study, None)
    name = "study" if isinstance(study, Mapping) else Path(study).stem
    if sites := dict.fromkeys([leave_out] if isinstance(leave_out, str) else leave_out):
        chosen = chosen.changed(leave_out=tuple(sites))
        name += "-without-" + "-".join("each" if site == EACH else site for site in sites)
    if train_cases is not None:
        chosen = chosen.changed(train_cases=_cases(train_cases))
        name += f"-train-{train_cases:g}"
    if seeds is not None:
        chosen = chosen.changed(seeds=tuple(seeds))
    return chosen, Path("runs") / name if out is None else Path(out)


def evaluate(
    model: Place, *, site: Place, dataset: str | None = None, split: str = "test", out: Place | None = None
) -> Evaluated:
    """Judge a saved model on a site's own labelled cases.

    Args:
        model: a global, personal, centralised or local-only model's file.
        site: the site.yaml that says where the cases are.
        dataset: its name there; default: the model's own.
        split: ``test``, or ``all`` labelled cases of a site that has not trained the model.
        out: a folder for the page, the metrics as JSON and a table of all cases; without it nothing is written.

    Raises:
        ConfigError: model, site and what is asked for do not fit, or ``out`` exists.
        CheckpointError: the file is no model of Consilia's.
        DataError: the data do not fit site.yaml, or the site has no preprocessing yet.
    """
    if split not in PARTS:
        raise ConfigError(f"--split is one of {', '.join(PARTS)}, got {split!r}")
    if out is not None and Path(out).exists():
        raise ConfigError(f"{out} exists: choose another --out")
    found = evaluate_model(Path(model), Path(site), dataset=dataset, part=PARTS[split])
    if out is not None:
        found.write(Path(out))
    return found


def load(model: Place) -> SavedModel:
    """A saved model, to be used at a site.

    Raises:
        CheckpointError: the file is no model of Consilia's.
    """
    path = Path(model)
    if not path.exists():
        raise CheckpointError(f"no model file at {path}")
    return SavedModel(path, read_card(read_tensors(path)[1], path))


def overrides(settings: Settings, rounds: int | None) -> list[str]:
    """``key=value`` for :func:`consilia.federation.config.run_config`; ``rounds`` last."""
    given = [*settings.items()] if isinstance(settings, Mapping) else []
    texts = [] if isinstance(settings, Mapping) else list(settings)
    try:
        texts += [f"{key}={json.dumps(value)}" for key, value in given]
    except TypeError as error:
        raise ConfigError(f"settings: expected values as in a YAML file, got {settings!r}: {error}") from error
    return texts if rounds is None else [*texts, f"rounds={rounds}"]


def use_plugin(plugin: Place | None) -> None:
    """Register the methods of a Python file, where one is given; raises :class:`ConfigError`."""
    if plugin is None:
        return
    load_plugin(Path(plugin))
    for name in BASELINES:
        if plugin_digest(name) is not None:
            raise ConfigError(f"plugin {plugin}: {name} is the name of a baseline: choose another name")


def _cases(number: float) -> int | float:
    if 0 < number < 1:
        return number
    if number < 1 or number != int(number):
        raise ConfigError(f"--train-cases takes a whole number of cases, or a fraction below 1; got {number:g}")
    return int(number)
