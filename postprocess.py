"""Score what ascend310_infer predicted, or make depth maps of it. Neither needs a device."""

import sys
from pathlib import Path

from src.align import read_alignment
from src.config import Config, build_config, parse_flags
from src.data.benchmarks import open_benchmarks
from src.errors import Parser, UserError, run_program
from src.results import ResultFiles
from src.saved_predictions import SavedPredictions, write_saved_depth_maps
from src.scoring import Options, score_all


def main() -> int:
    usage = "%(prog)s [--check] [--key value ...]"
    parser = Parser(usage=usage, description=__doc__, allow_abbrev=False)
    parser.add_argument("--check", action="store_true", help="look at flags and data, do nothing")
    flags = parse_flags(parser)
    only_check, config = flags.pop("check"), build_config(flags)
    return (depth_maps if config.data_name == "images" else scores)(config, only_check)


def scores(config: Config, only_check: bool) -> int:
    skip, problems = config.on_error == "skip", []
    files = ResultFiles(Path(config.ann_file))
    places = (config.data_name, config.train_data_dir, config.benchmark_paths(), config.eval_size)
    settings = {"Sintel": {"occluded": config.sintel_occluded}}
    benchmarks = open_benchmarks(*places, settings, problems if skip else None)
    if only_check:
        return 0
    saved = SavedPredictions(Path(config.result_path), benchmarks, skip)
    options = Options(
        workers=config.num_parallel_workers, upsampling=config.upsampling, skip_damaged=skip
    )
    results = score_all(saved, benchmarks, files, options)
    print(saved.table(results, config.upsampling, config.nm_img_mean, config.nm_img_std))
    print(f"results: {files.ann_file}, details: {files.folder}/report.html")
    if problems:
        raise UserError("; ".join(problems))
    return 0


def depth_maps(config: Config, only_check: bool) -> int:
    source, output, alignment = Path(config.input_path), Path(config.output_path), None
    if config.align:
        alignment = read_alignment(Path(config.align), source, config.align_max_depth)
    if only_check:
        return 0
    predictions = Path(config.result_path, "images")
    failed = write_saved_depth_maps(predictions, source, output, alignment)
    print(f"depth maps: {output}")
    if failed:
        print(f"error: images that failed, named above: {failed}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    run_program(main)
