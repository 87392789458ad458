"""Evaluate a checkpoint zero-shot on the benchmarks: val.json, val.log and the folder val."""

from pathlib import Path

from src.errors import UserError, run_program


def main() -> None:
    from src import runtime
    from src.config import load_config
    from src.predictor import Predictor, is_checkpoint, needs_mindspore

    config = load_config(description=__doc__)
    if config.run_distribute or needs_mindspore(config.ckpt_path):
        runtime.start(
            config.device_target,
            config.device_id,
            config.seed,
            config.run_distribute,
            checkpoints_only=is_checkpoint(config.ckpt_path),
        )

    from src.data.benchmarks import open_benchmarks
    from src.evaluation import Options, evaluate_all
    from src.results import ResultFiles
    from src.runlog import log_to
    from src.summary import table

    rank, ranks = runtime.rank_and_size()
    options = Options(
        batch_size=config.eval_batch_size,
        workers=config.num_parallel_workers,
        upsampling=config.upsampling,
        skip_damaged=config.on_error == "skip",
        resume=config.resumes_evaluation(),
        rank=rank,
        ranks=ranks,
    )
    files = ResultFiles(Path(config.ann_file))  # an unfit one is found before the work, not after
    problems: list[str] = []
    benchmarks = open_benchmarks(
        config.data_name,
        config.train_data_dir,
        config.benchmark_paths(),
        config.eval_size,
        {"Sintel": {"occluded": config.sintel_occluded}},
        problems if options.skip_damaged else None,
    )
    normalisation = (config.nm_img_mean, config.nm_img_std)
    how = (config.onnx_runtime, config.onnx_precision, config.compile_cache)
    predictor = Predictor(config.file("ckpt_path"), config.network(), *normalisation, *how)
    with log_to(files.ann_file.with_suffix(f".{rank}.log" if rank else ".log")) as note:
        results = evaluate_all(predictor, benchmarks, files, options, runtime.barrier)
        if rank == 0:
            size = predictor.fixed_size_text or str(config.eval_size)
            summary = table(results, size, config.upsampling)
            summary += f"\ncomputed by {predictor.runtime}"
            note(f"results of {config.ckpt_path}, in {files.ann_file}\n{summary}")
            print(f"{summary}\nresults: {files.ann_file}, details: {files.folder}/report.html")
        if problems:
            raise UserError("; ".join(problems))


if __name__ == "__main__":
    run_program(main)
