"""What Consilia needs in the policies of a kit's local/ folder, merged into what the site has. Pure: dictionaries only.

One rule runs through it: a site's only way out is the result of a task, past the site's own filter.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from nvflare.security.security import COMMAND_CATEGORIES, CommandCategory

from consilia.core.errors import ConfigError
from consilia.flare.recipe import ALLOWED_CLASSES

Json = dict[str, Any]
Merged = tuple[Json, list[str]]
"""The new content of a policy, and what the participant should know."""

RELEASE_FILTER = "consilia.deploy.release_filter.ReleaseFilter"
SUBMISSION_GUARD = "consilia.deploy.guard.SubmissionGuard"
MESSAGE_GUARD = "consilia.deploy.message_guard.MessageGuard"
OUTCOME_WAIT = "consilia.deploy.outcome_wait.OutcomeWait"
GUARDS = {"client": (MESSAGE_GUARD,), "server": (MESSAGE_GUARD, SUBMISSION_GUARD, OUTCOME_WAIT)}
"""Components of Consilia that every site, and the server, has in its resources.json."""
_NVFLARES = "nvflare.app_common.job_launcher."
LAUNCHERS = {
    f"{_NVFLARES}client_process_launcher.ClientProcessJobLauncher": "consilia.deploy.launcher.SiteLauncher",
    f"{_NVFLARES}server_process_launcher.ServerProcessJobLauncher": "consilia.deploy.launcher.ServerLauncher",
}
"""What starts the processes of jobs: NVFlare's, and ours in its place, which starts one that was killed again. Another
one of NVFlare's (Docker, Kubernetes, Slurm) stays."""
LOG_STREAMER = "nvflare.app_common.logging.site_log_streamer.SiteLogStreamer"
LOG_RECEIVER = "nvflare.app_common.logging.job_log_receiver.JobLogReceiver"
_OWN_FILTER = "a job's own result filter runs after the site's and changes what it let through"
_OWN_MESSAGES = "such a job sends its own messages, not the results of tasks"
_COMMAND = "runs a command that the job names, which no filter binds"
DOORS = {
    "nvflare.app_common.filters.": _OWN_FILTER,
    "nvflare.app_opt.he.": _OWN_FILTER,
    "nvflare.app_opt.pt.quantization.": _OWN_FILTER,
    "nvflare.app_common.logging.": "streams the job's log to the server",
    "nvflare.app_common.widgets.convert_to_fed_event.": "sends events of the job, log lines among them, to the server",
    "nvflare.app_opt.tracking.": "sends what a job tracks to the server",
    "nvflare.app_common.ccwf.": "the sites of such a job send models to each other, not to the filter",
    "nvflare.app_opt.xgboost.": _OWN_MESSAGES,
    "nvflare.app_opt.p2p.": _OWN_MESSAGES,
    "nvflare.app_opt.flower.": _OWN_MESSAGES,
    "nvflare.app_opt.tensor_stream.": _OWN_MESSAGES,
    "nvflare.app_common.streamers.": _OWN_MESSAGES,
    "nvflare.app_common.tie.": _OWN_MESSAGES,
    "nvflare.app_common.widgets.metric_relay.": _OWN_MESSAGES,
    "nvflare.app_common.executors.client_api_executor.": _COMMAND,
    "nvflare.app_common.executors.multi_process_executor.": _COMMAND,
}
"""Classes of NVFlare by which a job could send something, or change it, past the site's filter; by their package. They
are those that were found by reading: of any other class nothing is known."""

RIGHTS = (
    "submit_job",
    "clone_job",
    "manage_job",
    "download_job",
    "view",
    "operate",
    "shell_commands",
    "byoc",
    "server-predeployed-flwr",
    "report_version",
)
"""The rights that NVFlare asks a site for, by category where they have one; ``any`` for a role means all of these."""

OWN_PEOPLE = "o:site"
CODE = ("byoc", "server-predeployed-flwr")
LOG_LINES = "show_errors"
"""NVFlare's command that shows a running job's latest errors, the site's paths among them, to whoever has ``view``."""
_SITE_ONLY = (CommandCategory.OPERATE, CommandCategory.SHELL_COMMANDS)
_STORES = {"jobs": ("job_manager", "uri_root"), "snapshots": ("snapshot_persistor", "root_dir")}


def covers(entry: str, path: str) -> bool:
    """Whether an entry of an allow-list lets ``path`` (a class, or a package with its last dot) or some of it be built.

    NVFlare takes an entry as a whole name or as the beginning of one, up to a dot.
    """
    start = entry if entry.endswith(".") else f"{entry}."
    return entry in ("*", path) or path.startswith(start) or (path.endswith(".") and entry.startswith(path))


def doors(entries: list[str]) -> dict[str, str]:
    """The entries of an allow-list that open a way past the site's filter, each with what goes out there."""
    found = {}
    for entry in entries:
        reasons = [reason for package, reason in DOORS.items() if covers(entry, package)]
        if reasons:
            found[entry] = reasons[0] if len(reasons) == 1 else "so short an entry lets every class below it be built"
    return found


def merged_resources(before: Json, *, own: bool) -> Merged:
    """A site's resources.json: our classes allowed, messages guarded, log streaming off.

    NVFlare's default list is replaced, since a job of ours needs no class of it and some open another way out; what a
    site has listed itself stays.

    Args:
        before: the site's own file, or NVFlare's default.
        own: it is the site's own file.
    """
    after, notes = _with_classes(before, own)
    after["allow_log_streaming"] = False
    if "components" in after:
        after["components"] = [item for item in _listed(after, "components") if not _is(item, LOG_STREAMER)]
    _add_guards(after, "client")
    _replace_launcher(after)
    for entry, reason in doors(after["class_allow_list"]).items():
        notes.append(f"class_allow_list holds {entry!r} of your own: {reason}. Take it out")
    return after, notes


def merged_server_resources(before: Json, default: Json, storage: Path, *, own: bool) -> Merged:
    """The server's resources.json: our classes allowed, messages and submissions guarded, and jobs kept in ``storage``.

    NVFlare's default keeps them in a place that all servers of a machine share, and puts the logs of sites that stream
    theirs where every user of the machine can read them.

    Args:
        before: the server's own file, or NVFlare's default.
        default: NVFlare's default, whose folders all servers of one machine share.
        storage: a folder of this kit.
        own: ``before`` is the server's own file.
    """
    after, notes = _with_classes(before, own)
    for name, (owner, key) in _STORES.items():
        place, usual = _arguments(after, owner), _arguments(default, owner).get(key)
        if usual is not None and place.get(key) == usual:
            place[key] = str(storage / name)
            if Path(usual).is_dir() and any(Path(usual).iterdir()):
                notes.append(f"{name} were kept in {usual}, which is not empty: they stay there")
    for item in _listed(after, "components", ()):
        if _is(item, LOG_RECEIVER):
            item["args"] = {"dest_dir": str(storage / "logs"), **item.get("args", {})}
    _add_guards(after, "server")
    _replace_launcher(after)
    return after, notes


def has_component(resources: Json, path: str) -> bool:
    """Whether a participant's resources.json has a component of that class."""
    return any(_is(item, path) for item in _listed(resources, "components", ()))


def _add_guards(resources: Json, kind: str) -> None:
    missing = [path for path in GUARDS[kind] if not has_component(resources, path)]
    if missing:
        added = [{"id": f"consilia_{path.rpartition('.')[2]}", "path": path} for path in missing]
        resources["components"] = [*_listed(resources, "components", ()), *added]


def _replace_launcher(resources: Json) -> None:
    for item in _listed(resources, "components", ()):
        for key in ("path", "class_path"):
            if item.get(key) in LAUNCHERS:
                item[key] = LAUNCHERS[item[key]]


def _with_classes(before: Json, own: bool) -> Merged:
    after, notes = copy.deepcopy(before), []
    # Without a list NVFlare takes its default one.
    listed = _texts(after, "class_allow_list") if own and "class_allow_list" in after else []
    after["class_allow_list"] = [*listed, *(path for path in ALLOWED_CLASSES if path not in listed)]
    if after.get("class_list_enforcement_mode", "enforce") != "enforce":
        notes.append("class_list_enforcement_mode is not 'enforce': the list then forbids nothing")
    return after, notes


def _arguments(resources: Json, owner: str) -> Json:
    """The arguments of the server's component that keeps jobs, or snapshots; empty where there is none."""
    if owner == "snapshot_persistor":
        holder = resources.get(owner, {}).get("args", {}).get("storage", {})
    else:
        holder = next((item for item in _listed(resources, "components", ()) if item.get("id") == owner), {})
    found: Json = holder.get("args", {})
    return found


def merged_privacy(before: Json) -> Merged:
    """A site's privacy.json: our filter first among the task result filters of every scope, messages to jobs guarded.

    Where there is no scope yet NVFlare applies no policy: one is made, for all jobs. Its components are those that the
    site has in the process of every job; the ones of resources.json are in the site's own process.
    """
    after = copy.deepcopy(before)
    _add_guards(after, "client")
    scopes = _listed(after, "scopes") if "scopes" in after else []
    if not scopes:
        after.update(scopes=[{"name": "default"}], default_scope="default")
        scopes = after["scopes"]
    for scope in scopes:
        others = [item for item in _listed(scope, "task_result_filters", ()) if not is_our_filter(item)]
        scope["task_result_filters"] = [{"path": RELEASE_FILTER}, *others]
    if after.get("default_scope"):
        return after, []
    return after, ["no default_scope: NVFlare refuses jobs that name no scope"]


def merged_communication(before: Json) -> Merged:
    """comm_config.json: a participant's own process and those of its jobs show each other the kit's certificate.

    By default they talk over loopback without one, and listen to every user of the machine.
    """
    after = copy.deepcopy(before)
    internal = _object(after, "internal")
    internal.setdefault("scheme", "tcp")
    resources = _object(internal, "resources")
    resources.setdefault("host", "localhost")
    resources["connection_security"] = "mtls"
    return after, []


def has_mutual_tls(communication: Json) -> bool:
    """Whether the processes of a participant with that comm_config.json show each other their certificate."""
    return merged_communication(communication)[0] == communication


def is_our_filter(item: Json) -> bool:
    """Whether an entry of privacy.json is the filter of what leaves."""
    return _is(item, RELEASE_FILTER)


def _is(component: Json, path: str) -> bool:
    return path in (component.get("path"), component.get("class_path"))


def merged_authorization(before: Json) -> Merged:
    """A site's authorization.json: nobody from outside operates it or reads files or logs, and no job brings code.

    A right given to ``any`` is narrowed; an expression that names an organisation or a person is the site's own
    decision and stays.
    """
    after, notes = copy.deepcopy(before), []
    permissions = _roles(after)
    for role, rights in permissions.items():
        if not isinstance(rights, dict):
            rights = permissions[role] = dict.fromkeys(RIGHTS, rights)
        if "view" in rights:
            rights.setdefault(LOG_LINES, rights["view"])
        for right, expression in rights.items():
            limit = _limit(right)
            if limit is None:
                continue
            rights[right] = _narrowed(expression, limit)
            if rights[right] not in (limit, "none", OWN_PEOPLE):
                notes.append(f"{role} keeps {right!r} as you wrote it: {expression!r}")
    return after, notes


def merged_server_authorization(before: Json) -> Merged:
    """The server's authorization.json: who submits a job may watch it, and read the server's log of it.

    NVFlare asks for rights of those commands' own names, which only a role that may do anything has by default.
    """
    after = copy.deepcopy(before)
    for rights in _roles(after).values():
        if isinstance(rights, dict) and rights.get("submit_job", "none") != "none":
            for command in ("app_command", "get_job_log"):
                rights.setdefault(command, "n:submitter")
    return after, []


def _limit(right: str) -> str | None:
    """The widest expression that a right may have at a site, or None where any will do."""
    right = " ".join(right.lower().split())
    if right in CODE:
        return "none"
    own = (*_SITE_ONLY, LOG_LINES)
    return OWN_PEOPLE if right in own or COMMAND_CATEGORIES.get(right) in _SITE_ONLY else None


def _narrowed(expression: Any, limit: str) -> Any:
    """``limit`` instead of an expression that lets everybody; one with exceptions keeps them."""
    parts = expression if isinstance(expression, list) else [expression]
    words = [str(part).lower().split() for part in parts]
    exceptions = [part for part, word in zip(parts, words, strict=True) if word[:1] == ["not"]]
    allowed = [word for word in words if word[:1] != ["not"]]
    if allowed and not any(word in (["any"], ["all"]) for word in allowed):
        return expression
    return [limit, *exceptions] if exceptions and limit != "none" else limit


def _roles(policy: Json) -> Json:
    permissions = policy.get("permissions")
    if not isinstance(permissions, dict) or not permissions:
        raise ConfigError(f"key 'permissions': expected rights by role, got {permissions!r}")
    return permissions


def _listed(content: Json, key: str, default: tuple[()] | None = None) -> list[Json]:
    value = content.get(key, default)
    if isinstance(value, list | tuple) and all(isinstance(item, dict) for item in value):
        return list(value)
    raise ConfigError(f"key {key!r}: expected a list of objects, got {value!r}")


def _object(content: Json, key: str) -> Json:
    value = content.setdefault(key, {})
    if isinstance(value, dict):
        return value
    raise ConfigError(f"key {key!r}: expected an object, got {value!r}")


def _texts(content: Json, key: str) -> list[str]:
    value = content[key]
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return list(value)
    raise ConfigError(f"key {key!r}: expected a list of class names, got {value!r}")
