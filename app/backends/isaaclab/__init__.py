"""Isaac Lab's part of the backends, internal: for `stepreel.isaaclab`, `archives` and the modules that re-export it.

Users import `stepreel.backends.sensor`, `stepreel.backends.visualizer` and `stepreel.backends.selection`. Isaac Lab
itself is never imported before an environment of it is there.
"""
