"""A whole federation on this machine, from provisioning to the report, by the commands of docs/deploy.md.

Everything lies in one folder, which is made anew each time; nothing is left running.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from consilia.federation.outputs import REPORT
from consilia.study.study import load_study, study_sites
from poc.local import LEAD, LocalFederation, claim, is_own, tool

ROOT = Path(__file__).parents[1]
METHODS = {
    "fedavg": ("fedavg-wisconsin", "wisconsin"),
    "fedprox": ("fedprox-wisconsin", "wisconsin"),
    "fedkper": ("fedkper-wisconsin", "wisconsin"),
    "fedgpl": ("fedgpl-classification", "fedgpl-classification"),
    "fedgpl-segmentation": ("fedgpl-segmentation", "fedgpl-segmentation"),
    "fedkim": ("fedkim", "fedkim"),
}
"""The job of each method, and the study that has its data."""


def run(*command: str) -> None:
    """Show a command and carry it out."""
    shown = [Path(command[0]).name, *command[1:]]
    print(f"\n$ {shlex.join(shown)}", flush=True)
    # The startup scripts take python3 from the path, and the doctor looks for it there.
    beside = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run(command, check=True, env={**os.environ, **beside})


def main() -> int:
    """Carry out the steps."""
    arguments = argparse.ArgumentParser(prog="python -m poc", description=__doc__.splitlines()[0])
    arguments.add_argument("--method", choices=sorted(METHODS), default="fedkper")
    arguments.add_argument("--out", type=Path, default=Path("runs/federation"), help="made anew")
    chosen = arguments.parse_args()
    job_name, study = METHODS[chosen.method]
    job, out = ROOT / "jobs" / job_name, chosen.out
    if out.exists() and not is_own(out):
        arguments.error(f"{out} exists and was not made by this command: nothing is deleted, choose another --out")
    shutil.rmtree(out, ignore_errors=True)
    claim(out)
    # A stopped terminal or service must end the federation too, as Ctrl-C does.
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, signal.default_int_handler)
    sites = study_sites(load_study(study), out / "sites")
    with LocalFederation(out, sites) as federation:
        print(f"Provisioning a server, {len(sites)} sites and their administrators in {out}")
        federation.provision()
        consilia = tool("consilia")
        first, *others = federation.sites
        kit = str(federation.kit(first))
        run(consilia, "site", "install", "--kit", kit, "--config", str(federation.sites[first]))
        run(consilia, "site", "approve", str(job), "--kit", kit)
        print(f"\nThe same at {', '.join(others)}, and the installation at the server")
        federation.install([job], but=[first])
        print("\nStarting the server and the sites")
        federation.start()
        run(consilia, "site", "doctor", "--kit", kit, "--job", str(job))
        result = out / "result"
        run(consilia, "submit", str(job), "--kit", str(federation.kit(LEAD)), "--follow", "--download", str(result))
        print("\nStopping everything")
    reports = sorted(result.rglob(REPORT))
    print(f"The report: {reports[-1] if reports else result}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
