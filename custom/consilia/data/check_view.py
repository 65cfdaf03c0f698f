"""Show a check report on a terminal."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from consilia.data.check import DatasetReport

SIZES = 8  # so many of the pictures' sizes are listed


def render(report: DatasetReport) -> RenderableType:
    """A rich renderable: the numbers as tables, then warnings and errors in full."""
    kind = f"{report.format}{'' if report.task == 'classification' else f', {report.task}'}"
    title = f"{report.site} / {report.dataset} ({kind}{', test only' if report.test_only else ''})"
    parts: list[RenderableType] = [Text(title, style="bold"), _numbers(report)]
    if report.counts:
        parts.append(_splits(report))
    if report.masks:
        parts.append(_masks(report))
    if report.follow_ups:
        parts.append(_follow_ups(report))
    missing = {column: count for column, count in report.missing.items() if count}
    if missing:
        parts.append(_missing(report, missing))
    parts += [Text(f"warning: {message}", style="yellow") for message in report.warnings]
    parts += [Text(f"error: {message}", style="red") for message in report.errors]
    verdict = f"{len(report.errors)} error(s): not ready" if report.errors else "ready"
    parts.append(Text(verdict, style="bold red" if report.errors else "bold green"))
    return Group(*parts)


def _numbers(report: DatasetReport) -> Table:
    table = Table.grid(padding=(0, 2))
    patients = "each case its own" if report.patients is None else str(report.patients)
    cases = "questions" if report.format == "questions" else "cases"
    rows = [(cases, str(report.cases)), ("patients", patients), ("splits", report.splits_from or "none")]
    if report.inputs is not None:
        rows.append(("distinct inputs", str(report.inputs)))
    if report.unused:
        rows.append(("training cases left out", str(report.unused)))
    if report.patients is not None and report.split_patients:
        rows.append(("patients in two splits", str(report.shared_patients)))
    if report.sizes:
        rows.append(("sizes (H x W)", _sizes(report.sizes)))
    if report.input_shape:
        rows.append(
            (
                "input per case" if report.inputs is None else "shape of an input",
                " x ".join(map(str, report.input_shape)),
            )
        )
    if report.spacing:
        rows.append(("mm per input pixel (median)", "{:.4g} x {:.4g}".format(*report.spacing)))
    elif report.task == "segmentation":
        rows.append(("mm per input pixel", "not known of every case: distances will be in pixels"))
    for name, value in rows:
        table.add_row(name, value)
    return table


def _sizes(sizes: dict[str, int]) -> str:
    """The commonest sizes, and how many others there are."""
    shown = sorted(sizes, key=lambda size: -sizes[size])[:SIZES]
    others = [f"{len(sizes) - SIZES} other sizes"] if len(sizes) > SIZES else []
    return ", ".join([f"{size}: {sizes[size]}" for size in sorted(shown, key=list(sizes).index)] + others)


def _splits(report: DatasetReport) -> Table:
    kind = "questions" if report.format == "questions" else "cases"
    table = Table("split", *report.classes, kind)
    if report.patients is not None:
        table.add_column("patients")
    for name, counts in report.counts.items():
        cells = [str(counts[label]) for label in report.classes] + [str(sum(counts.values()))]
        if report.patients is not None:
            cells.append(str(report.split_patients[name]))
        table.add_row(name, *cells)
    return table


def _masks(report: DatasetReport) -> Table:
    structure = report.classes[-1]
    table = Table("split", "cases", "empty masks", f"{structure}: mean share of the picture, empty masks left out")
    if report.patients is not None:
        table.add_column("patients")
    for name, masks in report.masks.items():
        share = "-" if masks.foreground is None else f"{masks.foreground:.1%}"
        cells = [str(masks.cases), str(masks.empty), share]
        if report.patients is not None:
            cells.append(str(report.split_patients[name]))
        table.add_row(name, *cells)
    return table


def _follow_ups(report: DatasetReport) -> Table:
    table = Table("split", "cases", report.classes[-1], "median time", "longest time")
    if report.patients is not None:
        table.add_column("patients")
    for name, found in report.follow_ups.items():
        cells = [str(found.cases), str(found.events), f"{found.median:g}", f"{found.longest:g}"]
        if report.patients is not None:
            cells.append(str(report.split_patients[name]))
        table.add_row(name, *cells)
    return table


def _missing(report: DatasetReport, missing: dict[str, int]) -> Table:
    table = Table("column", "cases without a value", "of")
    for column, count in missing.items():
        table.add_row(column, str(count), str(report.cases))
    return table
