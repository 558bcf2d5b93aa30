"""Ready hooks, public: `Recorder(config, backend, on_clip_closed=hook)` shows clips to an experiment tracker."""
