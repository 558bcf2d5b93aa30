"""The recording service, internal: for `stepreel.recorder`, which can embed it. From the journal to the workers.

It is one anyio object that runs in a process of its own, `python -m stepreel.service`, or in the caller's event loop.
"""
