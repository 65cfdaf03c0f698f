"""The site commands ``install`` and ``doctor``."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.text import Text

from consilia.cli.console import console, errors
from consilia.core.plain import plain
from consilia.deploy.doctor.examine import examine
from consilia.deploy.install.config import config_file
from consilia.deploy.install.plan import Plan, Undone, install, plan_installation, uninstall
from consilia.deploy.kit import Kit, open_kit


def install_command(folder: Path, config: Path | None, dry_run: bool, undo: bool) -> None:
    """Install into a kit, show what an installation would change, or undo it."""
    kit = open_kit(folder)
    if undo:
        _say_undone(uninstall(kit))
        return
    plan = plan_installation(kit, config)
    for change in plan.changes:
        _show(change.diff)
    for note in plan.notes:
        _say(f"note: {note}", "yellow")
    if not dry_run:
        install(plan)
    _say(_verdict(kit, plan, dry_run), "green")


def doctor_command(folder: Path, job: Path | None) -> None:
    """Print a line per check; exit status 1 where one failed."""
    kit, bad = open_kit(folder), 0
    colours = {"ok": "green", "warning": "yellow", "FAILED": "bold red"}
    for finding in examine(kit, job):
        bad += finding.level == "FAILED"
        what = plain(f"{finding.check}: {finding.text}")
        line = Text(f"{finding.level:8}", style=colours[finding.level]) + Text(what)
        console.print(line, soft_wrap=True)
        if finding.todo:
            console.print(f"{'':8}-> {plain(finding.todo)}", soft_wrap=True)
    if bad:
        errors.print(f"{kit.name}: not ready, {bad} check(s) failed", style="bold red", highlight=False)
        raise typer.Exit(1)
    console.print(f"{kit.name}: ready", style="green", highlight=False)


def _verdict(kit: Kit, plan: Plan, dry_run: bool) -> str:
    if not plan.changes:
        return f"{kit.folder}: nothing to change"
    names = ", ".join(change.path.name for change in plan.changes)
    if dry_run:
        return f"{kit.folder}: would write {names}; nothing is changed"
    own = {change.path for change in plan.changes} == {config_file(kit)}
    todo = (
        "Jobs that start from now on go by it, no restart is needed" if own else f"Restart {kit.name} if it is running"
    )
    return f"{kit.folder}: wrote {names}. {todo}; --undo puts back what was there"


def _say_undone(undone: Undone) -> None:
    for done, paths in (("put back", undone.restored), ("removed", undone.removed)):
        for path in paths:
            _say(f"{path}: {done}", "green")
    for path in undone.edited:
        _say(f"{path}: kept as it is, it was edited after the installation", "yellow")


def _show(diff: str) -> None:
    colours = {"+": "green", "-": "red", "@": "cyan"}
    for line in diff.splitlines():
        console.print(Text(line, style=colours.get(line[:1], "")), soft_wrap=True)


def _say(text: str, style: str) -> None:
    console.print(text, style=style, highlight=False, soft_wrap=True)
