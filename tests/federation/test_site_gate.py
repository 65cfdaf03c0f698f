"""Limits at a site that answers requests: what is refused before any work, while it goes on, and over resumes."""

from __future__ import annotations

import json
import logging
import os
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch

from consilia.core.errors import ConfigError, LimitReached, UpdateRejected
from consilia.core.events import Event, Notice
from consilia.core.files import write_bytes
from consilia.data.dataset import DatasetSplits, Split
from consilia.data.limits import RESEARCH_LIMITS
from consilia.data.site import SiteConfig, load_site_config
from consilia.federation import site_gate
from consilia.federation.inprocess import run_inprocess
from consilia.federation.messages import Request
from consilia.federation.metric_release import fewest_cases, releasable
from consilia.federation.server_settings import ServerSettings
from consilia.federation.site import Site
from consilia.federation.site_ledger import Spent, close_ledger, total
from consilia.federation.update_validation import _check_counts
from consilia.models.build import build_model
from consilia.record.schema import Metrics, SiteInfo, SiteMetrics
from tests.federation.clinics import clinics_config, write_clinics
from tests.federation.support import MLP, initial_state, small

NAME = "hospital-1"


def settings(wisconsin: dict[str, Path], **limits: Any) -> SiteConfig:
    config = load_site_config(wisconsin[NAME])
    return config.model_copy(update={"limits": RESEARCH_LIMITS.model_copy(update=limits)})


def train(node: Site, number: int = 0, **more: Any) -> str | None:
    return node.answer(Request(kind="train", round=number, **more), initial_state(node.config)).error


def spent(node: Site) -> Spent:
    return total(node.gate.folder)


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"max_rounds": 2}, "limits.max_rounds: the job asks 3, this site allows 2"),
        ({"max_local_epochs": 1}, "limits.max_local_epochs: the job asks 2, this site allows 1"),
        ({"max_learning_rate": 0.04}, "limits.max_learning_rate: the job asks 0.5"),
        (
            {"max_model_bytes": 1000},
            "limits.max_model_bytes: the job asks a model of 1.056 kB or more, this site",
        ),
    ],
)
def test_what_the_job_says_is_refused_before_the_site_opens(wisconsin, limits, words) -> None:
    with pytest.raises(LimitReached) as refusal:
        Site(small(), settings(wisconsin, **limits))
    assert str(refusal.value).startswith(words)


@pytest.mark.parametrize("limits", [{"min_training_cases": 125}, {"max_batch_fraction": 0.1}])
def test_few_cases_refuse_to_prepare_and_to_train_but_not_to_evaluate(wisconsin, limits, caplog) -> None:
    node = Site(small(), settings(wisconsin, **limits))
    (name,) = limits
    assert node.answer(Request(kind="prepare"), None).error == "LimitReached"
    assert train(node) == "LimitReached"
    assert f"site {NAME} refuses request train: limits.{name}: " in caplog.text
    assert node.answer(Request(kind="evaluate"), initial_state(node.config)).error is None
    assert spent(node).rounds == 0


def test_rounds_and_evaluations_count_over_resumes_reseeding_and_renaming(wisconsin) -> None:
    limited = settings(wisconsin, max_rounds=3, max_evaluations=6)
    first = Site(small(), limited)
    assert train(first, evaluate=True) is None
    assert train(first) is None
    # Another process of the same run, then the same job under another name and seed.
    assert train(Site(small(), limited), 1) is None
    again = Site(small(seed=7, label="innocent"), limited)
    assert again.folder != first.folder
    assert train(again) == "LimitReached"
    assert "limits.max_rounds: the job asks number 4 of these requests" in str(again.error)
    evaluate = Request(kind="evaluate", round=1)
    replies = [again.answer(evaluate, initial_state(again.config)).error for _ in range(6)]
    assert replies == [None] * 5 + ["LimitReached"]
    assert (spent(again).rounds, spent(again).evaluations) == (3, 6)
    # What is approved anew begins anew; the old count is put aside.
    moved = close_ledger(limited.state_dir, first.gate.digest)
    assert moved is not None
    assert total(moved).rounds == 3
    assert train(Site(small(), limited)) is None


def test_what_is_taken_back_while_the_site_works_does_not_count_for_the_next_approval(wisconsin) -> None:
    node = Site(small(), settings(wisconsin, max_rounds=3))
    assert train(node) is None
    with node.gate.opened(Request(kind="train", round=1)):
        moved = close_ledger(node.settings.state_dir, node.gate.digest)
    assert moved is not None
    assert (total(moved).rounds, spent(node).rounds) == (2, 0)
    assert train(node, 1) is None
    assert spent(node).rounds == 1


def test_what_is_asked_otherwise_has_a_count_of_its_own(wisconsin) -> None:
    limited = settings(wisconsin, max_rounds=3)
    one, other = Site(small(), limited), Site(small(method="fedavg"), limited)
    assert train(one) is train(other) is None
    assert spent(one).rounds == spent(other).rounds == 1


def _die_while_training(site: Path, limits: dict[str, Any]) -> None:
    config = load_site_config(site)
    node = Site(small(), config.model_copy(update={"limits": RESEARCH_LIMITS.model_copy(update=limits)}))
    node.client.train = lambda round_: os._exit(9)  # type: ignore[method-assign]
    train(node)


def test_a_killed_process_has_spent_what_it_began(wisconsin) -> None:
    process = get_context("spawn").Process(target=_die_while_training, args=(wisconsin[NAME], {"max_rounds": 3}))
    process.start()
    process.join(120)
    assert process.exitcode == 9
    assert spent(Site(small(), settings(wisconsin, max_rounds=3))).rounds == 1


@pytest.mark.parametrize("limits", [{"max_hours": 1e-9}, {"max_memory": 1000}])
def test_time_and_memory_end_a_training_that_has_begun(wisconsin, limits, monkeypatch) -> None:
    monkeypatch.setattr(site_gate, "LOOK_SECONDS", 0.0)
    node = Site(small(), settings(wisconsin, **limits))
    steps = []
    loss = node.client.loss
    node.client.loss = lambda batch: steps.append(batch) or loss(batch)  # type: ignore[method-assign, func-returns-value]
    assert train(node) == "LimitReached"
    assert steps == []
    assert f"limits.{next(iter(limits))}: " in str(node.error)


def test_hours_add_up_over_requests(wisconsin) -> None:
    node = Site(small(), settings(wisconsin, max_hours=1.0))
    assert train(node) is None
    assert 0 < spent(node).seconds < 60
    node.gate._add(Spent(seconds=3600))
    assert node.answer(Request(kind="prepare"), None).error == "LimitReached"
    assert "limits.max_hours: " in str(node.error)


def test_a_full_state_folder_is_refused_by_name(wisconsin) -> None:
    node = Site(small(), settings(wisconsin, max_disk=1))
    assert train(node) == "LimitReached"
    assert str(node.error).startswith("limits.max_disk: the job asks more than the ")


@pytest.mark.parametrize("place", ["runs", "run", "file", "ledger", "entry"])
def test_no_link_in_the_state_folder_leads_outside(wisconsin, tmp_path, place) -> None:
    node = Site(small(), settings(wisconsin))
    state, outside = node.settings.state_dir, tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("as it was")
    links = {
        "runs": state / "runs",
        "run": node.folder,
        "file": node.folder / "personal-round.safetensors",
        "ledger": state / "ledger",
        "entry": node.gate.file,
    }
    link = links[place]
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(outside if "." not in link.name else outside / "precious")
    assert train(node) == "ConfigError"
    assert f"{link} is a symbolic link" in str(node.error)
    if place == "ledger":
        with pytest.raises(ConfigError, match="is a symbolic link"):
            close_ledger(state, node.gate.digest)
    assert [path.name for path in outside.iterdir()] == ["precious"]
    assert (outside / "precious").read_text() == "as it was"


def test_a_ledger_is_not_put_aside_outside(wisconsin, tmp_path) -> None:
    node = Site(small(), settings(wisconsin, max_rounds=3))
    assert train(node) is None
    outside = tmp_path / "outside"
    outside.mkdir()
    (node.settings.state_dir / "ledger" / "closed").symlink_to(outside)
    with pytest.raises(ConfigError, match="is a symbolic link"):
        close_ledger(node.settings.state_dir, node.gate.digest)
    assert list(outside.iterdir()) == []
    assert spent(node).rounds == 1


@pytest.mark.parametrize("place", ["diagnosis", "diagnosis/splits.csv", "diagnosis/preprocessing.json", "runs"])
def test_no_link_leads_outside_when_a_site_opens(wisconsin, tmp_path, place) -> None:
    state, outside = Site(small(), settings(wisconsin)).settings.state_dir, tmp_path / "outside"
    link = state / place
    if link.exists():
        link.rename(outside)
    else:
        outside.mkdir()
    before = {path: path.stat().st_mtime_ns for path in (outside, *outside.rglob("*"))}
    link.symlink_to(outside)
    with pytest.raises(ConfigError, match=f"{link} is a symbolic link"):
        Site(small(), settings(wisconsin))
    assert {path: path.stat().st_mtime_ns for path in (outside, *outside.rglob("*"))} == before


def _spend_all(site: Path, limits: dict[str, Any], seed: int, spent_by: Any) -> None:
    config = load_site_config(site)
    config = config.model_copy(update={"limits": RESEARCH_LIMITS.model_copy(update=limits)})
    gate = Site(small(seed=seed), config).gate
    begun = 0
    with suppress(LimitReached):
        while True:
            with gate.opened(Request(kind="train")):
                begun += 1
                gate._note_time()
                # Files come and go in state_dir while the other process counts what it holds.
                write_bytes(config.state_dir / f"part-{seed}", b"")
    spent_by.put(begun)


def test_two_processes_together_spend_what_one_approval_allows(wisconsin) -> None:
    context, limits = get_context("spawn"), {"max_rounds": 60, "max_disk": 10**9}
    spent_by = context.Queue()
    processes = [context.Process(target=_spend_all, args=(wisconsin[NAME], limits, seed, spent_by)) for seed in (1, 2)]
    for process in processes:
        process.start()
    begun = [spent_by.get(timeout=120) for _ in processes]
    for process in processes:
        process.join(60)
    assert sum(begun) == 60 == spent(Site(small(), settings(wisconsin))).rounds


def test_files_that_vanish_while_they_are_counted_take_no_room(tmp_path, monkeypatch) -> None:
    (tmp_path / "a").write_bytes(bytes(10))
    walk = [(str(tmp_path), [], ["a", "gone"])]
    monkeypatch.setattr(os, "walk", lambda folder: walk)
    assert site_gate.disk_used(tmp_path) == 10


def test_a_damaged_ledger_gives_no_free_tries(wisconsin) -> None:
    node = Site(small(), settings(wisconsin, max_rounds=5))
    assert train(node) is None
    assert node.gate.file.stat().st_mode & 0o777 == 0o600
    node.gate.file.write_text("{")
    fresh = Site(small(), settings(wisconsin, max_rounds=5))
    assert train(fresh) == "ConfigError"
    assert "damaged" in str(fresh.error)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"hidden": [200_000, 200_000]}, "a model of 160 GB or more, this site allows 2 GB"),
        ({"hidden": [1] * 60_000}, "a model of more than 100,000 parts"),
        ({"hidden": [12_000] * 6}, "or more, this site allows 2 GB"),
    ],
)
def test_a_huge_model_is_refused_before_its_memory_is_taken(arguments, words, monkeypatch) -> None:
    taken = []
    monkeypatch.setattr(torch.Tensor, "uniform_", lambda tensor, *_, **__: taken.append(tensor.nbytes) or tensor)
    with pytest.raises(LimitReached, match=words):
        build_model(MLP, {"in_features": 30, "num_classes": 2, **arguments}, seed=0, max_bytes=2 * 10**9)
    # What is never written to costs no memory.
    assert sum(taken) <= 2 * 10**9


def test_the_bound_on_its_size_changes_no_model() -> None:
    arguments = {"in_features": 30, "num_classes": 2, "hidden": [8]}
    plain, bounded = (build_model(MLP, arguments, seed=3, max_bytes=limit) for limit in (None, 10**6))
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, bounded.state_dict()[name])


def test_metrics_over_few_cases_of_a_class_are_withheld_but_not_from_the_site(wisconsin) -> None:
    data = Site(small(), settings(wisconsin)).data
    fewest = {part: int(data.split(part).labels.bincount(minlength=2).min()) for part in ("validation", "test")}
    assert fewest["validation"] < fewest["test"]
    node = Site(small(), settings(wisconsin, min_cases_per_metric=fewest["test"], round_metrics=3))
    reply = json.loads(node.answer(Request(kind="evaluate"), initial_state(node.config)).content)
    assert reply["received"]["validation"] is None
    test = reply["received"]["test"]
    assert test["accuracy"] == round(test["correct"] / test["count"], 3)
    assert all(round(test[name], 3) == test[name] for name in ("balanced_accuracy", "auroc", "loss"))
    shy = Site(small(), settings(wisconsin, min_cases_per_metric=1000))
    reply = json.loads(shy.answer(Request(kind="personalize", round=3), initial_state(shy.config)).content)
    assert reply["received"] == reply["personal"] == {"validation": None, "test": None}
    assert (shy.folder / "report-last.html").stat().st_size > 3_000
    described = json.loads(shy.answer(Request(kind="prepare"), None).content)
    assert described["test"] == len(shy.data.test)


def test_empty_masks_do_not_hide_how_few_cases_a_segmentations_metrics_are_about() -> None:
    masks = torch.zeros(20, 4, 4, dtype=torch.uint8)
    masks[3, 1, 2] = 1
    split = Split(torch.zeros(20, 1, 4, 4), masks, tuple(map(str, range(20))))
    data = DatasetSplits(("background", "polyp"), split, split, split, task="segmentation")
    assert fewest_cases(data, "test") == 1


def test_counts_of_a_large_split_are_rounded_down() -> None:
    limits = RESEARCH_LIMITS.model_copy(update={"round_metrics": 2})
    full = {"count": 1234, "correct": 777, "accuracy": 777 / 1234, "negative_flips": 25, "auroc": None}
    sent = releasable(full, 600, limits)
    assert sent == {"count": 1234, "correct": 768, "accuracy": 0.63, "negative_flips": 24, "auroc": None}
    segmented = {"count": 40, "empty": 3, "unit": "px", "prompts": {"box": {"dice": 0.98765, "missed": 2}}}
    sent = releasable(segmented, 40, limits)
    assert sent == {**segmented, "prompts": {"box": {"dice": 0.99, "missed": 2}}}


def test_a_run_whose_sites_withhold_all_ends_with_its_last_model(wisconsin, tmp_path, caplog) -> None:
    caplog.set_level(logging.ERROR)
    for path in wisconsin.values():
        text = path.read_text().replace("min_cases_per_metric: null", "min_cases_per_metric: 1000")
        path.write_text(text)
    server = ServerSettings(engine="inprocess", allow_models=(MLP,))
    told: list[Event] = []
    record = run_inprocess(small(), wisconsin, tmp_path / "run", server=server, progress=told.append)
    notices = [str(event) for event in told if isinstance(event, Notice)]
    for site in wisconsin:
        assert notices.count(f"{site} withholds its validation and test metrics, by its own limits") == 1
    assert record.final["best"].version == 3
    assert record.run.best_by is None
    assert all(metrics.test is None for metrics in record.final["best"].global_.values())
    assert (tmp_path / "run" / "report.html").is_file()


def test_a_site_that_withholds_one_of_its_datasets_is_accepted_with_the_others(tmp_path) -> None:
    config, path = clinics_config(), write_clinics(tmp_path)["north"]
    open_site = load_site_config(path)
    data = Site(config, open_site).data
    fewest = sorted(fewest_cases(dataset, "test") for dataset in data.datasets.values())
    assert fewest[0] < fewest[1]
    limits = RESEARCH_LIMITS.model_copy(update={"min_cases_per_metric": fewest[1]})
    node = Site(config, open_site.model_copy(update={"limits": limits}))
    described = json.loads(node.answer(Request(kind="prepare"), None).content)
    reply = json.loads(node.answer(Request(kind="evaluate"), initial_state(config)).content)
    metrics = SiteMetrics.model_validate(reply["received"])
    assert isinstance(metrics.test, Metrics)
    assert len(metrics.test.tasks) == 1
    declared = SiteInfo(
        **{split: described[split] for split in ("train", "validation", "test")},
        test_only=False,
        fingerprint=described["fingerprint"],
        tasks=described["datasets"],
    )
    _check_counts("received", metrics, declared)
    with pytest.raises(UpdateRejected, match="the site declared"):
        _check_counts("received", metrics, declared.model_copy(update={"test": metrics.test.count - 1}))
