"""A model card as Markdown, for who was handed the file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from consilia.core.plain import plain

NO_DEVICE = (
    "Made for research with Consilia. It is not a medical device, and no one has shown that it is safe to act on."
)

COLUMNS = {
    "count": "cases",
    "patients": "patients",
    "positives": "positives",
    "operating.accuracy": "accuracy",
    "operating.balanced_accuracy": "balanced accuracy",
    "auroc": "AUROC",
    "operating.sensitivity": "sensitivity",
    "operating.specificity": "specificity",
    "events": "events",
    "c_index": "C-index",
    "prompts.box.dice": "Dice, box",
    "prompts.image.dice": "Dice, whole image",
}
"""Metrics that the page shows, as far as there are any; the file's metadata hold the others."""


def card_page(card: Mapping[str, Any]) -> str:
    """The page, from the fields of a :class:`consilia.federation.model_card.ModelCard`."""
    file = f"{_text(card['kind'])}.safetensors"
    parts = [
        f"# {_text(card['kind'])}, {_text(card['method'])}, {_text(card['dataset'])}\n\n{NO_DEVICE}\n",
        _table(("", ""), _facts(card)),
        "## Inputs\n\n" + _inputs(card["preprocessing"]),
        "## Trained on\n\n" + _trained(card["training_sites"]),
        "## Metrics on test cases\n\n" + _metrics(card),
        f"## Use it\n\n    consilia predict {file} --site site.yaml --cases new-cases\n"
        f"    consilia evaluate {file} --site site.yaml --out evaluation\n\n"
        "The first answers new cases, the second says how good the model is on labelled cases of your own. Do that "
        "first: metrics of other hospitals do not hold for yours.\n",
    ]
    return "\n".join(parts)


def _facts(card: Mapping[str, Any]) -> list[tuple[str, str]]:
    classes, threshold = card["class_names"], card["threshold"]
    rows = [
        ("task", f"{card['task']}: {', '.join(map(_text, classes))}"),
        ("network", _code(card["model"]["class"])),
        ("run", f"{_text(card['run_id'])}, seed {card['seed']}, {card['rounds']} rounds, Consilia {card['version']}"),
        ("licence", _text(card["licence"])),
    ]
    if card["task"] == "classification" and len(classes) == 2:
        chosen = "none was chosen; use 0.5" if threshold is None else f"{threshold:.3f}, chosen on validation cases"
        rows.append(("threshold", f"probability of {_text(classes[1])} above which to say so: {chosen}"))
    return rows


def _inputs(preprocessing: Mapping[str, Any] | None) -> str:
    if preprocessing is None:
        return "Not stated.\n"
    rule = preprocessing["rule"]
    said = {
        "each site's own": "Every site fits its values on its own training cases; one that has not trained does so "
        "with `consilia site prepare site.yaml`.",
        "pooled": "One set of values, pooled over the training sites, is in the file and used everywhere.",
        "the site's own": "The values of the model's own site are in the file.",
    }[rule]
    layout = [(_text(key), _code(value)) for key, value in preprocessing["layout"].items() if key != "inputs"]
    shape = preprocessing["layout"].get("inputs")
    made = "" if shape is None else f" An input then has the shape {_code(shape)}."
    return f"{said}{made} The dataset in site.yaml must have (`null`: leave it out):\n\n" + _table(
        ("key", "value"), layout
    )


def _trained(sites: Mapping[str, Any]) -> str:
    if not sites:
        return "Not stated.\n"
    rows = [(_text(name), str(site["cases"]), site["fingerprint"][:12]) for name, site in sites.items()]
    return _table(("site", "training cases", "fingerprint of its data"), rows)


def _metrics(card: Mapping[str, Any]) -> str:
    by_site, classes = card["metrics"].get("test", {}), card["class_names"]
    if not by_site:
        return "None.\n"
    shown = [path for path in COLUMNS if any(_at(found, path) is not None for found in by_site.values())]
    rows = [(_text(site), *(_number(_at(found, path)) for path in shown)) for site, found in by_site.items()]
    table = _table(("site", *(COLUMNS[path] for path in shown)), rows)
    if "operating.accuracy" not in shown or len(classes) != 2:
        return table
    return f"At the threshold above, where there is one, else at 0.5; positives are {_text(classes[1])}.\n\n{table}"


def _at(found: Any, path: str) -> Any:
    for part in path.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _number(value: Any) -> str:
    return "" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


def _table(heading: tuple[str, ...], rows: list[Any]) -> str:
    lines = [heading, tuple("---" for _ in heading), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _code(value: object) -> str:
    """A value as it is written in a file, in a code span that nothing in it can end."""
    text = plain(value).replace("`", "'").replace("|", "\\|")
    return f"`{text}`"


def _text(value: object) -> str:
    """Names from site.yaml or a run: no line break, and nothing that Markdown takes for a column, a tag or a link."""
    return re.sub(r"([\\`|\[\]])", r"\\\1", plain(value)).replace("<", "&lt;")
