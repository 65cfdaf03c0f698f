"""``consilia site manifest`` and ``consilia site approve``: what a job asks and sends, for who answers for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich import box
from rich.table import Table

from consilia.cli.console import console
from consilia.cli.site_runs import limits_table
from consilia.core.plain import plain
from consilia.core.reading import read_json
from consilia.data.limits import SiteLimits, reached
from consilia.data.site import load_site_config
from consilia.deploy.foreign import MAX_FOREIGN, JobFiles, foreign_parts, job_files
from consilia.deploy.install.config import config_file
from consilia.deploy.kit import Kit, open_kit
from consilia.deploy.release_filter import AUDIT, approve, approved, withdraw
from consilia.federation.config import RunConfig
from consilia.federation.release_manifest import Manifest, as_manifest, read_manifest
from consilia.federation.site_limits import LimitRow, compared, what_to_do
from consilia.methods.contract import TRAIN_LOSS, ReplyField
from consilia.methods.registry import make_method
from consilia.models.exchange import ModelSize

MEANING = {
    "round": "number of rounds behind the global model that the site was given",
    "train": "training cases of the site",
    "validation": "validation cases of the site",
    "test": "test cases of the site",
    "class_names": "names of the classes, as the site's site.yaml has them",
    "fingerprint": "digest of the site's prepared data: tells that they changed, not what they are",
    "layout": "keys of site.yaml that decide what an input means (size, normalise, columns), and its shape",
    "values": "number of the training values of a channel or column, which are added up",
    "total": "sum of these values, over all training cases",
    "squares": "sum of their squares",
    "datasets": "training cases of each dataset that the site has",
    "cases": "training cases behind this update",
    "seconds": "time that the site took",
    "count": "cases evaluated",
    "correct": "cases that the model gets right",
    "accuracy": "share of cases that the model gets right",
    "balanced_accuracy": "mean over the classes of the share that the model gets right",
    "auroc": "area under the ROC curve",
    "loss": "mean loss",
    "threshold": "probability above which a case counts as positive: half way between those of two cases",
    "sensitivity": "share of the positive cases that is found, at the model's threshold and at 0.5",
    "specificity": "share of the negative cases that is let pass, likewise",
    "ppv": "share of those found that is positive, likewise",
    "npv": "share of those let pass that is negative, likewise",
    "f1": "F1 score, likewise",
    "patients": "patients of the cases evaluated",
    "positives": "positive cases among them: with their number, a count of both classes",
    "auprc": "area under the precision-recall curve",
    "brier": "mean squared error of the probabilities",
    "ece": "expected calibration error",
    "se": "standard error of the metrics, over draws of the site's patients",
    "low": "lower end of their 95 % intervals",
    "high": "upper end of their 95 % intervals",
    "roc": "21 points of the ROC curve",
    "cases in a bin": "cases with a probability in each tenth from 0 to 1",
    "confidence": "their mean probability, where they are as many as min_cases_per_metric says",
    "observed": "the share of them that is positive, likewise",
    "negative_flips": "cases newly wrong since the last evaluation",
    "positive_flips": "cases newly right since the last evaluation",
    "empty": "cases without any structure in the true mask",
    "unit": "unit of HD95",
    "dice": "mean Dice",
    "iou": "mean intersection over union",
    "hd95": "mean 95th percentile of the distance between outlines",
    "missed": "cases with a structure in which the model found none",
}
"""The fields of every method by name, in words; a method says itself what its own are."""

UNKNOWN = "unknown to this version of Consilia: ask who made the job before you approve it"

PLACES = {
    "received": "the global model",
    "trained": "the model just trained at the site",
    "personal": "the site's personal model",
    "variants": "variants of the global model",
    "fields": "training",
}

TASKS = {
    "prepare": "prepare: once, before the first round",
    "train": "train: in every round",
    "evaluate": "evaluate: metrics of the global model",
    "personalize": "personalize: after the last round, metrics of the global and of the personal model",
}

SAME_WORK = ("method.method", "model.class", "dataset")
"""Settings in which two jobs agree that are worth comparing."""

NEVER = (
    "cases: images, signals, tables, text, or anything computed from one case alone",
    "identifiers of patients and cases, file names, paths, and the site's site.yaml",
    "label counts, as such; metrics disclose them, and so does an update from weights chosen for it",
    "answers, masks and metrics of single cases; they are in the report that stays at the site",
    "texts of errors: the server learns the kind of an error by its class name",
)
"""What no method sends."""


def manifest_command(job: Path, kit: Path | None) -> None:
    """Print what a job asks of its sites, what they send and do not send, and whether a site has approved it."""
    name, manifest, config = read_manifest(job)
    method = make_method(config.method)
    own = [*method.fields(), *filter(None, [method.weight()])]
    console.print(f"What a site does and sends in job {name}", style="bold")
    console.print(f"manifest {manifest.digest}", highlight=False)
    files = job_files(job)
    foreign = foreign_parts(files)
    for part in foreign[:MAX_FOREIGN]:
        console.print(f"Not as consilia export writes it: {part}", style="bold red", soft_wrap=True)
    _print_code(files)
    console.print(_asked(manifest))
    several = ", as far as the site has them" if len(manifest.datasets) > 1 else ""
    console.print(
        f"It reads the data of dataset {plain(', '.join(manifest.datasets))}{several}; no other dataset's.",
        soft_wrap=True,
    )
    for task, fields in manifest.fields.items():
        console.print(_fields(task, fields, own))
        if task == "train":
            console.print(_tensors(manifest.tensors))
    console.print("Instead of a reply: the class name of an error, or a code of NVFlare's with nothing beside it.")
    _print_never(manifest)
    if kit is not None:
        site = open_kit(kit)
        console.print(limits_table(_beside_limits(site, manifest, config)))
        if foreign:
            text = f"\nCannot be approved at {site.name}: it is not as consilia export writes it, see the top"
            console.print(text, style="bold red", soft_wrap=True)
        else:
            _print_approval(job, kit, site, manifest)


def approve_command(job: Path, kit: Path, withdraw_it: bool) -> None:
    """Approve what a job asks and sends at a site, or take the approval back."""
    name, manifest, config = read_manifest(job)
    site = open_kit(kit)
    if withdraw_it:
        for path in withdraw(kit, job):
            console.print(f"{path} is removed", soft_wrap=True)
        console.print(f"{site.name} does and sends nothing more in job {name}", soft_wrap=True)
        return
    path = approve(kit, job)
    _print_code(job_files(job))
    text = f"{site.name} does and sends in job {name} what {path} names, and nothing else"
    console.print(text, soft_wrap=True)
    console.print(f"manifest {manifest.digest}; every message is written to {site.folder / AUDIT}", soft_wrap=True)
    for row in _beside_limits(site, manifest, config):
        if not row.ok:
            refusal = reached(row.limit, row.asked, row.allowed)
            text = f"{refusal}: it will be refused; {what_to_do(row.limit)}"
            console.print(text, style="bold red", soft_wrap=True)


def _beside_limits(site: Kit, manifest: Manifest, config: RunConfig) -> list[LimitRow]:
    """What a job asks beside a site's limits; what takes the site's data to know is left to its doctor."""
    path = config_file(site)
    limits = load_site_config(path).limits if path.is_file() else SiteLimits()
    return compared(config, limits, model_bytes=manifest.model_size.bytes)


def _print_code(files: JobFiles) -> None:
    """Say so where a job brings code."""
    if files.code:
        text = f"The job brings code: {len(files.code)} files. No approval binds what code does."
        console.print(text, style="bold red", soft_wrap=True)


def _asked(manifest: Manifest) -> Table:
    """A row per setting of the run, those of one part together."""
    table = Table(title="asked of the site", title_justify="left", box=box.SIMPLE_HEAD)
    for column in ("setting", "value"):
        table.add_column(column, overflow="fold")
    for path, value in sorted(manifest.asked.items(), key=lambda item: ("." in item[0], item[0])):
        table.add_row(plain(path), plain(value))
    size = manifest.model_size
    table.add_row("size of the model", f"{size.elements:,} elements, {size.bytes:,} bytes")
    return table


def _print_nearest(asked: Mapping[str, str], kit: Kit) -> None:
    """How a job differs from the approval that is most like it, among those of its method, model class and dataset."""
    approvals = {path.name: as_manifest(read_json(path), str(path)).asked for path in approved(kit.local).values()}
    unlike = {
        name: sorted(path for path in {*asked, *before} if asked.get(path) != before.get(path))
        for name, before in approvals.items()
        if all(asked.get(path) == before.get(path) for path in SAME_WORK)
    }
    if not unlike:
        return
    nearest = min(unlike, key=lambda name: (len(unlike[name]), name))
    console.print(f"The nearest approval, {nearest}, differs in {len(unlike[nearest])} setting(s):", soft_wrap=True)
    for path in unlike[nearest]:
        values = (values.get(path, "nothing") for values in (approvals[nearest], asked))
        console.print("- {}: approved {}, asked {}".format(path, *values), highlight=False, soft_wrap=True)


def _fields(task: str, fields: Mapping[str, str], own: Sequence[ReplyField]) -> Table:
    """A row per field; fields that differ in the evaluated model or split alone share one."""
    rows: dict[tuple[str, str, str], list[str]] = {}
    for path, kind in fields.items():
        name, where, each = _named(path)
        rows.setdefault((name, each, kind), []).append(where)
    meaning = MEANING | {field.name: field.meaning for field in (TRAIN_LOSS, *own)}
    table = Table(title=TASKS[task], title_justify="left", box=box.SIMPLE_HEAD)
    for column in ("field", "kind", "what it is", "of"):
        table.add_column(column, overflow="fold")
    above = ""
    for (name, each, kind), places in rows.items():
        of = ("; ".join(_merged(places)) + each).removeprefix(", ")
        cells = (name, kind.replace("|", " or "), meaning.get(name, UNKNOWN), '"' if of and of == above else of)
        table.add_row(*map(plain, cells))
        above = of
    return table


def _named(path: str) -> tuple[str, str, str]:
    """Name of a field, the model and split it is of, and the tasks or prompts for each of which it is told."""
    parts = _of_details(path.replace("[]", "").split("."))
    # Of a dictionary (tasks, prompts) the keys stand between its name and the metric's, or after its name.
    keyed = next((place for place, part in enumerate(parts[:-1]) if part in ("tasks", "prompts", "datasets")), None)
    if keyed is None:
        return parts[-1], ".".join(parts[:-1]), ""
    name = parts[-1] if keyed + 2 < len(parts) else parts[keyed]
    return name, ".".join(parts[:keyed]), f", for each of {', '.join(parts[keyed + 1].split('|'))}"


def _of_details(parts: list[str]) -> list[str]:
    """A path without the part of the metrics, and the threshold, that a metric of a final evaluation is of."""
    if "reliability" in parts[:-1]:
        parts = [*parts[:-2], "cases in a bin" if parts[-1] == "count" else parts[-1]]
    if "intervals" in parts:
        place = parts.index("intervals")
        parts = parts[:place] + parts[place + 2 :]
    return [part for part in parts if part not in ("operating", "at_half", "curves")]


def _merged(places: list[str]) -> list[str]:
    """``received.validation`` and ``received.test`` as one: the global model on validation and test cases."""
    splits: dict[str, list[str]] = {}
    for place in places:
        part, _, split = place.partition(".")
        if split not in splits.setdefault(part, []):
            splits[part].append(split)
    return [
        PLACES.get(part, part) + (f" on {' and '.join(found)} cases" if any(found) else "")
        for part, found in splits.items()
    ]


def _tensors(tensors: Mapping[str, str]) -> Table:
    """A row per group of tensors: those whose names begin alike."""
    groups: dict[str, list[ModelSize]] = {}
    for name, layout in tensors.items():
        groups.setdefault(name.split(".")[0], []).append(ModelSize.of_layout(layout))
    table = Table(
        title="train, beside the fields: the trained model's tensors", title_justify="left", box=box.SIMPLE_HEAD
    )
    table.add_column("tensors")
    for column in ("how many", "elements", "bytes"):
        table.add_column(column, justify="right")
    for name, sizes in groups.items():
        _add_sizes(table, name, sizes)
    if len(groups) > 1:
        _add_sizes(table, "together", [size for sizes in groups.values() for size in sizes])
    return table


def _add_sizes(table: Table, name: str, sizes: list[ModelSize]) -> None:
    elements, size = sum(part.elements for part in sizes), sum(part.bytes for part in sizes)
    table.add_row(plain(name), str(len(sizes)), f"{elements:,}", f"{size:,}")


def _print_never(manifest: Manifest) -> None:
    console.print("\nNot sent:", style="bold")
    private = list(NEVER)
    if "personalize" in manifest.fields:
        private.append("the personal model that the site makes after the last round: its metrics alone are")
    else:
        private.append("a personal model: this method makes none")
    for line in private:
        console.print(f"- {line}", highlight=False)
    console.print(
        "\nThe server chooses the weights that are trained on, which no approval binds. With weights made for it, it "
        "gets single training cases and label counts out of what is sent; with honest ones, too, tensors and metrics "
        "disclose something of the cases, the more the fewer they are. No noise is added. See docs/limits.md."
    )


def _print_approval(job: Path, kit: Path, site: Kit, manifest: Manifest) -> None:
    path = approved(site.local).get(manifest.digest)
    if path is None:
        console.print(
            f"\nNot approved at {site.name}. To approve it: consilia site approve {job} --kit {kit}",
            style="yellow",
            soft_wrap=True,
        )
        _print_nearest(manifest.asked, site)
    else:
        console.print(f"\nApproved at {site.name} by {path}", style="green", soft_wrap=True)
