"""The record of a run: what result.json holds, how it is read and written."""
