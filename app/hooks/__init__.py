"""Ready hooks: `Recorder(config, backend, on_clip_closed=hook)` shows each finished clip to an experiment tracker."""
