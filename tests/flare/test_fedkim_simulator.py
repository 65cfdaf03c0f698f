"""FedKIM in NVFlare's simulator: the controller injects, and the bytes are those of the plain loop."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from consilia.core.determinism import state_digest
from consilia.federation.inprocess import run_inprocess
from consilia.federation.server_settings import own_server
from consilia.flare.simulator import run_simulator
from consilia.methods.fedkim.section import injection_of
from tests.federation.clinics import clinics_config, write_clinics


@pytest.mark.sim
@pytest.mark.long
def test_the_simulator_gives_the_same_extractor_and_the_same_injected_model(tmp_path: Path) -> None:
    config = clinics_config(("method.evaluation.few_shot=[]",))
    records = {}
    for name, engine in (("sim", run_simulator), ("inprocess", run_inprocess)):
        files = write_clinics(tmp_path / name / "sites")
        records[name] = engine(config, files, tmp_path / name / "run", server=own_server(config, files))
    assert records["sim"].run.engine == "sim"
    assert records["sim"].final["last"].sha256 == records["inprocess"].final["last"].sha256
    assert injection_of(records["sim"]).test == injection_of(records["inprocess"]).test
    for file in ("adapter_model.safetensors", "injected.safetensors"):
        digests = {state_digest(load_file(tmp_path / name / "run" / "injected" / file)) for name in records}
        assert len(digests) == 1
