"""``consilia predict``: a saved model on new cases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from consilia.cli.console import console
from consilia.cli.masks import write_segmentations
from consilia.core.errors import CheckpointError, ConfigError
from consilia.core.files import write_csv
from consilia.core.reading import parse_json
from consilia.core.tensor_files import read_tensors
from consilia.data.loading import NewCases, load_new_cases, preprocessing_file
from consilia.data.preprocessing import PREPROCESSING
from consilia.data.site import load_site_config
from consilia.methods.registry import method_class, method_names
from consilia.methods.tasks import TASKS
from consilia.models.config import ModelConfig
from consilia.models.exchange import load_exchanged


def predict_command(model_file: Path, site: Path, cases: Path, out: Path | None, boxes: Path | None) -> None:
    """Write the answer for each new case, in the cases' own order: a csv, and for a segmentation masks beside it."""
    card, config, state = _load(model_file)
    if card["method"] in method_names() and method_class(card["method"]).several_datasets:
        raise ConfigError(f"{model_file} has heads of several tasks, predict is for one: see consilia ask")
    task = card.get("task", "classification")
    out = out or Path("masks" if task == "segmentation" else "predictions.csv")
    if out.exists():
        raise ConfigError(f"{out} exists: choose another --out")
    if boxes is not None and task != "segmentation":
        raise ConfigError(f"--boxes is for a segmentation, {model_file} is a {task}")
    settings = load_site_config(site)
    # The card says how large the model is, so the site's own bound holds here as for a job.
    model = config.build_at(settings, seed=0)
    try:
        load_exchanged(model, state)
    except CheckpointError as error:
        raise CheckpointError(
            f"{model_file} does not fit the model it names: {error}. Where a method leaves a part of the "
            "model at each site, take a site's own personal-*.safetensors"
        ) from error
    classes = tuple(card["class_names"])
    if classes != settings.dataset(card["dataset"]).classes:
        raise ConfigError(
            f"{model_file} answers {list(classes)}, dataset {card['dataset']!r} of {site} has "
            f"{list(settings.dataset(card['dataset']).classes)}"
        )
    # A personal model goes with the preprocessing it was trained with, whatever the site's data have become since.
    saved = model_file.parent / PREPROCESSING
    own = saved if saved.is_file() else preprocessing_file(settings, card["dataset"])
    new = load_new_cases(site, card["dataset"], cases, preprocessing=own)
    with torch.no_grad():
        try:
            if task == "segmentation":
                write_segmentations(model.eval(), new, boxes, out)
            else:
                _write_answers(model.eval(), new, classes, out)
        except (RuntimeError, ValueError, AssertionError) as error:
            shape = tuple(new.inputs.shape)
            raise ConfigError(f"{model_file} does not take inputs of shape {shape}: {error}") from error
    console.print(
        f"{out}: {len(new.ids)} case(s), {card['kind']} model of {card['method']}, preprocessing {own}",
        highlight=False,
    )


def _write_answers(model: nn.Module, new: NewCases, classes: tuple[str, ...], out: Path) -> None:
    logits = torch.cat([model(piece) for piece in torch.split(new.inputs, TASKS["classification"].at_once(new.inputs))])
    rows = [
        [case, classes[row.index(max(row))], *(f"{value:.6f}" for value in row)]
        for case, row in zip(new.ids, logits.double().softmax(dim=1).tolist(), strict=True)
    ]
    write_csv(out, ["case", "answer", *(f"p_{name}" for name in classes)], rows)


def _load(path: Path) -> tuple[dict[str, Any], ModelConfig, dict[str, torch.Tensor]]:
    """The model card, the network that it names, and the weights."""
    if not path.exists():
        raise CheckpointError(f"no model file at {path}")
    state, metadata = read_tensors(path)
    if "consilia" not in metadata:
        raise CheckpointError(f"{path} was not saved by Consilia: its metadata names no model")
    try:
        card: dict[str, Any] = dict(
            parse_json(metadata["consilia"], f"{path}: its model card cannot be read", CheckpointError)
        )
        lacking = sorted({"model", "dataset", "class_names", "method", "kind"} - set(card))
        if lacking:
            raise CheckpointError(f"{path}: its model card lacks {lacking}")
        config = ModelConfig.model_validate(card["model"])
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: its model card cannot be read: {error}") from error
    return card, config, state
