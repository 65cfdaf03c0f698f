"""The tables of one cell of a study: of a data set under one option.

A value stands with its 95 % interval, ``0.812 [0.790, 0.834]``; what is not defined, or has no global model, is a dash.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from consilia.evaluation.study_metrics import METRICS, PLAIN_MEANS, metric_of
from consilia.record.metrics import UNDEFINED, Metric, show
from consilia.record.study_result import (
    MODELS,
    WITHOUT_RESULT,
    Cell,
    Model,
    Ratio,
    Score,
    StudyResult,
    Support,
    Version,
    cell_title,
)
from consilia.report.format import plural
from consilia.report.panel import TextTable

PRIMARY: dict[str, tuple[str, ...]] = {
    "classification": ("auroc", "auroc_weighted", "accuracy", "accuracy_sites"),
    "segmentation": ("dice", "dice_sites", "missed", "hd95"),
    "survival": ("c_index", "c_index_weighted", "c_index_pooled"),
}
"""By task, the metrics of the first table; the others stand in a second one."""
UNSEEN: dict[str, tuple[str, ...]] = {
    "classification": ("auroc", "auprc", "accuracy", "brier", "ece"),
    "segmentation": ("dice", "missed", "hd95"),
    "survival": ("c_index",),
}
"""By task, the metrics at a site that was left out."""
VERSIONS: dict[Version, str] = {"last": "after the last round", "best": "the version best on validation cases"}


class CellTables:
    """The tables of one cell."""

    def __init__(self, result: StudyResult, data: str, option: str) -> None:
        self.result, self.data, self.option = result, data, option
        self.cell: Cell | None = next((c for c in result.cells if (c.data, c.option) == (data, option)), None)
        self.runs = [run for run in result.runs if (run.data, run.option) == (data, option)]
        own = [score for score in result.scores if (score.data, score.option) == (data, option)]
        self.scores: dict[tuple[str, str, str, str, str, str], Score] = {
            (one.method, one.version, one.model, one.metric, one.site, one.subgroup): one for one in own
        }
        methods = [run.method for run in self.runs] + list(self.cell.methods if self.cell else ())
        self.methods = list(dict.fromkeys(methods))
        self.title = cell_title(data, option)
        self.left_out = any(run.left_out for run in self.runs)
        self.new_site = [one for one in result.new_site if (one.data, one.option) == (data, option)]

    @property
    def metrics(self) -> Sequence[Metric]:
        """Of the cell's task, in order."""
        return METRICS[self.cell.task] if self.cell else ()

    def score(self, method: str, version: str, model: str, metric: str, site: str = "", group: str = "") -> str:
        """One cell of a table."""
        found = self.scores.get((method, version, model, metric, site, group))
        known = metric_of(self.cell.task, metric) if self.cell else None
        return UNDEFINED if found is None or known is None else with_interval(found.value, found.low, found.high, known)

    def tables(self) -> Iterator[tuple[str, TextTable]]:
        """All of them by name."""
        if self.cell is None:
            yield "means-last", self.without_results()
            return
        primary = PRIMARY[self.cell.task]
        if self.left_out:
            yield "left-out", self.unseen(UNSEEN[self.cell.task])
        for version, words in VERSIONS.items():
            if any(key[1] == version for key in self.scores):
                yield f"means-{version}", self.means(version, words, primary)
                others = [metric.name for metric in self.metrics if metric.name not in primary]
                if others:
                    for model in MODELS:
                        yield f"more-{version}-{model}", self.more(version, words, model, others)
        for name in dict.fromkeys(key[3] for key in self.scores if key[4]):
            if name in primary or name == self.metrics[0].name:
                yield f"sites-{name}", self.sites(name)
        if (spread := self.spread()).rows:
            yield "spread", spread
        ratios = [one for one in self.result.ratios if (one.data, one.option) == (self.data, self.option)]
        if any(one.version == "last" for one in ratios):
            yield "ratios", self.ratios([one for one in ratios if one.version == "last"])

    def without_results(self) -> TextTable:
        """Of a cell without a single prediction: its methods, and that there is nothing."""
        rows = [[method, self.saw(method), self.runs_text(method)] for method in self.methods]
        return TextTable(f"{self.title}: no run has a result", ["method", "labels seen", "runs"], rows)

    def means(self, version: Version, words: str, primary: Sequence[str]) -> TextTable:
        """Global and personal metrics, and the balance of the first one, of every method."""
        assert self.cell is not None
        shown = [metric for metric in self.metrics if metric.name in primary]
        columns: list[tuple[Model, Metric]] = [
            (model, metric) for model in MODELS for metric in shown if self.has(version, model, metric.name)
        ]
        if self.has(version, "balance", shown[0].name):
            columns.append(("balance", shown[0]))
        rows = [
            [
                method,
                self.saw(method),
                self.runs_text(method),
                self.rate(method),
                *(self.score(method, version, model, metric.name) for model, metric in columns),
            ]
            for method in self.methods
        ]
        headings = [f"{model}: {metric.heading}" for model, metric in columns]
        return TextTable(
            f"{self.title}: {words}", ["method", "labels seen", "runs", "rate", *headings], rows, self.support()
        )

    def has(self, version: str, model: str, metric: str) -> bool:
        """Whether any method has it."""
        return any(
            key[1:] == (version, model, metric, "", "") and found.value is not None
            for key, found in self.scores.items()
        )

    def more(self, version: Version, words: str, model: Model, names: Sequence[str]) -> TextTable:
        """The other metrics of one kind of model."""
        shown = [metric for metric in self.metrics if metric.name in names]
        rows = [[m, *(self.score(m, version, model, metric.name) for metric in shown)] for m in self.methods]
        notes = "; ".join(f"{metric.heading}: {metric.meaning}" for metric in shown)
        return TextTable(
            f"{self.title}: {model} model{'s' * (model == 'personal')}, {words}",
            ["method", *(metric.heading for metric in shown)],
            rows,
            notes,
        )

    def sites(self, metric: str) -> TextTable:
        """A metric of the last version at every site; those that stand in no mean are marked."""
        assert self.cell is not None
        known = metric_of(self.cell.task, metric)
        columns = [f"{site.site}{'*' * (not site.averaged)} ({self.counted(site)})" for site in self.cell.sites]
        rows = [
            [method, model, *(self.score(method, "last", model, metric, site.site) for site in self.cell.sites)]
            for method in self.methods
            for model in MODELS
            if any((method, "last", model, metric, site.site, "") in self.scores for site in self.cell.sites)
        ]
        apart = any(not site.averaged for site in self.cell.sites)
        return TextTable(
            f"{self.title}: {known.heading if known else metric} by site, after the last round",
            ["method", "model", *columns],
            rows,
            "* fewer test patients, or cases of a class, than a mean of AUROC or C-index asks" if apart else "",
        )

    def unseen(self, names: Sequence[str]) -> TextTable:
        """What the global model is worth at every site that was left out, and the mean over the sites."""
        assert self.cell is not None
        metrics = [metric for metric in self.metrics if metric.name in names]
        rows = [
            [
                f"{site.site}{'*' * (not site.averaged)} ({self.counted(site)})",
                method,
                *(self.score(method, "last", "global", metric.name, site.site) for metric in metrics),
            ]
            for site in self.cell.sites
            for method in self.methods
        ]
        rows += [
            [
                "mean of the sites",
                method,
                *(
                    self.score(method, "last", "global", PLAIN_MEANS.get(metric.name, metric.name))
                    for metric in metrics
                ),
            ]
            for method in self.methods
        ]
        prepared = sorted({run.prepared for run in self.runs if run.prepared})
        caption = (
            "A site that is left out trains nothing: all its cases are test cases of a model that the others have "
            f"trained. Its inputs are prepared with {' or '.join(prepared)}."
        )
        if any(not site.averaged for site in self.cell.sites):
            caption += " * too few test patients, or cases of a class, for a mean of AUROC or C-index."
        return TextTable(
            f"{self.title}: every site left out in turn, global model after the last round",
            ["left out", "method", *(metric.heading for metric in metrics)],
            rows,
            caption,
        )

    def ratios(self, ratios: Sequence[Ratio]) -> TextTable:
        """The metrics of every method divided by those of the reference: of means over sites, and at each site."""
        assert self.cell is not None
        found = {(one.method, _of_a_site(one.metric), one.site): one for one in ratios}
        sites = ["", *(site.site for site in self.cell.sites)]
        headings = {metric.name: metric.heading for metric in self.metrics}
        rows = [
            [
                method,
                headings[metric],
                *(
                    UNDEFINED if one is None else _bracketed(f"{one.value:.3f}", one.low, one.high, "{:.3f}")
                    for one in (found.get((method, metric, site)) for site in sites)
                ),
            ]
            for method, metric in dict.fromkeys((one.method, _of_a_site(one.metric)) for one in ratios)
        ]
        marked = [f"{site.site}{'*' * (not site.averaged)}" for site in self.cell.sites]
        return TextTable(
            f"{self.title}: the global model after the last round, divided by {ratios[0].reference}",
            ["method", "metric", "means of the sites", *marked],
            rows,
            "Paired: both methods on the same draws of patients and seeds. Means of the sites: the quotient of the two "
            "means; a site with a star has no part in those of AUROC or C-index.",
        )

    def spread(self) -> TextTable:
        """Worst site, and how far the sites lie apart."""
        names = {metric.name: metric for metric in self.metrics}
        rows = [
            [
                one.method,
                one.model,
                names[one.metric].heading,
                one.worst_site,
                show(one.worst, names[one.metric].unit),
                show(one.range, names[one.metric].unit),
                show(one.sd, names[one.metric].unit),
                str(one.sites),
            ]
            for one in self.result.spreads
            if (one.data, one.option, one.version) == (self.data, self.option, "last")
            and one.metric in ("auroc", "accuracy", "dice", "c_index")
        ]
        columns = ["method", "model", "metric", "worst site", "there", "largest difference", "sd", "sites"]
        return TextTable(f"{self.title}: worst site and spread between sites, after the last round", columns, rows)

    # ---- what stands beside the numbers

    def saw(self, method: str) -> str:
        """Which labels a row has seen."""
        found = {run.saw for run in self.runs if run.method == method and run.saw}
        return "; ".join(sorted(found)) or UNDEFINED

    def rate(self, method: str) -> str:
        """The chosen learning rates; those at their grid's end are marked."""
        found = {f"{run.rate}{'*' * run.edge}" for run in self.runs if run.method == method and run.rate}
        return ", ".join(sorted(found)) or UNDEFINED

    def runs_text(self, method: str) -> str:
        """How many of the planned runs have a result."""
        planned = [run for run in self.runs if run.method == method]
        done = sum(run.status not in WITHOUT_RESULT for run in planned)
        return UNDEFINED if not planned else str(done) if done == len(planned) else f"{done} of {len(planned)}"

    def support(self) -> str:
        """Patients and cases in all, positives or events, folds and seeds."""
        assert self.cell is not None
        cell = self.cell
        of_each = f", {of_each_text(cell.of_each, cell.task)}" if cell.of_each else ""
        edge = " * at the end of its grid." if any(run.edge for run in self.runs) else ""
        sites = {run.left_out for run in self.runs if run.left_out}
        apart = f"{plural(len(sites), 'site')} left out in turn" if sites else plural(len(cell.folds), "fold")
        return (
            f"{plural(cell.patients, 'test patient')}, {plural(cell.cases, 'case')}{of_each}; "
            f"{apart}, {plural(len(cell.seeds), 'seed')}.{edge}"
        )

    def counted(self, site: Support) -> str:
        """The support of a site in a heading."""
        assert self.cell is not None
        of_each = f", {of_each_text(site.of_each, self.cell.task)}" if site.of_each else ""
        return f"{plural(site.patients, 'patient')}{of_each}"


def of_each_text(counts: Sequence[int], task: str) -> str:
    """Cases by class, or events: ``50 positive``."""
    if task == "survival":
        return plural(counts[1], "event")
    return f"{counts[1]} positive" if len(counts) == 2 else "/".join(map(str, counts)) + " by class"


def _of_a_site(metric: str) -> str:
    """The metric whose mean over sites this is, or itself."""
    return next((name for name, mean in PLAIN_MEANS.items() if mean == metric), metric)


def with_interval(value: float | None, low: float | None, high: float | None, metric: Metric) -> str:
    """``81.2 % [79.0, 83.4]``, ``0.812 [0.790, 0.834]``; without an interval the value alone."""
    if value is None:
        return UNDEFINED
    percent = metric.unit == "percent"
    form = "{:.1f}" if percent else "{:.2f}" if metric.unit == "distance" else "{:.3f}"
    ends = [None if end is None else 100 * end if percent else end for end in (low, high)]
    return _bracketed(show(value, metric.unit), ends[0], ends[1], form)


def _bracketed(text: str, low: float | None, high: float | None, form: str) -> str:
    if low is None or high is None:
        return text
    return f"{text} [{form.format(low)}, {form.format(high)}]".replace("-", "−")
