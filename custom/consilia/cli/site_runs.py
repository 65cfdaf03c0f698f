"""``consilia site runs`` and ``consilia site forget``, and a job's values beside a site's limits."""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from consilia.cli.console import console
from consilia.core.errors import ConfigError
from consilia.data.limits import SiteLimits, show_bytes
from consilia.data.site import SiteConfig, load_site_config
from consilia.deploy.install.config import config_file
from consilia.deploy.kit import open_kit
from consilia.deploy.release_filter import approved
from consilia.federation.site_gate import disk_used
from consilia.federation.site_ledger import Spent
from consilia.federation.site_limits import NO_LIMIT, LimitRow
from consilia.federation.site_runs import SiteRun, forget_run, site_runs

SEE_DOCTOR, WHILE_IT_RUNS = "see site doctor", "seen while it runs"
UNSAID = dict.fromkeys(
    ("max_batch_fraction", "min_training_cases", "min_cases_per_metric"), SEE_DOCTOR
) | dict.fromkeys(("max_hours", "max_memory", "max_disk"), WHILE_IT_RUNS)
"""Where a limit's value is to be had that no job says: in the site's data, or of the work itself."""


def runs_command(kit: Path | None, site: Path | None) -> None:
    """Print the runs of a site, and what each approval has spent of the limits."""
    config = _config(kit, site)
    runs = site_runs(config.state_dir)
    approvals = {} if kit is None else {digest: path.name for digest, path in approved(open_kit(kit).local).items()}
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("run", "began", "last", "label", "rounds", "evaluations", "hours", "disk"):
        table.add_column(column, no_wrap=column in ("run", "began", "last", "disk"), overflow="fold")
    for run in runs:
        table.add_row(*map(Text, _cells(run)))
    console.print(table)
    used, allowed = disk_used(config.state_dir), config.limits.max_disk
    console.print(
        f"{config.state_dir}: {show_bytes(used)} of {NO_LIMIT if allowed is None else show_bytes(allowed)}",
        soft_wrap=True,
    )
    # Names of approvals and runs are long: in a column they would fold at every third letter.
    for digest, own in _by_approval(runs).items():
        name = approvals.get(digest, f"no approval now for {digest[:19]}" if kit is not None else digest[:19])
        spent = reduce(Spent.plus, (run.entry.spent for run in own if run.entry is not None))
        line = f"{name}: spent {_spent(spent, config.limits)}, in {', '.join(run.run for run in own)}"
        console.print(line, soft_wrap=True, highlight=False)
    if closed := [run.run for run in runs if run.closed]:
        console.print(f"approval taken back: {', '.join(closed)}", soft_wrap=True, highlight=False)


def forget_command(run: str, kit: Path | None, site: Path | None) -> None:
    """Remove what a site keeps of a run."""
    config = _config(kit, site)
    size = forget_run(config.state_dir, run)
    console.print(f"{config.site} has forgotten {run}: {show_bytes(size)} removed", soft_wrap=True)


def limits_table(rows: Iterable[LimitRow]) -> Table:
    """A row per limit of a site: what a job asks, what is allowed; what would be refused is marked."""
    table = Table(title="this site's limits", title_justify="left", box=box.SIMPLE_HEAD)
    for column in ("limit", "the job asks", "this site allows", ""):
        table.add_column(column, overflow="fold")
    for row in rows:
        style, mark = ("", "") if row.ok else ("bold red", "REFUSED")
        asked = row.asked or UNSAID.get(row.limit, "-")
        table.add_row(*(Text(cell, style) for cell in (row.limit, asked, row.allowed, mark)))
    return table


def _config(kit: Path | None, site: Path | None) -> SiteConfig:
    if (kit is None) == (site is None):
        raise ConfigError("give either --kit, the site's startup kit, or --site, its site.yaml")
    if kit is None:
        return load_site_config(site)  # type: ignore[arg-type]
    opened = open_kit(kit)
    if opened.kind != "client":
        raise ConfigError(f"{opened.folder} is no site's kit: only sites have runs and limits of their own")
    return load_site_config(config_file(opened))


def _cells(run: SiteRun) -> tuple[str, ...]:
    disk = "forgotten" if run.disk is None else show_bytes(run.disk)
    if run.entry is None:
        return run.run, "", "", "", "", "", "", disk
    spent, entry = run.entry.spent, run.entry
    counts = str(spent.rounds), str(spent.evaluations), f"{spent.seconds / 3600:.2f}"
    return run.run, entry.began[:10], entry.last[:10], entry.label, *counts, disk


def _by_approval(runs: list[SiteRun]) -> dict[str, list[SiteRun]]:
    found: dict[str, list[SiteRun]] = {}
    for run in runs:
        if run.entry is not None and not run.closed:
            found.setdefault(run.entry.manifest, []).append(run)
    return found


def _spent(spent: Spent, limits: SiteLimits) -> str:
    hours = None if limits.max_hours is None else f"{limits.max_hours:g}"
    parts = (
        ("rounds", str(spent.rounds), limits.max_rounds),
        ("evaluations", str(spent.evaluations), limits.max_evaluations),
        ("hours", f"{spent.seconds / 3600:.2f}", hours),
    )
    return ", ".join(f"{used} of {NO_LIMIT if allowed is None else allowed} {name}" for name, used, allowed in parts)
