"""Encoders: frame -> segment."""
