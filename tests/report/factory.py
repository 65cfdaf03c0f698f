"""Synthetic records for the tests of the report: plausible shapes, made-up numbers, no real site."""

from __future__ import annotations

from typing import Any

import numpy as np

from consilia.record.schema import Record

SITES = ("Ashford", "Bergen", "Cádiz", "Dover")
TEST_ONLY_SITE = "Exeter"
TESTS = {"Ashford": 200, "Bergen": 80, "Cádiz": 40, "Dover": 25, TEST_ONLY_SITE: 300}
DIVERSITY = {"Ashford": 0.95, "Bergen": 0.7, "Cádiz": 0.4, "Dover": 0.0}

FIELDS = {
    name: {"heading": heading, "meaning": "made up"}
    for name, heading in (
        ("train_loss", "Train loss"),
        ("train_accuracy", "Training accuracy"),
        ("weight", "Score"),
        ("prompt_diversity", "Prompt diversity"),
    )
}


def metrics(
    site: str, accuracy: float, flips: tuple[int, int] | None = None, count: int | None = None
) -> dict[str, Any]:
    """Metrics of a split; Dover has one class only, so it has no AUROC."""
    cases = TESTS[site] if count is None else count
    correct = round(min(max(accuracy, 0), 1) * cases)
    return {
        "count": cases,
        "correct": correct,
        "accuracy": correct / cases,
        "balanced_accuracy": max(0.0, correct / cases - 0.04),
        "auroc": None if site == "Dover" else min(0.99, correct / cases + 0.08),
        "loss": 1.3 - correct / cases,
        "negative_flips": flips[0] if flips else None,
        "positive_flips": flips[1] if flips else None,
    }


def detailed(site: str, accuracy: float) -> dict[str, Any]:
    """Metrics of a final evaluation; three cases a patient at Dover, whose cases are all of one class."""
    found = metrics(site, accuracy)
    count, one_class = found["count"], site == "Dover"
    sensitivity = None if one_class else min(1.0, accuracy - 0.1)
    at = {"threshold": 0.4, "accuracy": found["accuracy"], "sensitivity": sensitivity, "specificity": 0.9}
    roc = () if one_class else tuple(min(1.0, (point / 20) ** 0.3) for point in range(21))
    bins = [
        {"count": count // 10, "confidence": (place + 0.5) / 10, "observed": ((place + 0.5) / 10) ** 1.5}
        for place in range(10)
    ]
    area = {} if one_class else {"auroc": {"se": 0.03, "low": found["auroc"] - 0.06, "high": found["auroc"] + 0.005}}
    return {
        **found,
        "patients": count // 3 if one_class else count,
        "positives": 0 if one_class else count // 4,
        "brier": 0.14,
        "ece": 0.06,
        "operating": at,
        "at_half": {**at, "threshold": 0.5},
        "intervals": {"accuracy": {"se": 0.02, "low": accuracy - 0.05, "high": min(1.0, accuracy + 0.04)}, **area},
        "curves": {"roc": roc, "reliability": bins},
    }


def final_metrics(site: str, accuracy: float) -> dict[str, Any]:
    """Both splits as a final evaluation has them."""
    return {**site_metrics(site, accuracy), "test": detailed(site, accuracy)}


def site_metrics(site: str, accuracy: float, flips: tuple[int, int] | None = None) -> dict[str, Any]:
    """Both splits; Cádiz and the test_only have no validation cases."""
    empty = site in ("Cádiz", TEST_ONLY_SITE)
    validation = None if empty else metrics(site, accuracy + 0.01, count=max(10, TESTS[site] // 4))
    return {"validation": validation, "test": metrics(site, accuracy, flips)}


def make_record(
    *,
    seed: int = 1,
    method: str = "fedkper",
    label: str = "FedKPer",
    rounds: int = 12,
    lift: float = 0.0,
    test_only: bool = True,
) -> Record:
    """A run with partial participation, one refused and one missing update; ``lift`` raises every accuracy."""
    rng = np.random.default_rng([seed, len(label)])
    sites = [*SITES, TEST_ONLY_SITE] if test_only else list(SITES)
    parts, evaluations = [], []
    trained: set[str] = set()
    for number in range(1, rounds + 1):
        level = 0.45 + lift + 0.35 * (1 - np.exp(-number / 4))
        chosen = sorted(rng.choice(SITES, size=3, replace=False).tolist())
        refused = {"Dover": "tensor fc.weight: expected finite values, got NaN"} if number == 3 else {}
        missing = ["Bergen"] if number == 5 else []
        accepted = [site for site in chosen if site not in refused and site not in missing] or ["Ashford"]
        parts.append(_round(number, accepted, refused, missing, rng))
        whole = {}
        for site in sites:
            flips = None if number == 1 else (int(rng.integers(0, 6)), int(rng.integers(0, 8)))
            whole[site] = site_metrics(site, level + rng.normal(0, 0.03) - (site == "Dover") * 0.15, flips)
        own = {}
        for site in accepted:
            own[site] = site_metrics(site, level + 0.12 + rng.normal(0, 0.02), (2, 3) if site in trained else None)
        trained.update(accepted)
        evaluations += [
            {"version": number, "model": "global", "sites": whole},
            {"version": number, "model": "personal", "sites": own},
        ]
    final = {
        when: {
            "version": version,
            "sha256": f"{version:064x}",
            "global": {
                site: final_metrics(site, found["test"]["accuracy"])
                for site, found in evaluations[2 * version - 2]["sites"].items()
            },
            "personal": {site: final_metrics(site, 0.88 + lift + rng.normal(0, 0.02)) for site in SITES},
            "variants": {},
        }
        for when, version in (("last", rounds), ("best", max(1, rounds - 2)))
    }
    return Record.model_validate(
        {
            "schema": "consilia.result/2",
            "run": _run(seed, method, label, rounds),
            "config": {
                "dataset": "lesions",
                "method": {"name": method, "lambda_max": 10.0},
                "rounds": rounds,
                "seed": seed,
            },
            "versions": {"consilia": "0.1.0", "torch": "2.6.0", "monai": None},
            "sites": {site: _site(site) for site in sites},
            "class_names": ["benign", "malignant"],
            "fields": FIELDS,
            "exchange": None,
            "sections": {},
            "server_fingerprint": None,
            "absent": {},
            "absences": [{"site": "Bergen", "since": "2026-07-01T10:05:00+00:00"}],
            "rounds": parts,
            "evaluations": evaluations,
            "final": final,
        }
    )


def make_baseline(method: str, label: str, accuracy: float, *, seed: int = 1) -> Record:
    """A baseline without rounds: centralised and majority have a global model only, local-only has personal ones."""
    by_site = {site: final_metrics(site, accuracy) for site in SITES}
    both = {"global": by_site, "personal": {}} if method != "local_only" else {"global": {}, "personal": by_site}
    record = make_record(seed=seed, method=method, label=label, rounds=1, test_only=False).plain()
    record.update(rounds=[], evaluations=[], final={"last": {"version": 0, "sha256": "0" * 64, "variants": {}, **both}})
    record["run"].update(rounds_planned=0, rounds_done=0)
    return Record.model_validate(record)


def segmentation_metrics(
    site: str, dice: float, *, count: int | None = None, settings: tuple[str, ...] = ("box", "image", "jitter")
) -> dict[str, Any]:
    """Metrics of a split; Bergen has one case with an empty truth and one missed, only Ashford knows its spacing."""
    cases = TESTS[site] if count is None else count
    drops = {"box": 0.0, "image": 0.3, "jitter": 0.05}
    bergen = site == "Bergen"
    prompts = {}
    for setting in settings:
        value = min(max(dice - drops[setting], 0.0), 0.97)
        prompts[setting] = {"dice": value, "iou": value / (2 - value), "hd95": 40 * (1 - value), "missed": int(bergen)}
    return {"count": cases, "empty": int(bergen), "unit": "mm" if site == "Ashford" else "px", "prompts": prompts}


def make_segmentation_record(
    *, seed: int = 1, method: str = "fedgpl", label: str = "Fed-GPL", rounds: int = 6, lift: float = 0.0
) -> Record:
    """A segmentation at four training sites, with individuality, the ablation of the query, and what is exchanged."""
    content = make_record(seed=seed, method=method, label=label, rounds=rounds, test_only=False).plain()
    rng = np.random.default_rng([seed, 7, len(label)])

    def sites(dice: float) -> dict[str, Any]:
        return {
            site: {
                "validation": segmentation_metrics(site, dice - 0.01, count=12),
                "test": segmentation_metrics(site, dice + lift + rng.normal(0, 0.01)),
            }
            for site in SITES
        }

    content["run"]["task"] = "segmentation"
    content["class_names"] = ["background", "polyp"]
    content["evaluations"] = [
        {"version": number, "model": "global", "sites": sites(0.9 - 0.4 * 0.5**number)} for number in range(rounds + 1)
    ]
    content["final"] = {
        when: {
            "version": version,
            "sha256": f"{version:064x}",
            "global": content["evaluations"][version]["sites"],
            "personal": sites(0.91),
            "variants": {"mean_prompt": sites(0.7)} if method == "fedgpl" else {},
        }
        for when, version in (("last", rounds), ("best", rounds - 1))
    }
    for part in content["rounds"]:
        for place, contribution in enumerate(part["contributions"].values()):
            diversity = {"prompt_diversity": 1e-5 * (place + 1) * 3 ** part["round"]} if method == "fedgpl" else {}
            contribution["fields"] = {"train_loss": 0.4, **diversity}
    content["exchange"] = {"parameters": 424_000, "all_parameters": 3_600_000, "dtype": "float32"}
    return Record.model_validate(content)


def _run(seed: int, method: str, label: str, rounds: int) -> dict[str, Any]:
    return {
        "id": f"{method}-{seed}",
        "name": "demo",
        "method": method,
        "label": label,
        "task": "classification",
        "engine": "inprocess",
        "seed": seed,
        "status": "finished",
        "rounds_planned": rounds,
        "rounds_done": rounds,
        "started": "2026-05-04T09:00:00+00:00",
        "seconds": 93.5,
    }


def _site(site: str) -> dict[str, Any]:
    test_only = site == TEST_ONLY_SITE
    return {
        "train": 0 if test_only else 3 * TESTS[site],
        "validation": 0 if test_only or site == "Cádiz" else max(10, TESTS[site] // 4),
        "test": TESTS[site],
        "test_only": test_only,
        "fingerprint": f"{TESTS[site]:064x}",
    }


def _round(
    number: int, accepted: list[str], refused: dict[str, str], missing: list[str], rng: np.random.Generator
) -> dict[str, Any]:
    reliability = {site: round(0.8 + 0.19 * (1 - np.exp(-number / 5)) - rng.uniform(0, 0.03), 4) for site in accepted}
    scores = {site: reliability[site] * (DIVERSITY[site] + 1e-6) for site in accepted}
    whole = sum(scores.values())
    reached = sorted({*accepted, *refused, *missing})
    return {
        "round": number,
        "participants": accepted,
        "contributions": {
            site: {
                "weight": scores[site] / whole,
                "samples": 3 * TESTS[site],
                "fields": {"train_loss": 0.4, "train_accuracy": reliability[site], "weight": scores[site]},
                "clipped": None,
            }
            for site in accepted
        },
        "refused": refused,
        "missing": missing,
        "bytes_down": dict.fromkeys(reached, 1_700_000),
        "bytes_up": dict.fromkeys([*accepted, *refused], 1_700_400),
        "seconds": {"train": 5.0 + number / 10, "aggregate": 0.2, "evaluate": 1.1},
        "sha256": f"{number:064x}",
    }
