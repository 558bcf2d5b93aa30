"""Backends: simulator -> frame or snapshot."""
