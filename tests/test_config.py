"""config.yaml, `--config_path` and flags -> Config, and what each mistake is answered with."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from src.config import FIELDS, load_config
from src.data.paths import resolve_data_path
from src.data.transforms import ResizeRule
from src.errors import UserError

CONFIG_YAML = Path(__file__).resolve().parents[1] / "config.yaml"

# 'Scripts Parameters' of the original README, but for the datasets that it has and this does not.
ORIGINAL_KEYS = (
    *("device_target", "device_id", "run_distribute", "is_modelarts"),
    *("no_backbone_params_lr", "no_backbone_params_end_lr"),
    *("backbone_params_lr", "backbone_params_end_lr", "power", "lr_decay"),
    *("epoch_size", "batch_size", "train_data_dir"),
    *("width_per_group", "groups", "in_channels", "features", "layers"),
    *("img_width", "img_height", "nm_img_mean", "nm_img_std"),
    *("keep_aspect_ratio", "resize_target", "ensure_multiple_of", "resize_method"),
    *("datapath_TUM", "datapath_Sintel", "datapath_ETH3D", "datapath_Kitti", "datapath_DIW"),
    "datapath_NYU",
    *("ann_file", "ckpt_path", "data_name"),
    *("input_path", "output_path", "model_weights", "file_format"),
)


def message(*arguments: str) -> str:
    """What the user is told about these arguments; it must be one line."""
    with pytest.raises(UserError) as error:
        load_config(arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def write(tmp_path):
    """Writes a configuration file into a folder of its own and returns its path."""

    def write_file(content: str | bytes) -> str:
        path = tmp_path / "configs" / "mine.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write_file


def test_config_yaml_and_config_have_the_same_keys():
    assert set(yaml.safe_load(CONFIG_YAML.read_text())) == set(FIELDS)


@pytest.mark.parametrize("key", ORIGINAL_KEYS)
def test_a_key_of_the_original_is_known(key):
    assert key in FIELDS


def test_the_default_is_the_full_network():
    assert load_config([]).network() == {
        "in_channels": 64,
        "groups": 32,
        "width_per_group": 8,
        "features": 256,
        "layers": (3, 4, 23, 3),
    }


def test_the_default_learning_rates_are_those_of_the_paper():
    config = load_config([])
    assert (config.no_backbone_params_lr, config.backbone_params_lr) == (1e-4, 1e-5)


def test_a_config_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        load_config([]).batch_size = 3


def test_every_key_is_listed_by_help(capsys):
    with pytest.raises(SystemExit) as ended:
        load_config(["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert all(f"--{key} " in shown for key in [*FIELDS, "config_path"])


def test_a_flag_wins_over_the_file_and_the_file_over_the_default(write):
    path = write("batch_size: 3\nseed: 7\n")
    config = load_config(["--seed", "11", "--config_path", path])
    assert (config.batch_size, config.seed, config.epoch_size) == (3, 11, 400)


def test_an_empty_file_changes_nothing(write):
    assert load_config(["--config_path", write("# nothing yet\n")]) == load_config([])


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("lr_decay", "True", True),
        ("lr_decay", "False", False),
        ("layers", "[1, 2, 3, 4]", (1, 2, 3, 4)),
        ("nm_img_std", "[1, 0.5, 2]", (1.0, 0.5, 2.0)),
        ("backbone_params_lr", "1e-5", 1e-5),  # YAML 1.1 takes this for a text
        ("alpha", "0", 0.0),
        ("run_name", "2024", "2024"),
        ("run_name", "yes", "yes"),
        ("data_name", "Kitti,TUM", "Kitti,TUM"),
        ("loss", "ssimae", "ssimae"),
        ("loss", "ssitrim", "ssitrim"),
        ("mixdata", "", ""),
    ],
)
def test_a_flag_is_read_as_its_key_needs_it(key, text, value):
    read = getattr(load_config([f"--{key}", text]), key)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--batch_sise", "4"], ["batch_sise", "did you mean batch_size?"]),
        (["--batch_sise=4"], ["batch_sise", "did you mean batch_size?"]),
        (["--batch", "4"], ["batch", "did you mean batch_size?"]),  # no silent abbreviations
        (["--config", "x.yaml"], ["config", "did you mean config_path?"]),
        (["--zzz", "4"], ["zzz", "config.yaml"]),
        (["ReDWeb"], ["ReDWeb", "--key value"]),
        (["--batch_size"], ["--batch_size", "expected one argument"]),
    ],
)
def test_an_unknown_flag_is_named_with_the_nearest_key(arguments, parts):
    text = message(*arguments)
    assert all(part in text for part in parts)


def test_a_key_that_python_reserves_is_read_and_saved(tmp_path):
    config = load_config(["--for", "Kitti,TUM"])
    assert config.for_ == "Kitti,TUM"
    config.save(tmp_path / "config.yaml")
    assert load_config(["--config_path", str(tmp_path / "config.yaml")]) == config
    assert "did you mean for?" in message("--for_", "Kitti")


def test_export_sizes_are_height_and_width():
    assert load_config([]).export_sizes() == []
    config = load_config(["--export_size", "384x1280, 160x384"])
    assert config.export_sizes() == [(384, 1280), (160, 384)]


def test_an_unknown_key_in_a_file_is_named_with_the_file_and_the_nearest_key(write):
    path = write("epochs_size: 3\n")
    text = message("--config_path", path)
    assert all(part in text for part in (path, "epochs_size", "did you mean epoch_size?"))


def test_config_path_is_no_key_of_a_file(write):
    text = message("--config_path", write("config_path: other.yaml\n"))
    assert "config_path: no such key" in text
    assert "did you mean config_path" not in text


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("batch_size", "four"),
        ("batch_size", "2.5"),
        ("batch_size", "[2]"),
        ("batch_size", "0"),
        ("batch_size", "True"),
        ("batch_size", ""),
        ("seed", "-1"),
        ("lr_decay", "maybe"),
        ("lr_decay", "2"),
        ("layers", "3"),
        ("layers", "[3, 4, 23]"),
        ("layers", "[3, 4, 23, 3, 3]"),
        ("layers", "[3, 4, 0, 3]"),
        ("layers", "[3, 4"),
        ("features", "33"),
        ("img_width", "100"),
        ("ensure_multiple_of", "16"),
        ("nm_img_mean", "[0.5, .nan, 0.5]"),
        ("nm_img_std", "[0, 1, 1]"),
        ("crop_min_scale", "0"),
        ("crop_min_scale", "1.01"),
        ("flip_probability", "-0.1"),
        ("backbone_params_lr", "0"),
        ("backbone_params_lr", ".nan"),
        ("backbone_params_lr", "3"),
        ("no_backbone_params_lr", "-0.1"),
        ("power", ".inf"),
        ("alpha", "-1"),
        ("alpha", ".inf"),
        ("scales", "0"),
        ("loss", "mse"),
        ("device_target", "TPU"),
        ("device_id", "-1"),
        ("resize_method", "biggest"),
        ("resize_target", "False"),
        ("run_distribute", "2"),
        ("ann_file", "val.txt"),
        ("upsampling", "nearest"),
        ("on_error", "go on"),
        ("eval_batch_size", "0"),
        ("run_batch_size", "0"),
        ("is_modelarts", "yes please"),
        ("amp_level", "O4"),
        ("loss_scale", "0.5"),
        ("val_share", "0.9"),
        ("on_bad_sample", "replace"),
        ("save_checkpoint_steps", "-1"),
        ("file_format", "TFLITE"),
        ("onnx_runtime", "tensorrt"),
        ("onnx_precision", "int8"),
        ("export_batch", "0"),
        ("export_size", "384"),
        ("export_size", "384x100"),
        ("export_size", "0x384"),
        ("export_size", ","),
        ("export_size", "384x384,-32x32"),
        ("align_max_depth", "0"),
        ("align_max_depth", ".inf"),
        ("run_name", "a/b"),
        ("run_name", ".."),
    ],
)
def test_a_wrong_value_is_refused_by_the_name_of_its_key(key, value):
    assert message(f"--{key}", value).startswith(key)


@pytest.mark.parametrize(
    ("key", "value", "parts"),
    [
        ("batch_size", "four", ["'four'", "integer"]),
        ("batch_size", "0", ["0", "greater than or equal to 1"]),
        ("device_target", "TPU", ["'TPU'", "'CPU'", "'GPU'", "'Ascend'"]),
        ("layers", "[3, 4, 0, 3]", ["layers[2]", "0", "greater than or equal to 1"]),
        ("layers", "[3, 4, 23]", ["layers", "too few"]),
        ("img_width", "100", ["100", "ensure_multiple_of", "32"]),
        ("features", "33", ["33", "multiple of 8"]),
        ("loss", "mse", ["'mse'", "'ssimse'", "'ssimae'", "'ssitrim'"]),
        ("run_name", "a/b", ["'a/b'", "without '/'"]),
    ],
)
def test_the_message_tells_the_value_and_what_is_allowed(key, value, parts):
    text = message(f"--{key}", value)
    assert all(part in text for part in parts)


def test_a_wrong_value_in_a_file_is_refused_by_the_name_of_its_key(write):
    for key, value in [("batch_size", "[1, 2]"), ("train_data_dir", "5"), ("run_name", "5")]:
        assert message("--config_path", write(f"{key}: {value}\n")).startswith(key)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("batch_size: 3\n  seed: [1\n", "not valid YAML"),
        (b"\xff\xfe\x00\x01", "not valid YAML"),
        ("- batch_size\n- 3\n", "key: value"),
        ("just a text\n", "key: value"),
    ],
)
def test_a_file_that_is_no_mapping_is_named(write, content, part):
    path = write(content)
    text = message("--config_path", path)
    assert path in text
    assert part in text


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    for path in (tmp_path / "none.yaml", tmp_path):
        text = message("--config_path", str(path))
        assert "config_path" in text
        assert str(path) in text


def test_paths_of_a_file_are_relative_to_it_and_those_of_flags_to_the_working_folder(
    write, tmp_path, monkeypatch
):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    path = write("train_data_dir: data\nckpt_path: /abs/a.ckpt\nmodel_weights: ''\n")
    config = load_config(["--config_path", path, "--run_path", "runs"])
    assert config.train_data_dir == str(tmp_path / "configs" / "data")
    assert config.run_path == str(tmp_path / "work" / "runs")
    assert config.ckpt_path == "/abs/a.ckpt"
    assert config.model_weights == ""


def test_a_config_path_may_itself_be_relative(write, tmp_path, monkeypatch):
    write("train_data_dir: data\n")
    monkeypatch.chdir(tmp_path)
    config = load_config(["--config_path", "configs/mine.yaml"])
    assert config.train_data_dir == str(tmp_path / "configs" / "data")


def test_default_paths_lie_beside_config_yaml(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_config([]).train_data_dir == str(CONFIG_YAML.parent / "data")


def test_a_home_folder_is_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    assert load_config(["--train_data_dir", "~/data"]).train_data_dir == "/home/ada/data"


def test_an_empty_value_of_a_text_means_none(write):
    config = load_config(["--config_path", write("ckpt_path:\nrun_name:\n")])
    assert (config.ckpt_path, config.run_name) == ("", "")


def test_what_is_saved_reads_back_the_same_elsewhere(tmp_path, monkeypatch):
    config = load_config(
        [
            *("--layers", "[1, 1, 2, 1]", "--lr_decay", "True", "--train_data_dir", "my data"),
            *("--backbone_params_lr", "3e-6", "--run_name", "123", "--nm_img_mean", "[0, 0, 0]"),
        ]
    )
    path = tmp_path / "run" / "config.yaml"
    path.parent.mkdir()
    config.save(path)
    monkeypatch.chdir(tmp_path)
    assert load_config(["--config_path", str(path)]) == config


def test_the_input_rule_is_that_of_the_keys():
    config = load_config(
        [
            *("--img_width", "320", "--img_height", "256", "--keep_aspect_ratio", "False"),
            *("--ensure_multiple_of", "64", "--resize_method", "minimal"),
        ]
    )
    assert config.input_rule() == ResizeRule(320, 256, False, 64, "minimal")


def test_benchmark_paths_go_by_the_benchmarks_names():
    paths = load_config(["--datapath_Kitti", "/k"]).benchmark_paths()
    assert paths["Kitti"] == ("/k",)
    assert paths["NYU"] == ("NYU/nyu.mat", "NYU/splits.mat")
    assert {"Kitti", "Sintel", "TUM", "ETH3D", "NYU", "DIW", "Middlebury"} == set(paths)


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A data root, and beside it the working folder."""
    (tmp_path / "root").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "root"


def test_data_is_looked_for_under_the_root_first(root, tmp_path):
    as_is = tmp_path / "TUM"
    as_is.mkdir()
    assert resolve_data_path(str(root), str(as_is), "datapath_TUM") == as_is
    inside = root / str(as_is).lstrip("/")
    inside.mkdir(parents=True)
    assert resolve_data_path(str(root), str(as_is), "datapath_TUM") == inside


def test_a_leading_slash_does_not_hide_the_root(root):
    (root / "data" / "Kitti").mkdir(parents=True)
    for path in ("/data/Kitti", "data/Kitti"):
        assert resolve_data_path(str(root), path, "datapath_Kitti") == root / "data" / "Kitti"


def test_data_beside_the_working_folder_is_found(root, tmp_path):
    (tmp_path / "work" / "TUM").mkdir()
    assert resolve_data_path(str(root), "TUM", "datapath_TUM") == tmp_path / "work" / "TUM"


@pytest.mark.parametrize("path", ["/none/TUM", "none/TUM", ""])
def test_data_that_is_nowhere_names_both_places(root, tmp_path, path):
    with pytest.raises(UserError) as error:
        resolve_data_path(str(root), path, "datapath_TUM")
    as_is = path if path.startswith("/") else tmp_path / "work" / path
    for part in (root / path.lstrip("/"), as_is, "datapath_TUM", "train_data_dir"):
        assert str(part) in str(error.value)


def test_a_file_that_is_needed_and_empty_is_named():
    config = load_config([])
    with pytest.raises(UserError, match="ckpt_path: empty; set it"):
        config.file("ckpt_path")
    assert load_config(["--ckpt_path", "/a.ckpt"]).file("ckpt_path") == "/a.ckpt"


def test_the_home_of_nobody_is_told_in_one_line():
    assert "~nobody-at-all" in message("--train_data_dir", "~nobody-at-all/x")


@pytest.mark.parametrize(
    ("given", "expected"),
    [("False", ""), ("True", "auto"), ("auto", "auto"), ("runs/a/ckpt/b.ckpt", "FILE")],
)
def test_resume_is_a_word_or_a_file_where_one_stands(given, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if expected == "FILE":
        expected = str(tmp_path / given)
    config = load_config(["--resume", given])
    assert config.resume == expected
    config.save(tmp_path / "saved.yaml")
    assert load_config(["--config_path", str(tmp_path / "saved.yaml")]).resume == expected


def test_an_evaluation_resumes_without_a_file(tmp_path):
    assert [load_config(["--resume", word]).resumes_evaluation() for word in ("True", "False")] == [
        True,
        False,
    ]
    with pytest.raises(UserError, match=r"resume: .*a\.ckpt: an evaluation takes True or False"):
        load_config(["--resume", str(tmp_path / "a.ckpt")]).resumes_evaluation()


def test_a_rate_that_would_rise_is_refused():
    flags = ("--lr_decay", "True", "--no_backbone_params_lr", "1e-8")
    expected = "no_backbone_params_lr: 1e-08 is below no_backbone_params_end_lr"
    assert message(*flags).startswith(expected)
    load_config(["--no_backbone_params_lr", "1e-8"])  # without decay there is no end


def test_the_cache_is_off_and_its_margin_from_the_input_to_below_its_double(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_config([]).data_cache == ""
    assert load_config(["--data_cache", "c"]).data_cache == str(tmp_path / "c")
    assert load_config(["--cache_margin", "1"]).cache_margin == 1
    assert load_config(["--cache_margin", "1.9"]).cache_margin == 1.9
    assert message("--cache_margin", "0.99").startswith("cache_margin: got 0.99")
    assert message("--cache_margin", "1.91").startswith("cache_margin: got 1.91")
