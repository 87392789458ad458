"""Export a checkpoint for deployment."""

from pathlib import Path

from src.errors import run_program


def main() -> None:
    from src import runtime
    from src.config import load_config

    config = load_config(description=__doc__)
    runtime.start(config.device_target, config.device_id, config.seed)

    from src.export import export_mindir

    weights = config.file("model_weights")
    path = Path(config.export_path or Path(weights).with_suffix(".mindir"))
    export_mindir(weights, config.network(), config.img_height, config.img_width, path)
    print(f"{path}: {config.img_width}x{config.img_height}, output equals the checkpoint's")


if __name__ == "__main__":
    run_program(main)
