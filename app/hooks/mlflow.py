"""`MlflowHook`: clips among the artifacts of an MLflow run."""

from __future__ import annotations

from ..clip import Clip
from .background import BackgroundHook


class MlflowHook(BackgroundHook):
    """Logs each clip's files and its manifest as artifacts of a run. MLflow's pages play them."""

    def __init__(self, run_id: str, *, artifact_path: str = "videos") -> None:
        """Take a run.

        Args:
            run_id: `run.info.run_id`; the run is found by `MLFLOW_TRACKING_URI` or `mlflow.set_tracking_uri`.
            artifact_path: Folder among the run's artifacts.
        """
        super().__init__()
        self._run_id = run_id
        self._artifact_path = artifact_path

    def send(self, clip: Clip) -> None:
        """Log a clip's files, then its manifest."""
        from mlflow import MlflowClient

        client = MlflowClient()
        manifest = () if clip.folder is None else (clip.folder / f"{clip.name}.json",)
        for path in (*clip.paths, *manifest):
            client.log_artifact(self._run_id, str(path), self._artifact_path)
