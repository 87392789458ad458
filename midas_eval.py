"""Evaluate a checkpoint zero-shot on the benchmarks and write val.json."""

from pathlib import Path

from src.errors import run_program


def main() -> None:
    from src import runtime
    from src.config import load_config

    config = load_config(description=__doc__)
    runtime.start(config.device_target, config.device_id, config.seed)

    from src.evaluation import evaluate, open_benchmarks, read_results, table, write_results
    from src.predictor import Predictor

    ann_file = Path(config.ann_file)
    read_results(ann_file)  # an unfit file is found before the work, not after
    benchmarks = open_benchmarks(
        config.data_name, config.train_data_dir, config.benchmark_paths(), config.eval_size
    )
    predictor = Predictor(config.ckpt_path, config.network(), config.nm_img_mean, config.nm_img_std)
    results = []
    for benchmark in benchmarks:
        results.append(evaluate(predictor, benchmark))
        write_results(ann_file, results)
    print(table(results))
    print(f"results: {ann_file}")


if __name__ == "__main__":
    run_program(main)
