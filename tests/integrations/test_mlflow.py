"""`MlflowHook`, against a real run in a store on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stepreel.hooks.mlflow import MlflowHook
from stepreel.storage.manifest import read_manifest

from .recorded import record

pytestmark = [pytest.mark.integrations, pytest.mark.filterwarnings("default"), pytest.mark.timeout(180)]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Any]:
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'runs.db'}")
    experiment = mlflow.create_experiment("stepreel", artifact_location=(tmp_path / "artifacts").as_uri())
    with mlflow.start_run(experiment_id=experiment) as run:
        yield run


def test_files_and_manifests_are_artifacts_of_the_run(run: Any, output_dir: Path, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    with MlflowHook(run.info.run_id) as hook:
        summary = record(output_dir, hook, segment_s=0.4)
    client = MlflowClient()
    logged = {Path(one.path).name: one.file_size for one in client.list_artifacts(run.info.run_id, "videos")}
    assert all(len(clip.segments) == 2 for clip in summary.clips)
    for clip in summary.clips:
        assert [logged[segment.file] for segment in clip.segments] == [segment.nbytes for segment in clip.segments]
        fetched = client.download_artifacts(run.info.run_id, f"videos/{clip.name}.json", str(tmp_path))
        assert read_manifest(Path(fetched)) == clip
