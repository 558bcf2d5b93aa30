"""Scheduling: which step is captured, and what happens when the queue is full. No I/O, no clock, no thread."""
