"""Score what ascend310_infer predicted, or draw its images (exit code 4: some of them failed)."""

import sys
from pathlib import Path

from src.align import read_alignment
from src.config import Config, build_config, parse_flags
from src.errors import Parser, UserError, run_program
from src.results import ResultFiles
from src.saved_predictions import SavedPredictions, midas_infer_flags, open_predicted, write_saved
from src.scoring import Options, score_all


def main() -> int:
    parser = Parser(description=__doc__, allow_abbrev=False, usage="%(prog)s [--check] [--key ...]")
    parser.add_argument("--check", action="store_true", help="only look; print midas_infer's flags")
    flags = parse_flags(parser)
    only_check, config = flags.pop("check"), build_config(flags)
    images = config.data_name.strip().lower() == "images"
    code = (depth_maps if images else scores)(config, only_check)
    if only_check:
        size = max(config.img_width, config.img_height) if images else config.eval_size
        print(midas_infer_flags(size, config.nm_img_mean, config.nm_img_std))
    return code


def scores(config: Config, only_check: bool) -> int:
    folder, skip, problems = Path(config.result_path), config.on_error == "skip", []
    files = ResultFiles(Path(config.ann_file))
    places = (config.data_name, config.train_data_dir, config.benchmark_paths(), config.eval_size)
    settings = {"Sintel": {"occluded": config.sintel_occluded}}
    benchmarks = open_predicted(folder, *places, settings, problems if skip else None)
    if only_check:
        return 0
    saved = SavedPredictions(folder, benchmarks, skip)
    options = Options(1, config.num_parallel_workers, config.upsampling, skip_damaged=skip)
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
    places = (Path(config.result_path, "images"), source, output)
    failed = 0 if only_check else write_saved(*places, alignment, config.on_error == "skip")
    if not only_check:
        print(f"depth maps: {output}")
    if failed:
        print(f"error: images that failed, named above: {failed}", file=sys.stderr)
    return 4 if failed else 0


if __name__ == "__main__":
    run_program(main)
