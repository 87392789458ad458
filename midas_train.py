"""Train MiDaS on the datasets of mixdata.json."""

from src.errors import EXIT_STOPPED, run_program
from src.stop_signals import STOP


def main() -> int:
    STOP.watch()  # before any library starts threads

    from src import runtime
    from src.config import load_config

    config = load_config(description=__doc__)
    runtime.start(
        config.device_target,
        config.device_id,
        config.seed,
        config.run_distribute,
        checkpoints_only=True,
    )

    from src.cloud import synced
    from src.trainer import train

    with synced(config):
        outcome = train(config)
    print(f"run folder: {outcome.run}")
    return 0 if outcome.finished else EXIT_STOPPED


if __name__ == "__main__":
    run_program(main)
