"""A federated run without an engine: what the server decides, what a site does, and the plain loop that joins them.

It is pure Python and PyTorch. NVFlare's controller and executor (:mod:`consilia.flare`) carry the same two
objects, so a run means the same in-process, in the simulator and between hospitals.
"""
