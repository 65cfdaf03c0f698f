"""A study: methods x seeds on one federation. Records are kept, and nothing is run twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PositiveInt, field_validator

from consilia.core.checkpoint import ANEW
from consilia.core.errors import ConfigError
from consilia.core.schema import Strict
from consilia.data.dataset import SiteData
from consilia.data.loading import load_site
from consilia.data.site import load_site_config, server_data
from consilia.data.yaml_file import read_yaml, validate
from consilia.federation.config import RunConfig, run_config
from consilia.federation.run_data import load_run_data
from consilia.federation.run_folder import RESULT
from consilia.methods.contract import Method
from consilia.methods.registry import make_method, method_class, method_names, methods_for_any_model
from consilia.methods.shown import panels_of
from consilia.record.files import load_record, save_record
from consilia.record.schema import Record
from consilia.report.html import write_report
from consilia.simulation.federation import load_federation
from consilia.study.baselines import BASELINES, PUBLIC_ONLY, TASK_OF, run_baseline

Engine = Callable[[RunConfig, Mapping[str, Path], Path], Record]

EMBEDDED = Path(__file__).parents[1] / "studies"
DEFAULT_BASELINES = tuple(name for name in BASELINES if name != PUBLIC_ONLY)


def _any_model() -> dict[str, dict[str, Any]]:
    """What a study runs that names no methods."""
    return {name: {"method": name} for name in methods_for_any_model()}


def embedded_studies() -> list[str]:
    """Names of the studies that come with Consilia."""
    return sorted(path.stem for path in EMBEDDED.glob("*.yaml"))


class Study(Strict):
    """A study file.

    Attributes:
        data: an embedded dataset's name, a folder of sites, or a federation file (relative to the study file).
        leave_out: a site that trains nothing and is tested on instead: the unseen centre.
        train_cases: how many (or what fraction) of each site's training cases are used: few data.
        run: keys of RunConfig shared by all runs; the model is chosen from the data where none is given.
        methods: what differs, by label: keys of RunConfig, ``method`` among them.
        baselines: of centralised, local-only, linear and majority (classification), filled-box and ellipse
            (segmentation), public-only (a method that learns at the server). By default all that fit the task but the
            last.
        seeds: run seeds.
    """

    data: str = "wisconsin"
    leave_out: str | None = None
    train_cases: PositiveInt | Annotated[float, Field(gt=0, lt=1)] | None = None
    run: dict[str, Any] = Field(default_factory=dict)
    methods: dict[str, dict[str, Any]] = Field(default_factory=_any_model)
    baselines: tuple[str, ...] = DEFAULT_BASELINES
    seeds: tuple[int, ...] = Field((0,), min_length=1)

    @field_validator("baselines")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in BASELINES:
                raise ValueError(f"expected some of {sorted(BASELINES)}")
        return names


def load_study(source: str | Path) -> Study:
    """Read a study file, or the embedded one of that name (``wisconsin``).

    Raises:
        ConfigError: no such study, or the file does not fit; names file and key.
    """
    embedded = EMBEDDED / f"{source}.yaml"
    path = embedded if embedded.is_file() else Path(source)
    if not path.is_file():
        known = ", ".join(embedded_studies())
        raise ConfigError(f"no study file {path}, and no embedded study of that name (there is: {known})")
    study = validate(Study, read_yaml(path), path)
    beside = path.parent / study.data
    return study.model_copy(update={"data": str(beside.resolve())}) if beside.exists() else study


def study_sites(study: Study, out: Path) -> dict[str, Path]:
    """The study's sites, written below ``out``; see :func:`consilia.simulation.federation.load_federation`."""
    return load_federation(study.data, out, leave_out=study.leave_out, train_cases=study.train_cases)


def study_config(
    study: Study, label: str, seed: int, site_files: Mapping[str, Path], overrides: Sequence[str] = ()
) -> RunConfig:
    """The configuration of one run of a study; ``label`` is one of its methods, a method's name, or a baseline.

    What the study leaves open of dataset, test_only_sites, task and model is read from the site files, if any.
    """
    if label not in study.methods and label not in method_names() and label not in BASELINES:
        known = dict.fromkeys([*study.methods, *method_names()])
        raise ConfigError(
            f"no method {label!r} here: there is {', '.join(known)}. A method of your own: --plugin FILE.py, to "
            "run and compare it on one machine, or an installed package with an entry point"
        )
    values = merged(study.run, _method_of(study, label), {"seed": seed, "label": label})
    several = _named(values).several_datasets
    if several and site_files:
        values.setdefault("test_only_sites", _test_only_sites(site_files, None))
    for first in [] if several else list(site_files.values())[:1]:
        values.setdefault("dataset", _only_dataset(first))
        values.setdefault("test_only_sites", _test_only_sites(site_files, values["dataset"]))
        values.setdefault("task", load_site_config(first).dataset(values["dataset"]).task)
        if "model" not in values:
            values["model"] = default_model(load_site(first, values["dataset"]))
    if study.leave_out is not None and not site_files:
        values.setdefault("test_only_sites", [study.leave_out])
    return run_config(values, overrides, source=f"study, method {label}")


def baselines_of(study: Study, site_files: Mapping[str, Path]) -> tuple[str, ...]:
    """The baselines that a study names; of one that names none, those that fit its task."""
    first = next(iter(site_files.values()), None)
    if "baselines" in study.model_fields_set or first is None:
        return study.baselines
    dataset = study.run.get("dataset") or _only_dataset(first)
    task = study.run.get("task") or load_site_config(first).dataset(dataset).task
    return tuple(name for name in study.baselines if TASK_OF.get(name, task) == task)


def _only_dataset(site_file: Path) -> str:
    datasets = list(load_site_config(site_file).datasets)
    if len(datasets) > 1:
        raise ConfigError(f"{site_file} has several datasets, {datasets}: choose one, e.g. --set dataset={datasets[0]}")
    return datasets[0]


def _test_only_sites(site_files: Mapping[str, Path], dataset: str | None) -> list[str]:
    """The sites that train nothing in that dataset, or in none of their datasets."""
    configs = {name: load_site_config(path) for name, path in site_files.items()}
    specs = {name: [own.dataset(dataset)] if dataset else own.datasets.values() for name, own in configs.items()}
    return [name for name, datasets in specs.items() if all(spec.test_only for spec in datasets)]


def merged(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Later layers win; dictionaries merge key by key, except a method's, which is taken whole."""
    result: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping) and key != "method"
            result[key] = merged(result[key], value) if both else value
    return result


def default_model(data: SiteData) -> dict[str, Any]:
    """An MLP for table rows, the four-layer CNN for square images; anything else needs a model in the configuration."""
    shape = tuple(data.test.inputs.shape[1:])
    if len(shape) == 1:
        return {"class": "consilia.models.mlp.MLP", "args": {"in_features": shape[0], "num_classes": data.num_classes}}
    if len(shape) == 3 and shape[1] == shape[2] and shape[1] % 4 == 0:
        args = {"num_classes": data.num_classes, "in_channels": shape[0], "image_size": shape[1]}
        return {"class": "consilia.models.cnn.FourLayerCNN", "args": args}
    raise ConfigError(f"no default model takes inputs of shape {shape}: give one as model.class and model.args")


def run_study(
    study: Study,
    folder: Path,
    engine: Engine,
    *,
    labels: Sequence[str] | None = None,
    overrides: Sequence[str] = (),
    announce: Callable[[str, bool], None],
) -> list[Record]:
    """Run every method and baseline for every seed that has no record yet; write the comparison report.

    Args:
        study: what to run.
        folder: one sub-folder per run, the sites, and report.html.
        engine: runs one configuration into a folder.
        labels: some of the study's methods and baselines; all by default.
        overrides: ``key=value`` on every run's configuration.
        announce: told each run's name and whether its record is there already.

    Returns:
        The records, in the order of labels and seeds.
    """
    site_files = study_sites(study, folder / "sites")
    chosen = _with_fedavg(labels or [*study.methods, *baselines_of(study, site_files)], study)
    places = {(label, seed): folder / f"{label}-seed{seed}" for label in chosen for seed in study.seeds}
    # All of them before the first run: a mistake in the last method must not show hours later.
    configs = {(label, seed): study_config(study, label, seed, site_files, overrides) for label, seed in places}
    finished_runs = {
        run: finished(place, configs[run], site_files, baseline=run[0] in BASELINES) for run, place in places.items()
    }
    records = []
    for run, place in places.items():
        known = finished_runs[run]
        announce(place.name, known is not None)
        records.append(known or _run(configs[run], run[0], site_files, place, engine))
    write_report(records, folder / "report.html", panels_of(records))
    return records


def _with_fedavg(labels: Sequence[str], study: Study) -> list[str]:
    """FedAvg followed by local fine-tuning is the personal baseline that methods fail to beat: it is always there."""
    federated = [label for label in labels if label not in BASELINES]
    chosen = [{**study.run, **study.methods.get(label, {"method": label})} for label in federated]
    # A method of several tasks has baselines of its own.
    there = any(values.get("method") == "fedavg" or _named(values).several_datasets for values in chosen)
    return list(dict.fromkeys(labels if there or not federated else ["fedavg", *labels]))


def stands_alone(study: Study, label: str) -> bool:
    """Whether a run's configuration can be made without a look at the study's data."""
    several = _named(merged(study.run, _method_of(study, label))).several_datasets
    return several or {"dataset", "model"} <= study.run.keys()


def _method_of(study: Study, label: str) -> dict[str, Any]:
    return study.methods.get(label, {"method": label if label in method_names() else "fedavg"})


def _named(values: Mapping[str, Any]) -> type[Method[Any]]:
    """The method of a configuration that names it alone, or among its parameters; an unknown one is refused later."""
    method = values.get("method")
    name = method.get("method") if isinstance(method, Mapping) else method
    return method_class(name) if name in method_names() else Method


def finished(
    place: Path, config: RunConfig, site_files: Mapping[str, Path], *, baseline: bool = False
) -> Record | None:
    """The record of this very configuration on these very data, if it is there.

    Raises:
        ConfigError: the folder holds the record of another configuration, or of other data.
    """
    path = place / RESULT
    if not path.is_file():
        return None
    record = load_record(path)
    if record.run.id != config.run_id or (record.run.method != config.method.method) != baseline:
        raise ConfigError(f"{path} is of another configuration ({record.run.id}, now {config.run_id}): {ANEW}")
    # The baseline without sites has none in its record, and does not depend on them.
    if record.sites and set(site_files) != {*record.sites, *record.absent}:
        raise ConfigError(
            f"{path} is of the sites {sorted({*record.sites, *record.absent})}, now there are {sorted(site_files)}: "
            f"{ANEW}"
        )
    own = record.server_fingerprint
    if own is not None and own != make_method(config.method).server_fingerprint(server_data(site_files)):
        raise ConfigError(f"{path}: the server's own data have changed since: {ANEW}")
    for name, site_file in site_files.items():
        if name not in record.sites:
            continue
        if load_run_data(config, load_site_config(site_file)).fingerprint() != record.sites[name].fingerprint:
            raise ConfigError(f"{path}: the data of site {name!r} have changed since: {ANEW}")
    return record


def _run(config: RunConfig, label: str, site_files: Mapping[str, Path], place: Path, engine: Engine) -> Record:
    if label not in BASELINES:
        return engine(config, site_files, place)
    record = run_baseline(label, config, site_files, place)
    save_record(record, place / RESULT)
    write_report([record], place / "report.html", panels_of([record]))
    return record
