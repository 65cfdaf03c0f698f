"""``report.html``: one self-contained file made from the records of runs alone; one script in it saves plots.

One record gives the report of a run, several give a comparison of their methods over seeds.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from consilia.core.errors import ConfigError
from consilia.core.files import write_bytes
from consilia.core.plain import plain
from consilia.evaluation.metrics import OVER_ROUNDS, PROMPTS
from consilia.evaluation.rounds import FEWEST_OF_A_CLASS, FEWEST_PATIENTS
from consilia.record.metrics import UNDEFINED, show
from consilia.record.schema import Record
from consilia.report import format as text
from consilia.report.panel import Panel

if TYPE_CHECKING:
    from jinja2 import Environment

ENGINES = {
    "inprocess": "in one process",
    "sim": "in NVFlare's simulator",
    "poc": "as an NVFlare proof of concept on one machine",
    "prod": "in a provisioned NVFlare federation",
}


SCRIPT = (Path(__file__).parent / "save_plots.js").read_text(encoding="utf-8")
SCRIPT_DIGEST = "sha256-" + base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
"""Of the only script that a browser runs in a report."""


def render_report(records: Sequence[Record], panels: Sequence[Panel] = ()) -> str:
    """The report as HTML text, with the panels of the methods; equal records give equal text.

    Raises:
        ConfigError: no records, or records that cannot be compared: one label for two methods or one seed twice, or two
            tasks.
    """
    if not records:
        raise ConfigError("a report needs at least one record, got none")
    # A record made in memory and the same one read from disk must give the same report to the byte.
    ordered = [Record.model_validate(record.plain()) for record in records]
    # Here, because they pull in matplotlib, which the command line should not wait for.
    if len(ordered) == 1:
        from consilia.report.run_page import run_page

        return page("run.html", **run_page(ordered[0]), panels=panels)
    from consilia.report.comparison_page import comparison_page

    return page("comparison.html", **comparison_page(ordered), panels=panels)


def write_report(records: Sequence[Record], path: Path, panels: Sequence[Panel] = ()) -> None:
    """Render the report of ``records`` and write it atomically."""
    write_bytes(path, render_report(records, panels).encode())


def page(template: str, **values: Any) -> str:
    """Fill one of the templates that lie beside this module; values are escaped."""
    return _environment().get_template(template).render(**values)


def fill(folder: Path, template: str, **values: Any) -> Markup:
    """Fill a template in a folder of a method's own; it may use those beside this module."""
    return Markup(_environment(folder).get_template(template).render(**values))


def _unbroken(write: Callable[..., str]) -> Callable[..., str]:
    """The same text with spaces at which a line cannot break: a number stays with its unit."""
    return lambda *args: write(*args).replace(" ", "\u00a0")


def _shown(value: Any) -> Any:
    """The last thing before a value is escaped: what a site says may not turn the order of writing, either."""
    return plain(value, keep="\n") if type(value) is str else value


def _environment(*folders: Path) -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader([*folders, Path(__file__).parent]),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for write in (show, text.size, text.duration, text.number, text.plural, text.ratio):
        environment.filters[write.__name__] = _unbroken(write)
    environment.filters.update(file_name=text.file_name, capitalize_first=lambda words: words[:1].upper() + words[1:])
    environment.globals.update(
        SCRIPT=Markup(SCRIPT),
        SCRIPT_DIGEST=SCRIPT_DIGEST,
        OVER_ROUNDS=OVER_ROUNDS,
        PROMPTS=PROMPTS,
        UNDEFINED=UNDEFINED,
        FEW=FEWEST_PATIENTS,
        FEW_OF_A_CLASS=FEWEST_OF_A_CLASS,
        BASELINE_NAMES=text.BASELINE_NAMES,
        ENGINES=ENGINES,
    )
    return environment
