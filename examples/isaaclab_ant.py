"""Train Isaac Lab's Ant with PPO on Newton physics, without Isaac Sim, and record it.

    pip install isaaclab==3.0.0 stepreel
    python examples/isaaclab_ant.py --offline

It needs Python 3.12 and no GPU; on a GPU, `--device cuda:0` and more environments. The first run compiles kernels,
for a minute or two. Isaac Lab loads the Ant and the ground from NVIDIA's server; with `--offline` the Ant is the one
that comes with Newton, and the ground a plane made here.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import Any

import gymnasium

import stepreel
import stepreel.isaaclab

TASK = "Isaac-Ant-Direct"

GROUND = """#usda 1.0
(
    defaultPrim = "World"
    metersPerUnit = 1
    upAxis = "Z"
)

def Xform "World"
{
    def Plane "CollisionPlane" (prepend apiSchemas = ["PhysicsCollisionAPI"])
    {
        uniform token axis = "Z"
        uniform token purpose = "guide"
    }

    def Xform "Environment"
    {
        float3 xformOp:scale = (1, 1, 1)
        uniform token[] xformOpOrder = ["xformOp:scale"]

        def Mesh "Geometry"
        {
            int[] faceVertexCounts = [4]
            int[] faceVertexIndices = [0, 1, 2, 3]
            point3f[] points = [(-50, -50, 0), (50, -50, 0), (50, 50, 0), (-50, 50, 0)]
            color3f[] primvars:displayColor = [(0.35, 0.4, 0.45)]
            texCoord2f[] primvars:st = [(0, 0), (1, 0), (1, 1), (0, 1)] (interpolation = "vertex")
        }
    }
}
"""


def make_assets(folder: Path) -> None:
    """Write the two files that Isaac Lab would load, and have it look there; before it is imported."""
    ant = folder / "Isaac/Robots/IsaacSim/Ant/ant_instanceable.usd"
    ground = folder / "Isaac/IsaacLab/Environments/Grid/default_ground_plane_checker_v1/default_ground_plane.usda"
    for path in (ant, ground):
        path.parent.mkdir(parents=True, exist_ok=True)
    with (files("newton.examples") / "assets" / "ant.usda").open("rb") as source, ant.open("wb") as target:
        shutil.copyfileobj(source, target)
    ground.write_text(GROUND)
    os.environ["ISAACSIM_ASSET_ROOT"] = str(folder)


def make_env(num_envs: int, device: str) -> gymnasium.Env[Any, Any]:
    import isaaclab_tasks  # noqa: F401 - registers the tasks.
    from isaaclab_tasks.utils import parse_env_cfg

    config = parse_env_cfg(TASK, device=device, num_envs=num_envs)
    config.seed = 3
    # Without it Newton's model has bodies and no shapes to be seen.
    config.sim.physics.load_visual_shapes = True
    return gymnasium.make(TASK, cfg=config)


def train(env: gymnasium.Env[Any, Any], iterations: int, device: str) -> None:
    from importlib.metadata import version

    from isaaclab_rl.rsl_rl import RslRlVecEnvWrapper, create_rsl_rl_runner, handle_deprecated_rsl_rl_cfg
    from isaaclab_tasks.utils import load_cfg_from_registry

    config = load_cfg_from_registry(TASK, "rsl_rl_cfg_entry_point")
    config.device = device
    config = handle_deprecated_rsl_rl_cfg(config, version("rsl-rl-lib"))
    runner = create_rsl_rl_runner(RslRlVecEnvWrapper(env, clip_actions=config.clip_actions), config)
    runner.learn(num_learning_iterations=iterations, init_at_random_ep_len=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-envs", type=int, default=16, metavar="N", help="robots (default: %(default)s)")
    parser.add_argument("--iterations", type=int, default=10, metavar="N", help="of PPO (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="where physics and policy run (default: %(default)s)")
    parser.add_argument("--offline", action="store_true", help="load nothing from NVIDIA's server")
    parser.add_argument("--output-dir", default="videos/isaaclab-ant", help="(default: %(default)s)")
    parser.add_argument("--width", type=int, default=1280, metavar="PIXELS", help="(default: %(default)s)")
    parser.add_argument("--height", type=int, default=720, metavar="PIXELS", help="(default: %(default)s)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if args.offline:
            make_assets(Path(folder))
        env = make_env(args.num_envs, args.device)
        config = stepreel.RecorderConfig(
            output_dir=args.output_dir, video_length=60, video_interval=160, width=args.width, height=args.height
        )
        with stepreel.isaaclab.attach(env, config):
            train(env, args.iterations, args.device)
        env.close()
    print(f"Clips are in {args.output_dir}.")


if __name__ == "__main__":
    main()
