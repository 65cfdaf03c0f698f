"""Floor 3: the only floor that imports NVFlare. It carries :class:`~consilia.federation.coordinator.Coordinator` and
:class:`~consilia.federation.site.Site` as a Controller and an Executor, and decides nothing itself.
"""
