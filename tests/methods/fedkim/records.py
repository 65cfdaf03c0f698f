"""Synthetic records of several tasks trained together, with or without knowledge injection: made-up numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from consilia.methods.fedkim.section import Injection
from consilia.record.schema import Record
from tests.report.factory import SITES, make_record

SEEN = ["opacity", "arrhythmia"]
UNSEEN = ["murmur", "questions", "captions"]  # questions have three answers, captions open ones only
CASES = {"Ashford": {"opacity": 400, "arrhythmia": 200}, "Bergen": {"opacity": 240}, "Cádiz": {"arrhythmia": 120}}
EXPERTS = 4


def closed(auroc: float | None, *, count: int = 120) -> dict[str, Any]:
    """Metrics of closed questions around one AUROC."""
    level = 0.5 if auroc is None else auroc
    metrics = {"accuracy": level - 0.05, "auroc": auroc, "auprc": auroc, "f1": level - 0.1}
    intervals = {
        name: None if value is None else [max(0.0, value - 0.06), min(1.0, value + 0.04)]
        for name, value in metrics.items()
    }
    return {"count": count, "patients": count - 20, **metrics, "loss": 0.6, "intervals": intervals}


def opened(level: float) -> dict[str, Any]:
    """Metrics of open questions around one level."""
    metrics = {"bleu1": level, "rouge1": level + 0.02, "meteor": level / 2, "exact": level - 0.1}
    intervals = {name: [value - 0.05, value + 0.05] for name, value in metrics.items()}
    return {"count": 60, "patients": 60, **metrics, "intervals": intervals}


def make_tasked_record(
    *, seed: int = 1, method: str = "fedavg", label: str = "Small model only", rounds: int = 4
) -> Record:
    """Sites with different tasks, one without any case of one of them; no injection, no personal models."""
    content = make_record(seed=seed, method=method, label=label, rounds=rounds, test_only=False).plain()
    content["class_names"] = sorted(SEEN)
    content["sites"] = {
        site: {**content["sites"][site], "train": sum(cases.values()), "tasks": cases} for site, cases in CASES.items()
    }
    keep = set(CASES)
    for part in content["rounds"]:
        part["participants"], part["refused"], part["missing"] = sorted(keep), {}, []
        part["bytes_down"] = part["bytes_up"] = dict.fromkeys(keep, 1_700_000)
        weight = {"weight": 1 / 3, "fields": {"train_loss": 0.5}, "clipped": None}
        part["contributions"] = {site: {**weight, "samples": sum(CASES[site].values())} for site in keep}
    content["evaluations"] = [
        {"version": number, "model": "global", "sites": _sites(0.6 + 0.05 * number)} for number in range(1, rounds + 1)
    ]
    content["final"] = {
        "last": {
            "version": rounds,
            "sha256": "ab" * 32,
            "global": _sites(0.6 + 0.05 * rounds),
            "personal": {},
            "variants": {},
        }
    }
    assert keep < set(SITES)
    return Record.model_validate(content)


def make_injection_record(
    *, seed: int = 1, label: str = "FedKIM", rounds: int = 4, lift: float = 0.0, few_shot: bool = True
) -> Record:
    """A run of FedKIM: two seen tasks and three unseen ones; ``lift`` raises the injected model's AUROC."""
    content = make_tasked_record(seed=seed, method="fedkim", label=label, rounds=rounds).plain()
    rng = np.random.default_rng(seed)
    noise = float(rng.normal(0, 0.005))
    injected = {
        "opacity": {"closed": closed(0.85 + lift + noise)},
        "arrhythmia": {"closed": closed(0.75 + lift + noise)},
        "murmur": {"closed": closed(0.61 + lift + noise)},
        "questions": {"closed": closed(0.55 + lift + noise), "open": None},
        "captions": {"closed": None, "open": opened(0.3 + lift)},
    }
    content["server_fingerprint"] = "ef" * 32
    section = {
        "seen": SEEN,
        "unseen": UNSEEN,
        "experts": EXPERTS,
        "parameters": {
            "language_model": 3_000_000,
            "experts": 120_000,
            "router": 8_000,
            "aligner": 2_000,
            "encoders": 0,
        },
        "rounds": [_injection(number, lift) for number in range(1, rounds + 1)],
        "test": {
            "injected": injected,
            "extractor": {"opacity": {"closed": closed(0.88)}, "arrhythmia": {"closed": closed(0.78)}},
            "linear": {task: {"closed": closed(0.7)} for task in (*SEEN, "murmur", "questions")},
            "majority": {
                **{task: {"closed": closed(0.5)} for task in (*SEEN, "murmur", "questions")},
                "captions": {"open": opened(0.12)},
            },
        },
        "few_shot": {
            "murmur": {shots: {"closed": closed(value)} for shots, value in (("all", 0.8), ("32", 0.72), ("8", 0.66))},
            "captions": {"8": {"open": opened(0.35)}},
        }
        if few_shot
        else {},
    }
    content["sections"]["fedkim"] = Injection.model_validate(section).model_dump(mode="json")
    return Record.model_validate(content)


def _sites(level: float) -> dict[str, Any]:
    return {
        site: {"validation": None, "test": _tasked(site, level + 0.02 * place)}
        for place, site in enumerate(sorted(CASES))
    }


def _tasked(site: str, level: float) -> dict[str, Any]:
    tasks = {task: _metrics(cases // 4, level - 0.1 * (task == "arrhythmia")) for task, cases in CASES[site].items()}
    count, correct = (sum(part[key] for part in tasks.values()) for key in ("count", "correct"))
    means = {
        key: sum(part[key] for part in tasks.values()) / len(tasks) for key in ("balanced_accuracy", "auroc", "loss")
    }
    return {"count": count, "correct": correct, "accuracy": correct / count, **means, "tasks": tasks}


def _metrics(count: int, accuracy: float) -> dict[str, Any]:
    correct = round(accuracy * count)
    metrics = {"balanced_accuracy": accuracy - 0.02, "auroc": accuracy + 0.05, "loss": 0.5}
    return {"count": count, "correct": correct, "accuracy": correct / count, **metrics}


def _injection(number: int, lift: float) -> dict[str, Any]:
    sharp = number / 10
    gates = {
        task: [0.25 + sharp if expert == place % EXPERTS else 0.25 - sharp / 3 for expert in range(EXPERTS)]
        for place, task in enumerate([*SEEN, *UNSEEN])
    }
    return {
        "round": number,
        "steps": 50,
        "seconds": 12.5,
        "loss": dict.fromkeys(SEEN, 1.2 / number),
        "validation": {task: closed(0.6 + 0.05 * number + lift, count=40) for task in SEEN},
        "gates": gates,
    }
