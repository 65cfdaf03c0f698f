"""The doctor's look at a job against the site's limits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from consilia.data.check import DatasetReport
from consilia.data.limits import reached
from consilia.data.site import SiteConfig
from consilia.deploy.doctor.findings import Finding, failed, ok, warning
from consilia.deploy.doctor.job import Job
from consilia.federation.site_ledger import ledger_folder, total
from consilia.federation.site_limits import compared, left, what_to_do

CHECK = "limits"


def check_limits(job: Job, config: SiteConfig, reports: Sequence[DatasetReport]) -> Iterator[Finding]:
    """A finding for every limit that the job would meet; one that says so where there is none.

    Of data with errors the cases are not known: nothing is said then.
    """
    if any(report.errors for report in reports):
        return
    cases = {report.dataset: _cases(report, "train") for report in reports}
    size = job.manifest.model_size.bytes
    refused = [row for row in compared(job.config, config.limits, training_cases=cases, model_bytes=size) if not row.ok]
    for row in refused:
        yield failed(CHECK, str(reached(row.limit, row.asked, row.allowed)), what_to_do(row.limit))
    spent = total(ledger_folder(config.state_dir, job.manifest.digest))
    beyond = {row.limit for row in refused}
    for name, asked, rest in left(job.config, config.limits, spent):
        # A new approval does not help a job that is beyond the limit by itself.
        if asked > rest and name not in beyond:
            text = f"limits.{name}: {job.name} asks {asked}, of this approval {max(rest, 0)} are left"
            yield warning(CHECK, text, "where it is a new run: approve --withdraw, then approve again")
    if not refused:
        yield ok(CHECK, f"{job.name} stays within the limits of site.yaml")


def _cases(report: DatasetReport, part: str) -> int:
    if part in report.masks:
        return report.masks[part].cases
    return sum(report.counts.get(part, {}).values())
