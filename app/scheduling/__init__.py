"""Scheduling, internal to the recorder: which step is captured, and which frame makes way in a full queue. Pure."""
