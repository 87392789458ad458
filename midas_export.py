"""Export a checkpoint for deployment."""

from src.errors import run_program


def main() -> None:
    from src import runtime
    from src.config import load_config
    from src.export_plan import choose_path, choose_sizes

    config = load_config(description=__doc__)
    weights = config.file("model_weights")
    path = choose_path(
        weights, config.export_path, config.file_format, config.device_target, config.onnx_runtime
    )
    sizes = choose_sizes(
        config.export_sizes(),
        config.for_,
        (config.img_height, config.img_width),
        config.train_data_dir,
        config.benchmark_paths(),
        config.eval_size,
    )
    for size in sizes:
        print(f"size {size} (height x width): {size.origin}", flush=True)
    runtime.start(config.device_target, config.device_id, config.seed)

    from src.export import Job, export

    job = Job(
        weights=weights,
        network=config.network(),
        mean=config.nm_img_mean,
        std=config.nm_img_std,
        file_format=config.file_format,
        path=path,
        sizes=sizes,
        batch=config.export_batch,
        fold_bn=config.fold_bn,
        onnx_runtime=config.onnx_runtime,
    )
    for line in export(job):
        print(line, flush=True)


if __name__ == "__main__":
    run_program(main)
