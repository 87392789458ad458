"""Evaluate a checkpoint zero-shot on the benchmarks and write val.json and val.log."""

from pathlib import Path

from src.errors import UserError, run_program


def main() -> None:
    from src import runtime
    from src.config import load_config

    config = load_config(description=__doc__)
    runtime.start(config.device_target, config.device_id, config.seed)

    from src.evaluation import evaluate, open_benchmarks, read_results, table, write_results
    from src.predictor import Predictor
    from src.runlog import log_to

    ann_file = Path(config.ann_file)
    read_results(ann_file)  # an unfit file is found before the work, not after
    log_file = ann_file.with_suffix(".log")
    if log_file == ann_file:
        raise UserError(f"ann_file: {ann_file} is the name of the log; choose one with .json")
    benchmarks = open_benchmarks(
        config.data_name, config.train_data_dir, config.benchmark_paths(), config.eval_size
    )
    predictor = Predictor(
        config.file("ckpt_path"), config.network(), config.nm_img_mean, config.nm_img_std
    )
    with log_to(log_file) as note:
        results = []
        for benchmark in benchmarks:
            results.append(evaluate(predictor, benchmark))
            write_results(ann_file, results)
        summary = table(results, predictor.fixed_size_text or str(config.eval_size))
        note(f"results of {config.ckpt_path}, in {ann_file}\n{summary}")
    print(summary)
    print(f"results: {ann_file}")


if __name__ == "__main__":
    run_program(main)
