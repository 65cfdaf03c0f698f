"""A site's answer to requests that its run has no place for."""

from __future__ import annotations

import pytest

from consilia.core.errors import ConfigError
from consilia.data.site import load_site_config
from consilia.federation.messages import Request
from consilia.federation.requests import require_within
from consilia.federation.site import Site
from tests.federation.support import initial_state, small

CONFIG = small(rounds=4, evaluate_every=2)


@pytest.mark.parametrize(
    "request_",
    [
        Request(kind="prepare", round=4, resume=True),
        Request(kind="train", round=3, client_round=3),
        Request(kind="train", round=2, evaluate=True),
        Request(kind="evaluate", round=2),
        Request(kind="evaluate", round=3, final=True),
        Request(kind="personalize", round=4, final=True, client_round=4, best_client_round=2),
    ],
)
def test_requests_of_the_run_pass(request_: Request) -> None:
    require_within(request_, CONFIG)


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (Request(kind="train", round=4), "request train after 4 rounds: the run has 4, and the last such"),
        (Request(kind="train", round=10**12), "request train after 1000000000000 rounds"),
        (Request(kind="evaluate", round=5, final=True), "request evaluate after 5 rounds"),
        (Request(kind="personalize", round=5, final=True), "request personalize after 5 rounds"),
        (Request(kind="train", round=1, evaluate=True), "wants an evaluation after 1 rounds: evaluate_every is 2"),
        (Request(kind="evaluate", round=3), "wants an evaluation after 3 rounds: evaluate_every is 2"),
        (Request(kind="train", round=1, client_round=2), "names the client state of a later one"),
        (Request(kind="train", round=1, best_client_round=2), "names the client state of a later one"),
    ],
)
def test_others_are_refused_with_the_reason(request_: Request, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        require_within(request_, CONFIG)


def test_without_evaluations_only_the_final_ones_pass() -> None:
    config = small(evaluate_every=0)
    require_within(Request(kind="evaluate", round=3, final=True), config)
    with pytest.raises(ConfigError, match="evaluate_every is 0"):
        require_within(Request(kind="train", round=0, evaluate=True), config)


def test_a_site_does_not_train_beyond_the_runs_rounds(wisconsin) -> None:
    site = Site(CONFIG, load_site_config(wisconsin["hospital-1"]))
    state = initial_state(CONFIG)
    assert site.answer(Request(kind="train", round=3), state).error is None
    reply = site.answer(Request(kind="train", round=4), state)
    assert (reply.error, reply.tensors) == ("ConfigError", {})
    assert "the run has 4" in str(site.error)
