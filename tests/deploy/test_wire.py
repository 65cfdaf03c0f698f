"""What leaves a site, as seen on the wire: every channel of a federation goes through a tap, for every method."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import msgpack
import numpy as np
import pytest
import torch
from nvflare.fuel.hci.proto import ReplyKeyword
from safetensors.torch import load_file
from torch import Tensor

from consilia import models
from consilia.core.determinism import state_digest
from consilia.data.loading import load_site
from consilia.federation.config import RunConfig
from consilia.federation.outputs import SAVED
from consilia.federation.run_folder import RESULT
from consilia.flare.ready import TOPIC as READY
from consilia.methods import Method
from consilia.methods.registry import make_method
from consilia.models.exchange import exchanged_state
from consilia.record.files import load_record
from poc.local import SERVER
from tests.deploy.private_sites import MARK, ROWS, write_private_sites
from tests.deploy.support import hashes, in_process
from tests.deploy.wire import CAREFREE, INSTALLED, Evidence, after, gather, replies
from tests.federation.support import model_of

pytestmark = pytest.mark.deploy

SITES = tuple(ROWS)
SLICE = 32

CHANNELS = {
    "task": "registration, heartbeats, the end of a job's process",
    "cellnet.channel": "good-bye of a process",
    "admin": "answers to the server: resources are free, the job is deployed, its process started",
    "sm__STREAM": "the streams below",
}
TOPICS = {
    *("challenge", "register", "heart_beat", "report_job_failure", "train.notify_job_status", "bye", "admin"),
    # The last: a message has come for a process of the site that has just ended, or is not up yet.
    *("sm__DATA", "sm__ACK", "sm__ERROR"),
}
STREAMS = {
    "server_command": "asks for a task, hands in its result",
    "aux_communication": "is the task still wanted, is the job still running, the first meeting",
    "download_service__": "the server fetches a result's tensors",
    "return_only": "receipts",
}
STREAM_TOPICS = {
    *("get_task", "submit_update", "__job_heartbeat__", "__task_check__", "__sync_runner__"),
    *("download_service__download", "download_service__:download_service__download"),
    # The server's, in what a site says of a message for a process that is not there.
    READY,
}


@pytest.fixture(
    scope="module",
    # A plain model, a frozen backbone, and a model that only the server has; the other methods send the like of these.
    params=[
        pytest.param(("fedkper", "fedgpl-classification", "fedkim"), id="one-of-each-kind"),
        pytest.param(
            ("fedavg", "fedprox", "scaffold", "fedcurv", "fedgpl-segmentation"), id="the-others", marks=pytest.mark.long
        ),
    ],
)
def seen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    return gather(tmp_path_factory.mktemp("wire"), request.param)


@pytest.mark.parametrize("site", SITES)
def test_the_tap_sees_every_update(seen: Evidence, site: str) -> None:
    """Else the other tests would find nothing because they see nothing."""
    for job in seen.jobs:
        update = load_file(seen.kept(site, job) / "personal-round.safetensors")
        assert set(update) <= set(seen.manifests[job].tensors)
        for name, tensor in update.items():
            assert name.encode() in seen.sent[site]
            assert tensor.numpy().tobytes() in seen.sent[site]


def test_every_method_gives_the_bytes_of_the_plain_loop(seen: Evidence, tmp_path: Path) -> None:
    for job in seen.jobs:
        loop = tmp_path / job
        expected = in_process(seen.configs[job], write_private_sites(tmp_path / f"{job}-sites"), loop)
        folder = seen.kit(SERVER) / "consilia" / seen.jobs[job]
        assert hashes(load_record(folder / RESULT)) == hashes(expected), job
        injected = [path.name for path in (loop / SAVED).glob("*.safetensors")]
        assert (len(injected) == 2) == (job == "fedkim"), job
        for name in injected:
            here, there = (load_file(place / SAVED / name) for place in (folder, loop))
            assert state_digest(here) == state_digest(there)


@pytest.mark.parametrize("site", SITES)
def test_no_connection_goes_round_the_tap(seen: Evidence, site: str) -> None:
    assert seen.connections[site] == {seen.taps[site]}


@pytest.mark.parametrize("site", SITES)
def test_every_channel_is_a_known_one(seen: Evidence, site: str) -> None:
    sent = seen.sent[site] + (seen.late[site] if site == INSTALLED else b"")
    # Some come about now and then only.
    for key, known in (
        (b"cn__channel", CHANNELS),
        (b"cn__topic", TOPICS),
        (b"sm__ch", STREAMS),
        (b"sm__tp", STREAM_TOPICS),
    ):
        assert after(key, sent) <= set(known)
    assert {"register", "heart_beat"} <= after(b"cn__topic", sent)
    assert {"get_task", "submit_update"} <= after(b"sm__tp", sent)


@pytest.mark.parametrize("site", SITES)
def test_of_the_sites_settings_only_the_log_switch_is_told(seen: Evidence, site: str) -> None:
    told = seen.sent[site].count(b"site_config")
    # A MessagePack map of one entry: {"allow_log_streaming": False}.
    assert told == seen.sent[site].count(b"\xabsite_config\x81\xb3allow_log_streaming\xc2") == 1


def beside(config: RunConfig) -> dict[str, torch.Tensor]:
    """Tensors of the layout that a method sends beside the model's own."""
    method = make_method(config.method)
    if type(method).extras is Method.extras:
        return {}
    return {name: torch.zeros(spec.shape, dtype=spec.dtype) for name, spec in method.extras(model_of(config)).items()}


@pytest.mark.parametrize("site", SITES)
def test_every_reply_is_approved_and_written_down(seen: Evidence, site: str) -> None:
    texts, lines = replies(seen.sent[site]), seen.audits[site]
    assert len(texts) == len(lines) == seen.sent[site].count(b"__audit_event_id__")
    for job, number in seen.jobs.items():
        update = load_file(seen.kept(site, job) / "personal-round.safetensors")
        mine = [(text, line) for text, line in zip(texts, lines, strict=True) if line["job"] == number]
        for text, line in mine:
            tensors = {**update, **beside(seen.configs[job])} if line["task"] == "train" else {}
            told = seen.manifests[job].check(line["task"], text.decode(), tensors, "")
            assert line["sent"]
            assert line["fields"] == list(told)
            assert line["tensors"] == len(tensors)
            assert line["bytes"] == len(text) + sum(tensor.nbytes for tensor in tensors.values())
        tasks = {line["task"] for _, line in mine}
        # The last model of two classes is evaluated once more, for the threshold of its final evaluation.
        asked = {"fedkim": {"evaluate"}, "fedgpl-segmentation": {"personalize"}}.get(job, {"evaluate", "personalize"})
        assert tasks == {"prepare", "train", *asked}


@pytest.mark.parametrize("site", SITES)
def test_the_personal_model_stays(seen: Evidence, site: str) -> None:
    for job in [name for name in seen.jobs if name != "fedkim"]:
        private = []
        for path in seen.kept(site, job).glob("personal-[lb]*.safetensors"):
            private += [part for tensor in load_file(path).values() for part in slices(tensor.numpy().tobytes())]
        # What personalising left as it was is in the global model.
        known = set(present(private, seen.received[site]))
        private = [part for part in private if part not in known]
        assert len(private) > 5, job
        assert present(private, seen.sent[site]) == [], job


def frozen(job: str, config: RunConfig) -> dict[str, Tensor]:
    """The tensors of a run that are not trained: Fed-GPL's backbones, and FedKIM's language model at the server."""
    if job == "fedkim":
        return load_file(Path(models.__file__).parent / "embedded" / "consilia-lm" / "model.safetensors")
    model = config.model.build(seed=config.seed, allowed=(config.model.class_,), folders={})
    return {name: tensor for name, tensor in model.state_dict().items() if name not in exchanged_state(model)}


def test_what_is_frozen_does_not_travel(seen: Evidence) -> None:
    found = {job: frozen(job, seen.configs[job]) for job in seen.jobs}
    assert [job for job in found if found[job]] == [job for job in found if job.startswith(("fedgpl-", "fedkim"))]
    for kept in filter(None, found.values()):
        parts = [part for tensor in kept.values() for part in slices(tensor.numpy().tobytes())]
        assert len(parts) > 10_000
        for site in SITES:
            assert present(parts, seen.sent[site] + seen.received[site]) == []


@pytest.mark.parametrize("site", SITES)
def test_no_name_path_or_variable_of_the_site_leaves(seen: Evidence, site: str) -> None:
    sent = seen.sent[site] + (seen.late[site] if site == INSTALLED else b"")
    for secret in (MARK, str(seen.root), "errors.log", "site.yaml"):
        for form in forms(secret):
            assert form not in sent


@pytest.mark.parametrize("site", SITES)
def test_no_part_of_a_file_of_the_site_leaves(seen: Evidence, site: str) -> None:
    """Its data, what it keeps of the runs, its settings and its key; not what it keeps of an update, which is sent."""
    folder, kit = seen.sites[site].parent, seen.kit(site)
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != "personal-round.safetensors"]
    # After its first round, a control variate and Fisher information are the very changes that were sent.
    sent = [seen.kept(site, job) for job in seen.jobs if beside(seen.configs[job])]
    paths = [path for path in paths if not (path.parent in sent and path.name.startswith("client-"))]
    parts: set[bytes] = set()
    for path in [*paths, kit / "local" / "site.yaml", kit / "startup" / "client.key"]:
        tensors = load_file(path).values() if path.suffix == ".safetensors" else ()
        whole = [tensor.numpy().tobytes() for tensor in tensors] or [path.read_bytes()]
        parts |= {part for blob in whole for part in slices(blob)}
    # What the server has sent is no secret of the site's: the run's configuration, the global model. Half of an RSA
    # key is public, and in the certificate.
    public = seen.received[site] + (kit / "startup" / "client.crt").read_bytes()
    parts -= set(present(sorted(parts), public))
    assert len(parts) > 10_000
    assert present(sorted(parts), seen.sent[site]) == []


@pytest.mark.parametrize("site", SITES)
def test_no_label_count_leaves(seen: Evidence, site: str) -> None:
    data = load_site(seen.sites[site], "diagnosis")
    counts = {name: torch.bincount(data.split(name).labels).tolist() for name in ("train", "validation", "test")}
    assert tuple(map(sum, zip(*counts.values(), strict=True))) == ROWS[site]
    for pair in (ROWS[site], *counts.values()):
        for form in pair_forms(*pair):
            assert form not in seen.sent[site]


@pytest.mark.parametrize("site", SITES)
def test_class_sizes_can_be_worked_out_from_the_metrics(seen: Evidence, site: str) -> None:
    """The limit of the test before: exact metrics tell the sizes of two classes, but for which is which."""
    trained = next(json.loads(text) for text in replies(seen.sent[site]) if b'"trained":' in text)
    metrics = trained["received"]["test"]
    cases, right = metrics["count"], metrics["correct"]
    sizes = {
        first
        for first in range(1, cases)
        for hits in range(max(0, right - cases + first), min(first, right) + 1)
        if abs((hits / first + (right - hits) / (cases - first)) / 2 - metrics["balanced_accuracy"]) < 1e-12
    }
    labels = load_site(seen.sites[site], "diagnosis").test.labels
    assert sizes == set(torch.bincount(labels).tolist())


@pytest.mark.parametrize("site", SITES)
def test_of_an_error_only_its_kind_leaves(seen: Evidence, site: str) -> None:
    state = seen.sites[site].parent / f"{MARK}-state"
    assert seen.words[site] in (state / "errors.log").read_text()
    assert seen.words[site].encode() not in seen.late[site]
    assert b"consilia_error\xa9DataError" in seen.late[site]


def test_an_installed_site_streams_no_log_and_shows_no_file(seen: Evidence) -> None:
    """The other one shows that the tap would have seen it."""
    log = b"task prepare failed with DataError"
    assert log in seen.late[CAREFREE]
    assert log not in seen.late[INSTALLED]
    settings = (seen.kit(CAREFREE) / "local" / "privacy.json").read_text()[:60]
    assert {place.name for place in (seen.kit(SERVER) / "storage" / "logs").glob("*/*")} == {CAREFREE}
    assert settings.encode() in seen.late[CAREFREE]
    assert settings in seen.read[CAREFREE]
    assert MARK.encode() not in seen.late[INSTALLED]
    assert seen.read[INSTALLED] == "refused by the site's guard of messages: this command is never carried out"
    assert "ObjectStreamer.Request" in after(b"sm__tp", seen.late[CAREFREE])
    # The latest errors of a running job were asked for, too, when both had the installation.
    assert all(ReplyKeyword.NOT_AUTHORIZED.encode() in sent for sent in seen.sent.values())


def slices(content: bytes) -> list[bytes]:
    """Aligned slices that do not look alike by chance, as rows of zeros do."""
    cut = [content[at : at + SLICE] for at in range(0, len(content) - SLICE + 1, SLICE)]
    return [part for part in cut if len(set(part)) > SLICE // 3]


def present(parts: list[bytes], stream: bytes) -> list[bytes]:
    """The parts that occur in a stream, wherever; looked up by their first eight bytes, as a plain search is slow."""
    heads = np.array([int.from_bytes(part[:8], "little") for part in parts], dtype=np.uint64)
    # Most words fall out by their first three bytes already.
    three, known = np.uint64(0xFFFFFF), np.zeros(1 << 24, dtype=bool)
    known[heads & three] = True
    there: set[bytes] = set()
    for shift in range(8):
        words = np.frombuffer(stream, "<u8", (len(stream) - shift) // 8, shift)
        likely = np.flatnonzero(known[words & three])
        starts = shift + 8 * likely[np.isin(words[likely], heads)]
        there |= {stream[start : start + SLICE] for start in starts.tolist()}
    return [part for part in parts if part in there]


def forms(text: str) -> list[bytes]:
    """A text as bytes, in every way that would still tell it."""
    plain = text.encode()
    # Where the text begins within a group of three bytes; what its neighbours decide is cut off.
    turned = [
        base64.b64encode(b" " * shift + plain)[4 * (shift > 0) : (len(plain) + shift) // 3 * 4] for shift in range(3)
    ]
    return [plain, plain.upper(), plain.lower(), text.encode("utf-16-le"), plain.hex().encode(), *turned]


def pair_forms(first: int, second: int) -> list[bytes]:
    """A list of two numbers as JSON and MessagePack write it, and as arrays of the usual types."""
    texts = [f"[{first},{second}]", f"[{first}, {second}]", f"[{first}.0,{second}.0]", f"[{first}.0, {second}.0]"]
    arrays = [np.array([first, second], kind).tobytes() for kind in ("<i8", "<i4", "<f8", "<f4")]
    found = [*(text.encode() for text in texts), msgpack.packb([first, second]), *arrays]
    # Fewer bytes come about by chance.
    return [form for form in found if len(form) > 4]
