"""What the program imports, it asks for: another package's dependency may go with that package."""

from __future__ import annotations

import ast
import re
import sys
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FROM_EXTRAS = {
    "torch",
    "onnx",
    "onnxruntime",
    "openvino",
}  # imported where it is needed, with a message that names the extra


def imported(path: Path) -> set[str]:
    """Top-level names of all imports of a file, those inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module.split(".")[0])
    return names


def test_every_import_of_the_program_is_a_declared_dependency():
    files = [*(ROOT / "src").rglob("*.py"), *ROOT.glob("*.py")]
    names = set().union(*map(imported, files)) - set(sys.stdlib_module_names) - {"src"}
    assert {"numpy", "mindspore", "cv2"} <= names
    requirements = [r for r in metadata.requires("midas-mindspore") if "extra ==" not in r]
    declared = {re.match(r"[\w.-]+", text)[0].lower().replace("_", "-") for text in requirements}
    providers = metadata.packages_distributions()
    for name in names - FROM_EXTRAS:
        offered_by = {provider.lower().replace("_", "-") for provider in providers[name]}
        assert offered_by & declared, f"{name} is not among the dependencies of pyproject.toml"
