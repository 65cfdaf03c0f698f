"""A federation of real processes on one machine, for a first try and for tests."""
