"""A method's own mistakes end a run with a message that says what and where; what was there before stays."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from consilia.core.errors import ConfigError, ConsiliaError
from consilia.core.events import Event, Notice
from consilia.federation.inprocess import run_inprocess
from consilia.federation.server_settings import own_server
from consilia.federation.site_store import split_state
from tests.federation.support import small
from tests.methods.plugins import plugin

OWN = """
import torch
from consilia.methods import Client, Method, Server, TensorSpec, Update


class OwnClient(Client):
    {client}


class OwnServer(Server):
    {server}


class Own(Method):
    name = "own"
    {method}

    def client(self, context):
        return OwnClient(self, context)

    def server(self, context):
        return OwnServer(self, context)
"""
PAYLOAD = 'def payload(self, model): return {"control": TensorSpec((2,), max_norm=5.0)}'
STEP = "def step(self, previous, mean, number): "


def failed(
    sites: dict[str, Path], folder: Path, *, client: str = "pass", server: str = "pass", method: str = ""
) -> str:
    """The message that ends a run of two rounds at two sites."""
    file = folder / "own.py"
    file.write_text(OWN.format(client=client, server=server, method=method))
    two = dict(list(sites.items())[:2])
    with plugin(file):
        config = small("own", rounds=2)
        with pytest.raises(ConsiliaError) as caught:
            run_inprocess(config, two, folder / "run", server=own_server(config, two))
    return str(caught.value)


@pytest.mark.parametrize(
    ("server", "message"),
    [
        (STEP + "return None", "method own: step() of the server gives NoneType, expected tensors by name"),
        (STEP + 'return {"a": torch.zeros(1)}', "step() of the server gives what is not expected: missing tensor"),
        (STEP + "return {n: t.double() for n, t in mean.state.items()}", "has dtype torch.float64, expected"),
        (STEP + "return {n: t * torch.nan for n, t in mean.state.items()}", "holds NaN"),
        ("def after_round(self, state, number): return {}", "after_round() of the server gives what is not expected"),
        ("def state_dict(self): return None", "the server state of the method is a NoneType, expected tensors"),
        (
            "def state_dict(self): return {'m': {'w': torch.zeros(1)}}",
            "holds 'm', a dict: expected tensors by name, none",
        ),
        (
            'def payload(self, number): return {"x": torch.zeros(1)}',
            "payload() of the server gives what is not expected",
        ),
    ],
)
def test_a_server_half_that_gives_the_wrong_thing_is_named(
    wisconsin: dict[str, Path], tmp_path: Path, server: str, message: str
) -> None:
    assert message in failed(wisconsin, tmp_path, server=server)


@pytest.mark.parametrize("raised", ["ValueError('boom')", "SystemExit('boom')"])
@pytest.mark.parametrize("where", ["step", "payload", "weights", "state_dict", "section", "save", "__init__"])
def test_what_a_server_half_raises_is_told_with_its_line(
    wisconsin: dict[str, Path], tmp_path: Path, where: str, raised: str
) -> None:
    text = failed(wisconsin, tmp_path, server=f"def {where}(self, *_): raise {raised}")
    assert f"the run ended with {raised.partition('(')[0]}: boom (own.py, line 11); the traceback is in" in text
    log = tmp_path / "run" / "errors.log"
    assert str(log) in text
    assert "Traceback" in log.read_text()


def test_a_payload_beyond_its_bound_is_refused_before_it_is_sent(wisconsin: dict[str, Path], tmp_path: Path) -> None:
    server = 'def payload(self, number): return {"control": torch.full((2,), 9.0)}'
    text = failed(wisconsin, tmp_path, server=server, method=PAYLOAD)
    assert "norm of tensor 'control' is 12.7279, allowed is at most 5" in text


@pytest.mark.parametrize("payload", ["full((2,), 9.0)", "tensor([0.0, float('nan')])", "zeros(3)", "zeros(2).double()"])
def test_a_site_refuses_a_payload_that_a_hostile_server_does_not_check(
    wisconsin: dict[str, Path], tmp_path: Path, payload: str
) -> None:
    server = f'def declared_payload(self, number): return {{"control": torch.{payload}}}'
    text = failed(wisconsin, tmp_path, server=server, method=PAYLOAD)
    assert "hospital-1: the site failed with UpdateRejected" in text


@pytest.mark.parametrize(
    ("client", "message"),
    [
        ("def train(self, round_): return None", "ConfigError: method own: train() gives NoneType, expected an Update"),
        ("def train(self, round_): raise SystemExit('boom')", "SystemExit: boom (own.py, line 7)"),
        ("def loss(self, batch): return self.model(batch.inputs)", "grad can be implicitly created only for scalar"),
        ("def state_dict(self): return {'f': lambda: 1}", "client state of the method holds 'f', a function"),
    ],
)
def test_what_fails_at_every_site_is_told_once_to_whoever_runs_them_all(
    wisconsin: dict[str, Path], tmp_path: Path, client: str, message: str
) -> None:
    text = failed(wisconsin, tmp_path, client=client)
    assert text.startswith("round 1 has 0 accepted updates")
    (line,) = [line for line in text.splitlines() if line.startswith("hospital-1, hospital-2: ")]
    assert message in line


def noticed(sites: dict[str, Path], folder: Path, client: str) -> str:
    """What whoever started a run is told of errors at sites, though the run comes to its end."""
    file = folder / "own.py"
    file.write_text(OWN.format(client=client, server="pass", method=""))
    events: list[Event] = []
    with plugin(file):
        config = small("own", rounds=1)
        run_inprocess(config, sites, folder / "run", server=own_server(config, sites), progress=events.append)
    notices = [event for event in events if isinstance(event, Notice)]
    (notice,) = [event for event in notices if "the record lacks" in event.reason]
    return notice.reason


def test_what_fails_at_one_site_is_told_when_the_run_ends(wisconsin: dict[str, Path], tmp_path: Path) -> None:
    text = noticed(
        wisconsin,
        tmp_path,
        "def train(self, r): return super().train(r) if self.data.site != 'hospital-1' else 1 / 0",
    )
    assert "hospital-1: ZeroDivisionError: division by zero (own.py, line 7)" in text


def test_a_personal_model_that_is_not_whole_is_not_kept(wisconsin: dict[str, Path], tmp_path: Path) -> None:
    text = noticed(wisconsin, tmp_path, "def personalize(self, round_): return {}")
    assert "hospital-4: CheckpointError: the state does not fit the model: 4 tensor(s) missing" in text
    assert not list(tmp_path.rglob("personal-last.safetensors"))


@pytest.mark.parametrize("part", ["record", "accepted", "best", "server", "version"])
def test_a_checkpoint_with_other_content_is_refused(wisconsin: dict[str, Path], tmp_path: Path, part: str) -> None:
    server = STEP + "return mean.state if number == 1 else 1 / 0"
    failed(wisconsin, tmp_path, server=server)
    index = tmp_path / "run" / "checkpoint" / "checkpoint.json"
    content = json.loads(index.read_text())
    content["state"][part] = ["of another program"]
    index.write_text(json.dumps(content))
    text = failed(wisconsin, tmp_path, server=server)
    assert re.search(r"checkpoint holds .*To begin the run anew, choose another folder", text)


def test_what_a_method_shows_of_a_record_may_fail_and_is_named(wisconsin: dict[str, Path], tmp_path: Path) -> None:
    method = "panels = classmethod(lambda cls, records: 1 / 0)"
    text = failed(wisconsin, tmp_path, method=method)
    assert (
        "method own cannot show its part of the record: ZeroDivisionError: division by zero (own.py, line 16)" in text
    )
    assert (tmp_path / "run" / "result.json").is_file()


@pytest.mark.parametrize(
    "value", [{1: 2}, {"a": {1: 2}}, {"a": {1, 2}}, {"a": float("nan")}, {"a": [object()]}, [1], None]
)
def test_a_state_that_json_would_change_or_not_hold_is_refused(value: object) -> None:
    with pytest.raises(ConfigError, match="state of the method"):
        split_state(value, "client")
    assert split_state({"a": (1, "b", None, True, 0.5), "c": {"d": []}}, "client")[0] == {}


def test_a_failure_leaves_the_checkpoint_of_the_rounds_before(wisconsin: dict[str, Path], tmp_path: Path) -> None:
    server = STEP + "return mean.state if number == 1 else 1 / 0"
    assert "ZeroDivisionError: division by zero (own.py, line 11)" in failed(wisconsin, tmp_path, server=server)
    # The same run ends in the same way: it goes on after its first round.
    assert "ZeroDivisionError" in failed(wisconsin, tmp_path, server=server)
    assert (tmp_path / "run" / "checkpoint" / "state-00001.safetensors").is_file()
