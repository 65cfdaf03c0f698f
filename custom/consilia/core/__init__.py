"""Floor 0: updates, their checks, aggregation, checkpoints, seeds. Imports nothing above it and never NVFlare."""
