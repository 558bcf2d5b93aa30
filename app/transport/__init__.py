"""How training, its recording service and workers talk, internal: for `capture`, `core`, `link`, `service`, `encoders`.

Shared memory, the journal in it, messages. `stepreel.statistics` reads counters there.
"""
