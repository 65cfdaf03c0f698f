"""Runs of methods in a federation whose sites reach the server through a tap, and what the tap has kept of them."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from consilia.data.site import RUNS, load_site_config
from consilia.deploy.release_filter import AUDIT
from consilia.deploy.session import JobSession, open_session
from consilia.federation.config import RunConfig
from consilia.federation.release_manifest import Manifest, read_manifest
from poc.local import ADMIN, LEAD, PROJECT, SERVER, LocalFederation, free_port
from tests.deploy.private_sites import MARK, all_methods, break_table, table_of, write_private_sites
from tests.deploy.support import Run, export, kill_participant, processes_at, until
from tests.deploy.tap import Tap

INSTALLED, CAREFREE = "hospital-1", "hospital-2"
"""The second has our installation taken back at the end, all but the classes and the filter: the test of the tests."""

IN_THE_CLEAR = {"connection_security": "clear"}
REPLY = re.compile(rb'\{"(?:train|round)":')


@dataclass
class Evidence:
    """What every run has sent and left, by site; ``late`` is what was sent after the rest, when sites had errors."""

    root: Path
    sites: dict[str, Path]
    configs: dict[str, RunConfig]
    jobs: dict[str, str]
    manifests: dict[str, Manifest]
    sent: dict[str, bytes]
    received: dict[str, bytes]
    late: dict[str, bytes]
    audits: dict[str, list[dict[str, Any]]]
    connections: dict[str, set[int]]
    taps: dict[str, int]
    words: dict[str, str]
    read: dict[str, str]

    def kept(self, site: str, job: str) -> Path:
        """What a site has kept of a run."""
        return load_site_config(self.sites[site]).state_dir / RUNS / self.configs[job].run_id

    def kit(self, site: str) -> Path:
        """A site's startup kit."""
        return self.root / "federation" / "kits" / site


def gather(root: Path, methods: Sequence[str]) -> Evidence:
    """Run these methods, of which the first takes a table; ends what it has started."""
    sites, runs = write_private_sites(root / "sites"), all_methods()
    configs = {name: runs[name] for name in methods}
    jobs = {name: export(config, root / "jobs", name=name) for name, config in configs.items()}
    with ExitStack() as stack:
        port = free_port()
        taps = {name: stack.enter_context(Tap(port)) for name in sites}
        federation = stack.enter_context(_federation(root / "federation", sites, port, taps))
        federation.provision()
        federation.install(list(jobs.values()))
        federation.start()
        evidence = Evidence(
            root=root,
            sites=sites,
            configs=configs,
            jobs={},
            manifests={name: read_manifest(job)[1] for name, job in jobs.items()},
            **{name: {} for name in ("sent", "received", "late", "audits", "words", "read")},
            connections={name: set() for name in sites},
            taps={name: tap.port for name, tap in taps.items()},
        )
        session = stack.enter_context(open_session(federation.kit(ADMIN)))
        for name, job in jobs.items():
            run = Run(federation, session.submit(job))
            run.wait_for("prepared")
            # Twice: one end of what is just being closed may have gone already. What goes round the tap stays.
            first = {site: _ports_outside(federation, site) for site in sites}
            time.sleep(1)
            for site, ports in evidence.connections.items():
                ports |= first[site] & _ports_outside(federation, site)
            session.flare.show_errors(run.job_id, "client", list(sites))
            run.record()
            evidence.jobs[name] = run.job_id
        _wait_end(session, run)
        for site, tap in taps.items():
            evidence.sent[site], evidence.received[site] = tap.sent(), tap.received()
            evidence.audits[site] = [json.loads(line) for line in (federation.kit(site) / AUDIT).open()]
        _have_errors(federation, session, jobs[methods[0]], taps, evidence)
    return evidence


def _federation(folder: Path, sites: Mapping[str, Path], port: int, taps: Mapping[str, Tap]) -> LocalFederation:
    """TLS would hide from the tap what goes through it, and gRPC cut it up; NVFlare can be provisioned without."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    project = folder.parent / "project.yml"
    project.write_text(PROJECT.read_text().replace("scheme: grpc", "scheme: tcp"))
    properties: dict[str, dict[str, Any]] = dict.fromkeys((SERVER, LEAD, ADMIN), IN_THE_CLEAR)
    for name, tap in taps.items():
        properties[name] = {**IN_THE_CLEAR, "connect_to": {"host": "localhost", "port": tap.port}}
    federation = LocalFederation(folder, sites, port=port, properties=properties, project=project)
    for name in sites:
        federation.environment[name] = {f"{MARK}_VARIABLE": f"{MARK}-value"}
    return federation


def _ports_outside(federation: LocalFederation, site: str) -> set[int]:
    """The ports that a site's processes are connected to, but for the ends that are the site's own."""
    connections = []
    for process in processes_at(federation, site):
        # One of the job before may end meanwhile.
        with suppress(psutil.Error):
            connections += process.net_connections("tcp")
    own = {connection.laddr.port for connection in connections}
    return {connection.raddr.port for connection in connections if connection.raddr} - own


def _wait_end(session: JobSession, run: Run) -> None:
    until(lambda: session.meta(run.job_id)["status"].startswith("FINISHED"), "the end of the job", pause=0.5)


def _have_errors(
    federation: LocalFederation, session: JobSession, job: Path, taps: Mapping[str, Tap], evidence: Evidence
) -> None:
    """Both sites' data break; one of them streams its log and lets administrators read its files, as NVFlare does."""
    _take_back(federation, CAREFREE)
    before, whole = {}, {}
    for site, path in evidence.sites.items():
        whole[site] = table_of(path).read_text()
        evidence.words[site] = break_table(path)
        before[site] = len(taps[site].sent())
    _wait_end(session, Run(federation, session.submit(job)))
    state = str(evidence.sites[CAREFREE].parent).encode()
    until(lambda: state in taps[CAREFREE].sent()[before[CAREFREE] :], "the streamed log")
    for site in evidence.sites:
        try:
            evidence.read[site] = session.flare.cat_target(site, file="local/privacy.json")
        # NVFlare's API has no name for being refused.
        except Exception as error:
            evidence.read[site] = f"refused: {error}"
    for site, tap in taps.items():
        evidence.late[site] = tap.sent()[before[site] :]
        table_of(evidence.sites[site]).write_text(whole[site])


def _take_back(federation: LocalFederation, site: str) -> None:
    """A site as it is without ``consilia site install``, but for the classes that it must have to run a job at all."""
    local = federation.kit(site) / "local"
    resources = json.loads((local / "resources.json").read_text())
    default = json.loads((local / "resources.json.default").read_text())
    allowed = resources["class_allow_list"] + default["class_allow_list"]
    (local / "resources.json").write_text(json.dumps({**default, "class_allow_list": allowed}))
    (local / "authorization.json").unlink()
    kill_participant(federation, site)
    federation.start_one(site)


def replies(sent: bytes) -> list[bytes]:
    """The JSON of every reply in what a site has sent, in order."""
    found = []
    for match in REPLY.finditer(sent):
        text = sent[match.start() : match.start() + 100_000].decode("latin-1")
        _, end = json.JSONDecoder().raw_decode(text)
        found.append(text[:end].encode("latin-1"))
    return found


def after(key: bytes, stream: bytes) -> set[str]:
    """The texts that follow a key in NVFlare's MessagePack."""
    found = set()
    for match in re.finditer(re.escape(key), stream):
        at = match.end()
        length, start = (stream[at + 1], at + 2) if stream[at] == 0xD9 else (stream[at] & 31, at + 1)
        if stream[at] == 0xD9 or stream[at] >> 5 == 0b101:
            found.add(stream[start : start + length].decode())
    return found
