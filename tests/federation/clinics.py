"""A small federation of several tasks: tables only, so that a FedKIM run takes seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml

from consilia.data.limits import RESEARCH_LIMITS
from consilia.federation.config import RunConfig, run_config

TASK_DEFINITIONS = {
    "modalities": {"table": "A row of five laboratory values.", "text": "A question in words."},
    "tasks": {
        "sepsis": {
            "modalities": ["table"],
            "description": "Recognition of sepsis from laboratory values.",
            "question": "Does this patient have sepsis?",
            "answers": ["no", "yes"],
            "trained": True,
        },
        "anaemia": {
            "modalities": ["table"],
            "description": "Recognition of anaemia from laboratory values.",
            "question": "Is this patient anaemic?",
            "answers": ["no", "yes"],
            "trained": True,
        },
        "death": {
            "modalities": ["table"],
            "description": "Prediction of death from laboratory values.",
            "question": "Will this patient die?",
            "answers": ["no", "yes"],
        },
        "reading": {
            "modalities": ["text"],
            "description": "Questions about a short text.",
            "answers": ["no", "yes"],
        },
    },
}
FEATURES = [f"x{i}" for i in range(5)]


def write_clinics(folder: Path) -> dict[str, Path]:
    """Three sites (the second has no anaemia, the third no sepsis) and the server's ``server/data.yaml``."""
    files = {}
    has = {"north": ("sepsis", "anaemia"), "south": ("sepsis",), "west": ("anaemia",)}
    for number, (site, tasks) in enumerate(has.items()):
        datasets = {task: _table(folder / site, task, 30 + 4 * number, number) for task in tasks}
        files[site] = _yaml(folder / site / "site.yaml", site, datasets)
    datasets = {task: _table(folder / "server", task, 48, 9) for task in ("sepsis", "anaemia", "death")}
    datasets["reading"] = _questions(folder / "server")
    _yaml(folder / "server" / "data.yaml", "server", datasets)
    return files


def clinics_config(overrides: tuple[str, ...] = (), **more: Any) -> RunConfig:
    """Two rounds of FedKIM on the clinics."""
    values = {
        "method": {
            "method": "fedkim",
            "task_definitions": TASK_DEFINITIONS,
            "experts": 3,
            "rank": 2,
            "target_modules": ["q_proj", "down_proj"],
            "injection": {"batch_size": 8, "learning_rate": 0.005, "checkpoint_steps": 2},
            "evaluation": {"few_shot": [4], "few_shot_steps": 2, "answer_tokens": 4},
        },
        "model": {
            "class": "consilia.models.extractor.KnowledgeExtractor",
            "args": {"width": 16, "encoders": {"table": {"kind": "table", "features": 5}}},
        },
        "rounds": 2,
        "training": {"local_epochs": 1, "batch_size": 8, "optimiser": "adamw", "learning_rate": 0.01},
        "select_by": "auroc",
        **more,
    }
    return run_config(values, overrides)


def _table(folder: Path, task: str, cases: int, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng([seed, len(task)])
    values = rng.normal(size=(cases, 5))
    labels = values[:, {"sepsis": 0, "anaemia": 1, "death": 2}[task]] + 0.3 * rng.normal(size=cases) > 0
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        f"{task}-{seed}-{i},{'yes' if label else 'no'},{','.join(f'{value:.4f}' for value in row)}"
        for i, (row, label) in enumerate(zip(values, labels, strict=True))
    ]
    header = ",".join(["id", "label", *FEATURES])
    (folder / f"{task}.csv").write_text("\n".join([header, *rows]) + "\n")
    return {
        "format": "tabular",
        "file": f"{task}.csv",
        "case": "id",
        "label": {"column": "label"},
        "classes": ["no", "yes"],
        "numeric": FEATURES,
        "splits": {"validation": 0.2, "test": 0.3},
    }


def _questions(folder: Path) -> dict[str, Any]:
    rows = [f'q{i},"Is {i} an even number?",{"no" if i % 2 else "yes"}' for i in range(20)]
    rows += [f'o{i},"Which number follows {i}?",{i + 1}' for i in range(10)]
    (folder / "reading.csv").write_text("\n".join(["id,question,answer", *rows]) + "\n")
    return {
        "format": "questions",
        "file": "reading.csv",
        "case": "id",
        "question": "question",
        "answer": "answer",
        "classes": ["no", "yes"],
        "splits": {"validation": 0.2, "test": 0.3},
    }


def _yaml(path: Path, site: str, datasets: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    limits = RESEARCH_LIMITS.model_dump(mode="json")  # Each has some thirty cases.
    path.write_text(yaml.safe_dump({"site": site, "limits": limits, "datasets": datasets}, sort_keys=False))
    return path
