"""What every layer stands on: errors, validation, events, files, checkpoints, determinism. Imports no other layer."""
