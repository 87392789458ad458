"""Train MiDaS on the datasets of mixdata.json."""

from src.errors import run_program


def main() -> None:
    from src import runtime
    from src.config import load_config

    config = load_config(description=__doc__)
    runtime.start(config.device_target, config.device_id, config.seed)

    from src.trainer import train

    run = train(config)
    print(f"run folder: {run}")


if __name__ == "__main__":
    run_program(main)
