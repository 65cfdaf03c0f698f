"""A study file: methods x seeds on one federation, and the configuration of each of its runs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from consilia.core.errors import ConfigError
from consilia.core.schema import Strict, nearest
from consilia.data.dataset import SiteData
from consilia.data.loading import load_site
from consilia.data.site import load_site_config
from consilia.data.yaml_file import read_yaml, validate
from consilia.federation.config import RunConfig, run_config
from consilia.methods.contract import Method
from consilia.methods.registry import STANDARD, method_class, method_names
from consilia.methods.tasks import TASKS
from consilia.simulation.federation import EMBEDDED_DATA, load_federation
from consilia.study.baselines import BASELINES, PUBLIC_ONLY, TASK_OF
from consilia.study.claims import Claim
from consilia.study.grid import Grid
from consilia.study.new_site import NewSite
from consilia.study.subgroups import Division

EACH = "all"
"""In place of the name of a site to leave out: every site that trains, in turn."""

LABEL = re.compile(r"[A-Za-z0-9][\w.-]*")

LABELS_SEEN = {
    "": "each site's own",
    "centralised": "all sites' together",
    "linear": "all sites' together (global), each site's own (personal)",
    "local-only": "each site's own alone",
    "majority": "numbers of cases of each class",
    "filled-box": "none; the box is drawn from the truth",
    "ellipse": "none; the box is drawn from the truth",
    "public-only": "the server's public data alone",
}
"""Which training labels a baseline has seen; under the empty name a federated method."""

BASELINE = "baseline"
"""The key that makes a label of a study's methods one of a baseline."""

EMBEDDED = Path(__file__).parents[1] / "studies"
StudySource = str | Path | Mapping[str, Any]
"""A study file, the name of an embedded study, or what such a file holds."""

DEFAULT_BASELINES = tuple(name for name in BASELINES if name != PUBLIC_ONLY)


def _standard() -> dict[str, dict[str, Any]]:
    """What a study runs that names no methods."""
    return {name: {"method": name} for name in STANDARD}


def embedded_studies() -> list[str]:
    """Names of the studies that come with Consilia."""
    return sorted(path.stem for path in EMBEDDED.glob("*.yaml"))


class Study(Strict):
    """A study file.

    Attributes:
        data: an embedded dataset's name, a folder of sites, or a federation file (relative to the study file). Of
            several, a mapping of labels to them.
        leave_out: a site that trains nothing and is tested on instead: the unseen centre. Of several, or ``all``, each
            in turn: a study for each of them.
        new_site: what few labelled cases of a site left out are worth; see :mod:`consilia.study.adaptation`.
        train_cases: how many (or what fraction) of each site's training cases are used: few data.
        folds: disjoint test folds of every site's patients, each of which is tested in turn.
        partitions: seeds by which a pooled dataset is divided into sites with skewed labels, in turn.
        options: settings under which everything is compared, by label: keys of RunConfig, and ``train_cases``.
        tune: the grid of which settings are chosen before the comparison.
        claims: what is to be shown, written down before the test; see :mod:`consilia.study.claims`.
        budget: core-hours; what is not run when they are spent is in the table as such.
        run: keys of RunConfig shared by all runs; the model is chosen from the data where none is given.
        methods: what differs, by label: keys of RunConfig, ``method`` among them; or ``baseline``, the name of one that
            is to run with other settings than FedAvg's.
        baselines: of centralised, local-only, linear and majority (classification), filled-box and ellipse
            (segmentation), public-only (a method that learns at the server). By default all that fit the task but the
            last.
        subgroups: columns of the sites' tables by which metrics are also given: names of their values, or cut points;
            by default sex, gender and age where tables have them. See :mod:`consilia.study.subgroups`.
        seeds: run seeds.
    """

    data: str | dict[str, str] = "wisconsin"
    leave_out: str | tuple[str, ...] | None = None
    new_site: NewSite | None = None
    train_cases: PositiveInt | Annotated[float, Field(gt=0, lt=1)] | None = None
    folds: Annotated[int, Field(ge=2)] | None = None
    partitions: tuple[int, ...] | None = Field(None, min_length=1)
    options: dict[str, dict[str, Any]] = Field(default_factory=dict)
    tune: Grid | None = None
    claims: tuple[Claim, ...] = ()
    budget: PositiveFloat | None = None
    run: dict[str, Any] = Field(default_factory=dict)
    methods: dict[str, dict[str, Any]] = Field(default_factory=_standard)
    baselines: tuple[str, ...] = DEFAULT_BASELINES
    subgroups: dict[str, Division] | None = None
    seeds: tuple[int, ...] = Field((0,), min_length=1)

    @field_validator("baselines")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in BASELINES:
                raise ValueError(f"no baseline {name!r}; {nearest(name, BASELINES)}")
        return names

    @field_validator("leave_out")
    @classmethod
    def _one_or_several(cls, names: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
        """Of one site its name, of several their names without repetition."""
        if isinstance(names, tuple):
            names = tuple(dict.fromkeys(names))
            if not names or (EACH in names and len(names) > 1):
                raise ValueError(f"expected a site, several sites, or {EACH}")
        return names[0] if isinstance(names, tuple) and len(names) == 1 else names

    @field_validator("methods")
    @classmethod
    def _known_baselines(cls, methods: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for label, values in methods.items():
            if (name := values.get(BASELINE)) is not None and name not in BASELINES:
                raise ValueError(f"{label}: no baseline {name!r}; {nearest(name, BASELINES)}")
        return methods

    @field_validator("data", "options", "methods")
    @classmethod
    def _labelled(cls, value: Any) -> Any:
        """Labels become names of folders."""
        for label in value if isinstance(value, dict) else ():
            if not LABEL.fullmatch(label):
                raise ValueError(f"expected labels of letters, digits, dots, dashes and underscores, got {label!r}")
        return value

    @model_validator(mode="after")
    def _one_division(self) -> Study:
        if self.folds is not None and self.partitions is not None:
            raise ValueError("give folds or partitions: both divide the cases")
        if isinstance(self.data, dict) and not self.data:
            raise ValueError("data names no data set")
        return self

    @property
    def in_turn(self) -> bool:
        """Whether several sites are left out, one after another."""
        return isinstance(self.leave_out, tuple) or self.leave_out == EACH

    def changed(self, **values: Any) -> Study:
        """The same study with other values of some keys; raises :class:`ConfigError`."""
        return validate(Study, {**self.model_dump(exclude_unset=True), **values}, Path("study"))


def load_study(source: str | Path) -> Study:
    """Read a study file, or the embedded one of that name (``wisconsin``).

    Raises:
        ConfigError: no such study, or the file does not fit; names file and key.
    """
    embedded = EMBEDDED / f"{source}.yaml"
    path = embedded if embedded.is_file() else Path(source)
    if not path.is_file():
        raise ConfigError(
            f"no study file {path}, and no embedded study of that name; {nearest(source, embedded_studies())}"
        )
    study = validate(Study, read_yaml(path), path)

    def found(data: str) -> str:
        beside = path.parent / data
        return str(beside.resolve()) if beside.exists() else data

    data = (
        {label: found(own) for label, own in study.data.items()} if isinstance(study.data, dict) else found(study.data)
    )
    return study.model_copy(update={"data": data})


def study_of(source: StudySource | None, data: str | Path | None) -> Study:
    """The study of a file, of a name or of the content of such a file, on other data where some are named.

    Data alone start from the defaults, not from another set's tuning; neither is the study ``wisconsin``.
    """
    if isinstance(source, Mapping):
        study = validate(Study, dict(source), Path("study"))
    elif source is not None:
        study = load_study(source)
    else:
        study = load_study("wisconsin") if data is None else Study()
    if data is None:
        return study
    return study.model_copy(update={"data": str(data) if str(data) in EMBEDDED_DATA else str(Path(data).absolute())})


def study_sites(study: Study, out: Path) -> dict[str, Path]:
    """The study's sites, written below ``out``; see :func:`consilia.simulation.federation.load_federation`.

    Raises:
        ConfigError: as there, or the study leaves out several sites in turn.
    """
    return load_federation(
        one_data_set(study),
        out,
        leave_out=_left_out(study),
        train_cases=study.train_cases,
        partition=None if study.partitions is None else study.partitions[0],
    )


def one_data_set(study: Study) -> str:
    """The data of a study that has one set of them.

    Raises:
        ConfigError: it names several.
    """
    if isinstance(study.data, dict):
        raise ConfigError(
            f"the study has several data sets, {', '.join(study.data)}: consilia compare runs them all; a single run "
            "takes one, by --data"
        )
    return study.data


def _left_out(study: Study) -> str | None:
    if study.in_turn:
        raise ConfigError(
            "leave_out names several sites: consilia compare leaves them out in turn; a single run or job takes one"
        )
    assert not isinstance(study.leave_out, tuple)
    return study.leave_out


def require_method(study: Study, name: str) -> None:
    """Refuse what is neither a label of the study's methods nor a method's name.

    Raises:
        ConfigError: names what was probably meant, and what there is.
    """
    if name in study.methods or name in method_names():
        return
    if name in BASELINES:
        raise ConfigError(f"{name} is a baseline, not a federated method: consilia compare --only {name}")
    raise _unknown(name, [*study.methods, *method_names()])


def require_label(study: Study, name: str) -> None:
    """The same, and baselines are known as well; raises :class:`ConfigError`."""
    if name not in BASELINES and name not in study.methods and name not in method_names():
        raise _unknown(name, [*study.methods, *method_names(), *BASELINES])


def _unknown(name: str, known: Sequence[str]) -> ConfigError:
    return ConfigError(
        f"no method {name!r} here; {nearest(name, dict.fromkeys(known))} (A method of your own: --plugin FILE.py, to "
        "run and compare it on one machine, or an installed package with an entry point)"
    )


def study_config(
    study: Study, label: str, seed: int, site_files: Mapping[str, Path], overrides: Sequence[str] = ()
) -> RunConfig:
    """The configuration of one run of a study; ``label`` is one of its methods, a method's name, or a baseline.

    What the study leaves open of dataset, test_only_sites, task and model is read from the site files, if any.
    """
    require_label(study, label)
    values = merged(study.run, _method_of(study, label), {"seed": seed, "label": label})
    values.pop(BASELINE, None)
    several = _named(values).several_datasets
    if several and site_files:
        values.setdefault("test_only_sites", _test_only_sites(site_files, None))
    for first in [] if several else list(site_files.values())[:1]:
        values.setdefault("dataset", _only_dataset(first))
        values.setdefault("test_only_sites", _test_only_sites(site_files, values["dataset"]))
        spec = load_site_config(first).dataset(values["dataset"])
        values.setdefault("task", spec.task)
        if "model" not in values:
            values["model"] = default_model(load_site(first, values["dataset"]), spec.format)
    if study.leave_out is not None and not site_files:
        values.setdefault("test_only_sites", [_left_out(study)])
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


def default_model(data: SiteData, data_format: str) -> dict[str, Any]:
    """An MLP for table rows, a small residual network for square images, others for signals and for time series.

    Raises:
        ConfigError: other inputs need a model in the configuration.
    """
    shape, outputs = tuple(data.test.inputs.shape[1:]), TASKS[data.task].outputs(data.num_classes)
    if data_format == "signals":
        return {"class": "consilia.models.sequences.SignalCNN", "args": {"num_classes": outputs, "leads": shape[0]}}
    if data_format == "timeseries":
        args = {"num_classes": outputs, "features": shape[1]}
        return {"class": "consilia.models.sequences.SeriesGRU", "args": args}
    if len(shape) == 1:
        return {"class": "consilia.models.mlp.MLP", "args": {"in_features": shape[0], "num_classes": outputs}}
    if len(shape) == 3 and shape[1] == shape[2]:
        args = {"num_classes": outputs, "in_channels": shape[0]}
        return {"class": "consilia.models.resnet.SmallResNet", "args": args}
    raise ConfigError(f"no default model takes inputs of shape {shape}: give one as model.class and model.args")


def study_values(study: Study, label: str) -> dict[str, Any]:
    """What a study says of a run's configuration, the method as a mapping."""
    values = merged(study.run, _method_of(study, label))
    method = values.get("method")
    return {**values, "method": {"method": method} if isinstance(method, str) else method}


def method_of(study: Study, label: str) -> str:
    """The name of the method that a label stands for; raises :class:`ConfigError` where it names none."""
    method = study_values(study, label)["method"]
    name = method.get("method") if isinstance(method, Mapping) else None
    if name not in method_names():
        raise ConfigError(f"study, method {label}: expected the name of a method under the key method, got {name!r}")
    return str(name)


def advice(study: Study, labels: Sequence[str]) -> str | None:
    """What else belongs into a comparison of these labels, where a method makes personal models and FedAvg is missing.

    FedAvg followed by local fine-tuning is the personal baseline that methods fail to beat.
    """
    chosen = [merged(study.run, _method_of(study, label)) for label in labels if baseline_of(study, label) is None]
    methods = [_named(values) for values in chosen]
    names = [getattr(method, "name", "") for method in methods]
    if "fedavg" in names or not any(method.personal and not method.several_datasets for method in methods):
        return None
    return "Personal models are judged against FedAvg with local fine-tuning, which is not here: --only fedavg runs it."


def stands_alone(study: Study, label: str) -> bool:
    """Whether a run's configuration can be made without a look at the study's data."""
    several = _named(merged(study.run, _method_of(study, label))).several_datasets
    return several or {"dataset", "model"} <= study.run.keys()


def _method_of(study: Study, label: str) -> dict[str, Any]:
    """What differs of a label's runs; a baseline has the network and the training of FedAvg, unless it says more."""
    own = study.methods.get(label, {"method": label if label in method_names() else "fedavg"})
    return {"method": "fedavg", **own} if BASELINE in own else own


def baseline_of(study: Study, label: str) -> str | None:
    """The baseline that a label stands for; None: a federated method."""
    if label in study.methods:
        return study.methods[label].get(BASELINE)
    return label if label in BASELINES else None


def _named(values: Mapping[str, Any]) -> type[Method[Any]]:
    """The method of a configuration that names it alone, or among its parameters; an unknown one is refused later."""
    method = values.get("method")
    name = method.get("method") if isinstance(method, Mapping) else method
    return method_class(name) if name in method_names() else Method
