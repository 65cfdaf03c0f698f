"""What a site keeps and what leaves it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from consilia.data.site import load_site_config
from consilia.federation.messages import Request
from consilia.federation.site import Site
from consilia.federation.site_store import HISTORY, SiteStore
from tests.conftest import REPOSITORY
from tests.federation.support import initial_state, small


def site(wisconsin, name: str = "hospital-1", **settings) -> tuple[Site, dict]:
    config = small(**settings)
    return Site(config, load_site_config(wisconsin[name])), initial_state(config)


def test_only_named_scalars_and_the_models_tensors_leave(wisconsin) -> None:
    node, state = site(wisconsin)
    told = {}
    for info in (
        Request(kind="prepare"),
        Request(kind="train", round=0, evaluate=True),
        Request(kind="evaluate", round=1),
        Request(kind="personalize", round=1),
    ):
        reply = node.answer(info, state)
        told[info.kind] = reply
        assert set(reply.tensors) == (set(state) if info.kind == "train" else set())
        for case in node.data.train.case_ids[:5]:
            assert f'"{case}"' not in reply.content
    metrics = {"count", "correct", "accuracy", "balanced_accuracy", "auroc", "loss"}
    metrics |= {"negative_flips", "positive_flips"}
    train = json.loads(told["train"].content)
    assert set(train) == {"round", "cases", "weight", "fields", "received", "trained", "seconds"}
    assert set(train["fields"]) == {"train_loss", "train_accuracy"}
    assert set(train["received"]["test"]) == metrics
    described = {"train", "validation", "test", "class_names", "fingerprint", "layout"}
    assert set(json.loads(told["prepare"].content)) == described
    assert set(json.loads(told["evaluate"].content)) == {"round", "received", "seconds"}
    assert set(json.loads(told["personalize"].content)) == {"round", "received", "personal", "seconds"}


def test_the_personal_model_of_a_round_is_the_very_update(wisconsin) -> None:
    node, state = site(wisconsin)
    update = node.answer(Request(kind="train", round=0), state).tensors
    kept = load_file(node.folder / "personal-round.safetensors")
    assert all(torch.equal(kept[name], update[name]) for name in update)


def test_flips_count_from_the_last_evaluation_by_hand(wisconsin) -> None:
    node, state = site(wisconsin)
    labels = node.data.test.labels
    told = []
    for version, answer in ((0, 0), (1, 1), (2, 0)):
        # A model that always gives one class: zero weights, all of the answer in the last bias.
        constant = {name: torch.zeros_like(value) for name, value in state.items()}
        constant["layers.2.bias"][answer] = 1.0
        reply = node.answer(Request(kind="evaluate", round=version), constant)
        test = json.loads(reply.content)["received"]["test"]
        told.append((test["negative_flips"], test["positive_flips"]))
    zeros, ones = int((labels == 0).sum()), int((labels == 1).sum())
    assert told == [(0, zeros), (zeros, ones), (ones, zeros)]


def test_history_stays_small_and_a_repeated_version_counts_from_the_one_before(wisconsin) -> None:
    node, state = site(wisconsin, rounds=5)
    # As at a hospital: this one is of a study, which has the whole history.
    node.store = node.evaluation.store = SiteStore(node.folder)
    replies = [node.answer(Request(kind="evaluate", round=version), state) for version in range(6)]
    assert sorted(load_file(node.folder / HISTORY)) == ["global/3", "global/4", "global/5"]
    again = node.answer(Request(kind="evaluate", round=5), state)
    assert json.loads(again.content)["received"] == json.loads(replies[5].content)["received"]


def test_a_fresh_start_forgets_and_a_resumed_one_does_not(wisconsin) -> None:
    node, state = site(wisconsin)
    node.answer(Request(kind="evaluate", round=0), state)
    node.answer(Request(kind="prepare", resume=True), None)
    assert (node.folder / HISTORY).is_file()
    node.answer(Request(kind="prepare"), None)
    assert not (node.folder / HISTORY).exists()


def test_personal_models_survive_a_restart_and_say_what_they_are(wisconsin) -> None:
    node, state = site(wisconsin)
    node.answer(Request(kind="personalize", round=3), state)
    reopened, _ = site(wisconsin)
    with safe_open(str(reopened.folder / "personal-last.safetensors"), framework="pt") as file:
        card = json.loads(file.metadata()["consilia"])
    assert card["model"]["class"] == "consilia.models.mlp.MLP"
    assert (card["method"], card["kind"], card["dataset"]) == ("fedkper", "personal-last", "diagnosis")


def test_a_model_that_does_not_fit_the_data_is_found_before_the_first_round(wisconsin) -> None:
    model = {"class": "consilia.models.mlp.MLP", "args": {"in_features": 7, "num_classes": 2}}
    node, _ = site(wisconsin, model=model)
    assert node.answer(Request(kind="prepare"), None).error == "ConfigError"
    model = {"class": "consilia.models.mlp.MLP", "args": {"in_features": 30, "num_classes": 5}}
    node, _ = site(wisconsin, model=model)
    assert node.answer(Request(kind="prepare"), None).error == "ConfigError"


FIRST_ROUND = """
import sys
from pathlib import Path
from consilia.data.site import load_site_config
from consilia.federation.messages import Request
from consilia.federation.site import Site
from tests.conftest import REPOSITORY
from tests.federation.support import initial_state, small

node, state = Site(small(), load_site_config(Path(sys.argv[1]))), initial_state(small())
node.answer(Request(kind="prepare"), None)
before = set(sys.modules)
assert node.answer(Request(kind="train", round=0, evaluate=True), state).error is None
print(*sorted(set(sys.modules) - before))
"""


@pytest.mark.slow
def test_a_round_has_to_wait_for_no_library(wisconsin) -> None:
    command = [sys.executable, "-c", FIRST_ROUND, str(wisconsin["hospital-1"])]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # A whole library has hundreds of modules.
    assert len(done.stdout.split()) < 10, done.stdout


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tensor: tensor[:4], "has shape (4,), expected (8,)"),
        (lambda tensor: tensor.double(), "has dtype torch.float64, expected torch.float32"),
        (lambda tensor: tensor.fill_(float("inf")), "holds infinite values (8 of 8 entries)"),
        (lambda tensor: tensor.fill_(float("nan")), "holds NaN"),
        (lambda tensor: tensor.numpy(), "is a ndarray, expected a torch.Tensor"),
    ],
)
@pytest.mark.parametrize("kind", ["train", "evaluate", "personalize"])
def test_a_global_state_that_is_none_is_refused_before_it_is_used(wisconsin, kind, change, words) -> None:
    node, state = site(wisconsin)
    state["layers.0.bias"] = change(state["layers.0.bias"])
    assert node.answer(Request(kind=kind), state).error == "UpdateRejected"
    assert f"tensor 'layers.0.bias' {words}" in str(node.error)
