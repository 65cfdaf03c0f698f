"""``consilia predict``: a saved model on new cases."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from consilia.cli.show import console
from consilia.core.errors import CheckpointError, ConfigError
from consilia.core.files import write_bytes
from consilia.data.loading import PREPROCESSING, load_new_cases, preprocessing_file
from consilia.data.site import load_site_config
from consilia.models.build import build_model


def predict_command(model_file: Path, site: Path, cases: Path, out: Path) -> None:
    """Write case id, answer and one probability per class for each new case, in the cases' own order."""
    if out.exists():
        raise ConfigError(f"{out} exists: choose another --out")
    card, state = _load(model_file)
    settings = load_site_config(site)
    model = build_model(card["model"]["class"], card["model"]["args"], seed=0, allowed=settings.allow_models)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(f"{model_file} does not fit the model it names: {error}") from error
    classes = tuple(card["class_names"])
    if classes != settings.dataset(card["role"]).classes:
        raise ConfigError(
            f"{model_file} answers {list(classes)}, role {card['role']!r} of {site} has "
            f"{list(settings.dataset(card['role']).classes)}"
        )
    # A personal model goes with the preprocessing it was trained with, whatever the site's data have become since.
    kept = model_file.parent / PREPROCESSING
    own = kept if kept.is_file() else preprocessing_file(settings, card["role"])
    ids, inputs = load_new_cases(site, card["role"], cases, preprocessing=own)
    model.eval()
    with torch.no_grad():
        try:
            logits = torch.cat([model(piece) for piece in torch.split(inputs, 256)])
        except RuntimeError as error:
            raise ConfigError(f"{model_file} does not take inputs of shape {tuple(inputs.shape)}: {error}") from error
    probabilities = logits.double().softmax(dim=1).tolist()
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["case", "answer", *(f"p_{name}" for name in classes)])
    for case, row in zip(ids, probabilities, strict=True):
        writer.writerow([case, classes[row.index(max(row))], *(f"{value:.6f}" for value in row)])
    write_bytes(out, text.getvalue().encode())
    console.print(
        f"{out}: {len(ids)} case(s), {card['kind']} model of {card['method']}, preprocessing {own}", highlight=False
    )


def _load(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    if not path.is_file():
        raise CheckpointError(f"no model file at {path}")
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is no safetensors file: {error}") from error
    if "consilia" not in metadata:
        raise CheckpointError(f"{path} was not saved by Consilia: its metadata names no model")
    card: dict[str, Any] = json.loads(metadata["consilia"])
    lacking = sorted({"model", "role", "class_names", "method", "kind"} - set(card))
    if lacking:
        raise CheckpointError(f"{path}: its model card lacks {lacking}")
    return card, state
