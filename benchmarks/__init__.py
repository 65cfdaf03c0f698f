"""Speed and cost, measured: each module is a command that prints a table and writes JSON. See docs/benchmarks.md."""
