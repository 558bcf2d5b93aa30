"""The recording service: everything between the journal and the workers. Imported by the recorders only.

It is one anyio object that runs in a process of its own, `python -m stepreel.service`, or in the caller's event loop.
"""
