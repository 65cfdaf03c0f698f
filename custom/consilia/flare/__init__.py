"""A run carried by NVFlare: :class:`~consilia.federation.coordinator.Coordinator` and
:class:`~consilia.federation.site.Site` as a Controller and an Executor,
the run as a recipe and as shipped job folders, and NVFlare's simulator. It decides nothing itself.
"""
