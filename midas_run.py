"""Turn every image of a folder into depth maps."""

import sys
from pathlib import Path

from src.errors import run_program


def main() -> int:
    from src import runtime
    from src.align import read_alignment
    from src.config import load_config

    config = load_config(description=__doc__)
    source, output = Path(config.input_path), Path(config.output_path)
    alignment = None  # read before anything that takes long
    if config.align:
        alignment = read_alignment(Path(config.align), source, config.align_max_depth)

    from src.inference import predict_folder
    from src.predictor import Predictor, is_checkpoint, needs_mindspore

    weights = config.file("model_weights")
    if needs_mindspore(weights):
        runtime.start(
            config.device_target,
            config.device_id,
            config.seed,
            checkpoints_only=is_checkpoint(weights),
        )
    normalisation = (config.nm_img_mean, config.nm_img_std)
    how = (config.onnx_runtime, config.onnx_precision, config.compile_cache)
    predictor = Predictor(weights, config.network(), *normalisation, *how)
    failed = predict_folder(
        predictor,
        config.input_rule(),
        source,
        output,
        alignment,
        batch_size=config.run_batch_size,
        workers=config.num_parallel_workers,
    )
    print(f"depth maps: {output}, computed by {predictor.runtime}")
    if failed:
        print(f"error: images that failed, named above: {failed}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    run_program(main)
