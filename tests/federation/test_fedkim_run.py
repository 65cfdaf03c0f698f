"""A whole FedKIM run: who contributed to what, what travels, injection, resumption, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from consilia.core.determinism import state_digest
from consilia.core.errors import ConfigError, TrainingStopped
from consilia.data.site import load_site_config
from consilia.federation.coordinator import Coordinator
from consilia.federation.inprocess import run_inprocess
from consilia.federation.messages import Broadcast, Reply
from consilia.federation.server_settings import own_server
from consilia.federation.site import Site
from consilia.methods.fedkim.section import injection_of
from consilia.models.exchange import count_elements, exchanged_state
from consilia.study.baselines import run_baseline
from tests.federation.clinics import TASK_DEFINITIONS, clinics_config, write_clinics

pytest.importorskip("peft")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clinics")
    files, config = write_clinics(folder / "sites"), clinics_config()
    record = run_inprocess(config, files, folder / "run", server=own_server(config, files))
    return folder, files, config, record


def test_each_site_sends_the_encoders_and_heads_of_its_tasks_and_a_little_text(done) -> None:
    folder, _, _config, record = done
    state = load_file(folder / "run" / "global-last.safetensors")
    size = {name: tensor.numel() for name, tensor in state.items()}
    encoder = sum(n for name, n in size.items() if name.startswith("encoders.table."))
    heads = {
        task: sum(n for name, n in size.items() if name.startswith(f"heads.{task}.")) for task in ("sepsis", "anaemia")
    }
    parameters = {
        "north": encoder + sum(heads.values()),
        "south": encoder + heads["sepsis"],
        "west": encoder + heads["anaemia"],
    }
    for item in record.rounds:
        for site, count in parameters.items():
            assert 4 * count < item.bytes_up[site] <= 1.01 * 4 * count + 64_000
    assert {site: info.tasks for site, info in record.sites.items()} == {
        "north": {"anaemia": 15, "sepsis": 15},
        "south": {"sepsis": 17},
        "west": {"anaemia": 19},
    }


def test_the_record_tells_of_every_task_and_every_answerer(done) -> None:
    _, _, _config, record = done
    found = injection_of(record)
    assert (found.seen, found.unseen, found.experts) == (["anaemia", "sepsis"], ["death", "reading"], 3)
    assert [item.round for item in found.rounds] == [1, 2]
    for item in found.rounds:
        assert set(item.validation) == {"anaemia", "sepsis"}
        for gates in item.gates.values():
            assert len(gates) == 3
            assert sum(gates) == pytest.approx(1, abs=1e-5)
    assert set(found.test["injected"]) == set(TASK_DEFINITIONS["tasks"])
    assert found.test["injected"]["reading"].open.count + found.test["injected"]["reading"].closed.count == 9
    assert set(found.test["extractor"]) == {"anaemia", "sepsis"}
    assert found.test["majority"]["sepsis"].closed.auroc == 0.5
    assert set(found.few_shot) == {"death", "reading"}
    # 192 wide, 5 layers: q_proj 192 -> 192 and down_proj 512 -> 192, 3 experts of rank 2.
    assert found.parameters.experts == 5 * 3 * 2 * ((192 + 192) + (512 + 192))
    assert found.parameters.router == 3 * (192 * 192 + 192) + 192 * 3 + 3


def test_the_same_run_gives_the_same_bytes(done, tmp_path: Path) -> None:
    folder, _, config, record = done
    files = write_clinics(tmp_path / "sites")
    again = run_inprocess(config, files, tmp_path / "run", server=own_server(config, files))
    assert again.final["last"].sha256 == record.final["last"].sha256
    assert injection_of(again).test == injection_of(record).test
    name = "injected/adapter_model.safetensors"
    assert (tmp_path / "run" / name).read_bytes() == (folder / "run" / name).read_bytes()


def test_an_interrupted_injection_goes_on_to_the_same_bytes(
    done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from consilia.methods.fedkim import injection

    _folder, _, config, record = done
    files = write_clinics(tmp_path / "sites")
    steps = 0
    one_step = injection.Injection._one_step

    def until(self, task, indices):
        nonlocal steps
        steps += 1
        if steps == 9:  # the third step of round 2's injection, after its checkpoint
            raise TrainingStopped("the server went down")
        one_step(self, task, indices)

    assert [item.steps for item in injection_of(record).rounds] == [6, 6]
    monkeypatch.setattr(injection.Injection, "_one_step", until)
    with pytest.raises(TrainingStopped):
        run_inprocess(config, files, tmp_path / "run", server=own_server(config, files))
    assert steps == 9
    index = json.loads((tmp_path / "run" / "checkpoint" / "checkpoint.json").read_text())["state"]
    assert (index["version"], index["server"]["done"]) == (2, 1)
    again = run_inprocess(config, files, tmp_path / "run", server=own_server(config, files))
    # Two of the second injection's six steps had been kept; then come two unseen tasks' few shots of two steps.
    assert steps == 9 + 4 + 2 * 2
    assert again.final["last"].sha256 == record.final["last"].sha256
    assert injection_of(again).test == injection_of(record).test


def test_without_pushback_the_sites_get_the_plain_aggregate(done, tmp_path: Path) -> None:
    files = write_clinics(tmp_path / "sites")
    config = clinics_config(("method.encoder_pushback=false", "rounds=1", "method.evaluation.few_shot=[]"))
    server = own_server(config, files)
    sites = {name: Site(config, load_site_config(path)) for name, path in files.items()}
    model = config.model.build(seed=0, allowed=server.allow_models, folders={})
    initial = exchanged_state(model)
    coordinator = Coordinator(
        config, sorted(sites), initial, tmp_path / "run", all_parameters=count_elements(model), server=server
    )
    sent: dict[str, Reply] = {}

    def deliver(tasks: list[Broadcast]) -> None:
        for task in tasks:
            for name in task.targets:
                reply = sites[name].answer(task.request, task.tensors)
                if task.request.kind == "train":
                    sent[name] = reply
                coordinator.receive(name, reply)

    coordinator.run(deliver)
    weights = {
        "encoders.table.norm.weight": {"north": 30, "south": 17, "west": 19},
        "heads.sepsis.0.weight": {"north": 15, "south": 17},
    }
    for name, cases in weights.items():
        total = sum(cases.values())
        by_hand = sum(sent[site].tensors[name].double() * (n / total) for site, n in cases.items())
        assert torch.allclose(coordinator.state[name].double(), by_hand, atol=1e-7)


def test_an_update_with_a_task_the_site_does_not_have_is_refused(tmp_path: Path) -> None:
    files = write_clinics(tmp_path / "sites")
    config = clinics_config(("rounds=1", "method.evaluation.few_shot=[]", "min_sites=1"))
    server = own_server(config, files)
    sites = {name: Site(config, load_site_config(path)) for name, path in files.items()}
    initial = exchanged_state(config.model.build(seed=0, allowed=server.allow_models, folders={}))
    coordinator = Coordinator(config, sorted(sites), initial, tmp_path / "run", all_parameters=1, server=server)

    def deliver(tasks: list[Broadcast]) -> None:
        for task in tasks:
            for name in task.targets:
                reply = sites[name].answer(task.request, task.tensors)
                if task.request.kind == "train" and name == "south":
                    extra = {key: value for key, value in initial.items() if key.startswith("heads.anaemia.")}
                    reply = Reply(reply.content, {**reply.tensors, **extra})
                coordinator.receive(name, reply)

    record = coordinator.run(deliver)
    assert "extra tensor 'heads.anaemia.0.bias'" in record.rounds[0].refused["south"]
    assert set(record.rounds[0].contributions) == {"north", "west"}


def test_public_only_learns_without_any_site(done, tmp_path: Path) -> None:
    _, files, _, record = done
    alone = run_baseline("public-only", clinics_config(("label=public-only",)), files)
    assert (alone.run.method, alone.sites, alone.rounds) == ("public_only", {}, [])
    assert [item.steps for item in injection_of(alone).rounds] == [item.steps for item in injection_of(record).rounds]
    assert injection_of(alone).test["injected"] != injection_of(record).test["injected"]


def test_a_server_without_data_is_told_so(tmp_path: Path) -> None:
    files = write_clinics(tmp_path / "sites")
    (tmp_path / "sites" / "server" / "data.yaml").unlink()
    config = clinics_config()
    with pytest.raises(
        ConfigError, match=r"server's own public data: name their file .* as data in the server's server.yaml"
    ):
        run_inprocess(config, files, tmp_path / "run", server=own_server(config, files))


def test_the_global_state_is_what_the_digest_says(done) -> None:
    folder, _, _, record = done
    assert state_digest(load_file(folder / "run" / "global-last.safetensors")) == record.final["last"].sha256
