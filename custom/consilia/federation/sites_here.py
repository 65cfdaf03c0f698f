"""The sites of a run that are in this process: all of them, or of very many those that were asked last."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from consilia.core.errors import described
from consilia.core.memory import give_back_memory
from consilia.core.stop import StopSignal, never
from consilia.data.site import SiteConfig, load_site_config
from consilia.federation.config import RunConfig
from consilia.federation.messages import Broadcast, Reply
from consilia.federation.site import Site
from consilia.methods.registry import plugin_file

Receive = Callable[[str, Reply], None]
"""Takes one site's reply."""

MANY = 100
"""With more sites than these not all of them have their data and their model in memory."""

OPEN = 10
"""So many of them have."""


class Sites(Protocol):
    """Where the sites of a run on this machine are."""

    def deliver(self, broadcasts: Sequence[Broadcast], receive: Receive) -> None:
        """Ask the sites, and hand over every reply before returning."""

    def errors(self) -> Mapping[str, str]:
        """What went wrong with the last request of each site that failed, by site."""


class SitesHere:
    """Sites that answer one after the other, in this process.

    A site keeps on disk what it must find again, so one that is not among the :data:`OPEN` last is opened anew.

    Args:
        config: the run.
        site_files: each site's site.yaml, by site name.
        should_stop: polled during training.
        pages: see :class:`~consilia.federation.site.Site`.

    Raises:
        ConsiliaError: a site's configuration or data cannot be read. Of very many sites :meth:`deliver` says so.
    """

    def __init__(
        self,
        config: RunConfig,
        site_files: Mapping[str, Path],
        *,
        should_stop: StopSignal = never,
        pages: bool = True,
    ) -> None:
        self._config, self._files = config, dict(sorted(site_files.items()))
        self._should_stop, self._pages = should_stop, pages
        self._settings: dict[str, SiteConfig] = {}
        self._sites: OrderedDict[str, Site] = OrderedDict()
        self._errors: dict[str, str] = {}
        self._closed = 0
        self._most = len(self._files) if len(self._files) <= MANY else OPEN
        if self._most == len(self._files):
            for name in self._files:
                self.site(name)

    def site(self, name: str) -> Site:
        """A site, opened if it is not."""
        if name not in self._sites:
            while len(self._sites) >= self._most:
                # Before the next one takes its room.
                self._sites.popitem(last=False)
                self._closed += 1
                if self._closed % OPEN == 0:
                    give_back_memory()
            if name not in self._settings:
                self._settings[name] = load_site_config(self._files[name])
            settings = self._settings[name]
            self._sites[name] = Site(self._config, settings, should_stop=self._should_stop, pages=self._pages)
        self._sites.move_to_end(name)
        return self._sites[name]

    def deliver(self, broadcasts: Sequence[Broadcast], receive: Receive) -> None:
        """Ask the sites, and hand over every reply before returning."""
        for item in broadcasts:
            for name in item.targets:
                site = self.site(name)
                reply = site.answer(item.request, item.tensors)
                if site.error is not None:
                    self._errors[name] = described(site.error, plugin_file())
                receive(name, reply)

    def errors(self) -> Mapping[str, str]:
        """What went wrong with the last request of each site that failed, by site."""
        return self._errors
