"""Backends, public: each makes frames or snapshots of one kind of simulator.

`newton`, `mujoco`, `gymnasium`, `kit`, `sensor`, `visualizer` and `synthetic` have the backends; `camera`, `pixels`,
`selection` and `archives` are for users too. The other modules are internal to the backends.
"""
