"""The doctor's look at local/, through NVFlare's parsers: what may a job build, what can leave, who may do what."""

from __future__ import annotations

from collections.abc import Iterator

from nvflare.fuel.sec.authz import AuthzContext, Person, Policy, parse_policy_config
from nvflare.security.security import COMMAND_CATEGORIES, CommandCategory

from consilia.core.errors import ConfigError
from consilia.deploy.doctor.findings import Finding, failed, ok, warning
from consilia.deploy.install.plan import AUTHORIZATION, COMMUNICATION, PRIVACY, RESOURCES, in_force, read_policy
from consilia.deploy.install.policies import (
    CODE,
    LAUNCHERS,
    LOG_LINES,
    MESSAGE_GUARD,
    OUTCOME_WAIT,
    SUBMISSION_GUARD,
    Json,
    covers,
    doors,
    has_component,
    has_mutual_tls,
    is_our_filter,
)
from consilia.deploy.kit import Kit
from consilia.flare.nvflare_internals import advertised_keys, enforces_allow_list, has_default_scope
from consilia.flare.recipe import ALLOWED_CLASSES

INSTALL = "run: consilia site install --kit {kit}"
ADVERTISED = {"allow_log_streaming"}
SHOWN = 2
"""So many entries of an allow-list are named that open the same way out."""
_REACHING_IN = {
    CommandCategory.SHELL_COMMANDS: "read files here",
    CommandCategory.OPERATE: "stop this site, or ask what machine it is",
}


def check_policies(kit: Kit) -> Iterator[Finding]:
    """Allow-list, log streaming, filter of what leaves, rights; of the server allow-list, guard, who may follow a job.

    Raises:
        ConfigError: a file cannot be read.
    """
    resources = read_policy(in_force(kit, RESOURCES))
    yield from check_allow_list(kit, resources)
    if kit.kind == "client":
        yield check_streaming(kit, resources)
        yield from check_advertised(resources)
        yield check_filter(kit)
    else:
        yield check_guard(kit, resources)
        yield check_outcome_wait(kit, resources)
    yield check_launcher(kit, resources)
    yield check_messages(kit, resources)
    yield check_processes(kit)
    yield from check_rights(kit)


def check_allow_list(kit: Kit, resources: Json) -> Iterator[Finding]:
    """Our classes by their whole names, nothing so short that it covers them, nothing that opens another way out."""
    check = "allow-list"
    listed = resources.get("class_allow_list", [])
    try:
        enforced = enforces_allow_list(resources)
    except Exception as error:  # NVFlare's own class of errors for what it refuses to read
        yield failed(check, f"NVFlare cannot read class_allow_list: {error}", "correct it in resources.json")
        return
    missing = [path for path in ALLOWED_CLASSES if path not in listed]
    short = [entry for entry in listed if any(entry != path and covers(entry, path) for path in ALLOWED_CLASSES)]
    if missing:
        yield failed(check, f"a job of Consilia cannot run, not listed: {', '.join(missing)}", _install(kit))
    if short:
        yield failed(check, f"entries that allow more than they name: {short}", "write whole class names instead")
    if not enforced:
        yield failed(check, "class_list_enforcement_mode is 'warn': the list forbids nothing", "set it to 'enforce'")
    ways = {} if kit.kind == "server" else {key: text for key, text in doors(listed).items() if key not in short}
    for reason in dict.fromkeys(ways.values()):
        named = [entry for entry, text in ways.items() if text == reason]
        todo = _install(kit) if missing else "take it out of class_allow_list"
        yield failed(check, f"{_some(named)}: {reason}", todo)
    others = [entry for entry in listed if entry not in (*ALLOWED_CLASSES, *short, *ways)]
    if others and kit.kind == "client":
        text = f"{_some(others)}: a job may have these built, and Consilia knows nothing of them"
        yield warning(check, text, "read what they send, or take them out: no job of Consilia needs them")
    if not (missing or short or ways or others) and enforced:
        yield ok(check, f"{len(ALLOWED_CLASSES)} classes of Consilia, {len(others)} others")


def _some(entries: list[str]) -> str:
    more = f" and {len(entries) - SHOWN} more" if len(entries) > SHOWN else ""
    return f"{', '.join(entries[:SHOWN])}{more}"


def check_streaming(kit: Kit, resources: Json) -> Finding:
    """NVFlare streams a job's error log to the server unless the site says no."""
    if resources.get("allow_log_streaming", True) is False:
        return ok("log streaming", "off: no log leaves this site")
    return failed("log streaming", "logs of jobs are streamed to the server", _install(kit))


def check_advertised(resources: Json) -> Iterator[Finding]:
    """Top-level keys of resources.json that NVFlare sends to the server when the site registers."""
    advertised = sorted(advertised_keys(resources) - ADVERTISED)
    if advertised:
        yield warning(
            "registration",
            f"resources.json has keys of your own, which NVFlare sends to the server with their values: {advertised}",
            "keep nothing there that must not leave, no path of data for one",
        )


def check_guard(kit: Kit, resources: Json) -> Finding:
    """NVFlare's server believes a submitter's ``job_id``, by which sites delete folders of their kits."""
    check = "submissions"
    if has_component(resources, SUBMISSION_GUARD):
        return ok(check, "guarded: who submits a job cannot choose its id, nor whose it is")
    return failed(check, "a forged job_id can delete the sites' local/ folders", _install(kit))


def check_messages(kit: Kit, resources: Json) -> Finding:
    """NVFlare's processes handle a message whoever sent it."""
    check, path = "messages", kit.local / PRIVACY
    places = {RESOURCES: resources}
    if kit.kind == "client":
        # The components of its jobs' processes.
        places[PRIVACY] = read_policy(path) if path.is_file() else {}
    missing = [name for name, content in places.items() if not has_component(content, MESSAGE_GUARD)]
    if not missing:
        return ok(check, "guarded: nobody else's processes give commands here, or are handed on")
    text = f"no guard in {', '.join(missing)}: any participant can have commands carried out, and read files, at a site"
    return failed(check, text, _install(kit))


def check_processes(kit: Kit) -> Finding:
    """Whether a participant's processes ask each other for a certificate: NVFlare's own default is to trust anybody."""
    check, path = "own processes", kit.local / COMMUNICATION
    if has_mutual_tls(read_policy(path) if path.is_file() else {}):
        return ok(check, "talk to each other by mutual TLS")
    text = "every user of this machine can give commands to NVFlare's process, as if they came from the server"
    return failed(check, text, _install(kit))


def check_launcher(kit: Kit, resources: Json) -> Finding:
    """NVFlare ends a whole job when one process of it was killed."""
    check = "job processes"
    if any(has_component(resources, path) for path in LAUNCHERS.values()):
        return ok(check, "one that was killed is started again, up to 3 times")
    if any(has_component(resources, path) for path in LAUNCHERS):
        return failed(check, "where one is killed, for want of memory say, NVFlare ends the whole job", _install(kit))
    text = "NVFlare's own process launcher is not in use: where one is killed, NVFlare ends the whole job"
    return warning(check, text, "let Docker, Kubernetes or Slurm start it again")


def check_outcome_wait(kit: Kit, resources: Json) -> Finding:
    """NVFlare's server waits a quarter of an hour for the last word of a site that has vanished."""
    check = "closing of jobs"
    if has_component(resources, OUTCOME_WAIT):
        return ok(check, "a site that has vanished does not hold up the end of a job")
    return failed(check, "after a job whose site has vanished the server waits 15 minutes for it", _install(kit))


def check_filter(kit: Kit) -> Finding:
    """Our filter, first in every scope, and a file that NVFlare can read."""
    check, path = "filter of what leaves", kit.local / PRIVACY
    if not path.is_file():
        return failed(check, f"there is no {path}: whatever a job sends leaves this site", _install(kit))
    scopes = read_policy(path).get("scopes")
    if not isinstance(scopes, list) or not scopes or not all(isinstance(scope, dict) for scope in scopes):
        return failed(check, f"{PRIVACY} has no scopes: no filter applies", _install(kit))
    try:
        default_scope = has_default_scope(kit.folder, kit.name)
    except Exception as error:  # a class of the site's own that cannot be built may raise anything
        return failed(check, f"NVFlare cannot read {path}: {type(error).__name__}: {error}", "correct it")
    bad = [scope.get("name") for scope in scopes if not _filtered(scope)]
    if bad:
        return failed(check, f"{PRIVACY}: not the first result filter in scopes {bad}", _install(kit))
    if not default_scope:
        return warning(check, f"{PRIVACY} has no default_scope: jobs that name no scope are refused", "name one")
    return ok(check, f"first in {len(scopes)} scope(s), whatever scope a job names")


def _filtered(scope: Json) -> bool:
    filters = scope.get("task_result_filters") or [{}]
    return is_our_filter(filters[0]) and str(filters[0].get("direction") or "out").lower() != "in"


def check_rights(kit: Kit) -> Iterator[Finding]:
    """Who from outside may operate this site, read its files or bring code; at the server, who may follow a job."""
    check, path = "rights", in_force(kit, AUTHORIZATION)
    policy, error = parse_policy_config(read_policy(path), COMMAND_CATEGORIES)
    if error:
        yield failed(check, f"NVFlare cannot read {path}: {error}", "correct it: NVFlare does not start with it")
    elif kit.kind == "server":
        yield _followers(kit, policy)
    else:
        yield from _reaching_in(kit, policy)


def _followers(kit: Kit, policy: Policy) -> Finding:
    lost = [
        role for role in policy.get_roles() if _strangers(policy, role, "submit_job") and not _follows(policy, role)
    ]
    if lost:
        return warning("rights", f"{lost} may submit jobs, but not follow their rounds", _install(kit))
    return ok("rights", "who submits a job may follow it")


def _reaching_in(kit: Kit, policy: Policy) -> Iterator[Finding]:
    good = True
    # A right to a single command outdoes that to its category.
    reaching = {
        text: [command for command, found in COMMAND_CATEGORIES.items() if found == category]
        for category, text in _REACHING_IN.items()
    }
    for text, commands in {**reaching, "see the latest errors of a running job's log": [LOG_LINES]}.items():
        roles = [role for role in policy.get_roles() if any(_strangers(policy, role, right) for right in commands)]
        if roles:
            good = False
            yield failed("rights", f"{roles} of other organisations may {text}", _install(kit))
    roles = [role for role in policy.get_roles() if any(_strangers(policy, role, right) for right in CODE)]
    if roles:
        text = f"jobs of {roles} may bring code (BYOC): no allow-list and no filter binds code"
        yield failed("rights", text, _install(kit))
    elif good:
        yield ok("rights", "nobody from outside operates this site, reads its files or logs, or brings code")


def _strangers(policy: Policy, role: str, right: str) -> bool:
    """Whether somebody of an organisation that the policy does not name has a right."""
    allowed, _ = policy.evaluate("this-site", AuthzContext(right, Person("stranger", "another-organisation", role)))
    return bool(allowed)


def _follows(policy: Policy, role: str) -> bool:
    person = Person("submitter", "another-organisation", role)
    allowed, _ = policy.evaluate("server", AuthzContext("app_command", person, person))
    return bool(allowed)


def _install(kit: Kit) -> str:
    return INSTALL.format(kit=kit.folder)


def readable(kit: Kit) -> Iterator[Finding]:
    """The checks of this module; a file that cannot be read is a finding, too."""
    try:
        yield from check_policies(kit)
    except ConfigError as error:
        yield failed("local/", str(error), "correct the file, or take the default that came with the kit")
