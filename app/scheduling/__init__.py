"""Scheduling, internal: for `capture` and `service`. Which step is captured, which frame makes way. Pure."""
