#include "backend.h"

#include <string>
#include <vector>

#include "errors.h"

namespace midas {
namespace fs = std::filesystem;
namespace {

#ifdef MIDAS_WITH_OPENVINO
constexpr bool kHasOpenVino = true;
#else
constexpr bool kHasOpenVino = false;
#endif
#ifdef MIDAS_WITH_LITE
constexpr bool kHasLite = true;
#else
constexpr bool kHasLite = false;
#endif

[[noreturn]] void Fail(const fs::path& file, const std::string& text) {
  throw Error(ExitCode::kModel, file.string() + ": " + text);
}

// Of "openvino" and "lite": what was asked for, which must fit the file.
std::string ChooseBackend(const fs::path& file, const std::string& asked) {
  const std::string suffix = file.extension().string();
  const std::string fitting = suffix == ".onnx" ? "openvino" : suffix == ".mindir" ? "lite" : "";
  if (fitting.empty()) {
    Fail(file, "expected an .onnx file (openvino) or a .mindir file (lite); make one with "
               "midas_export.py --file_format ONNX or MINDIR");
  }
  if (asked != "auto" && asked != fitting) {
    const std::string wanted = asked == "openvino" ? ".onnx" : ".mindir";
    Fail(file, "the backend " + asked + " reads " + wanted + " files; give one, or --backend " +
                   fitting);
  }
  return fitting;
}

std::string ShapeText(const std::vector<long>& shape) {
  std::string text = "(";
  for (const long length : shape) {
    if (text.size() > 1) text += ", ";
    text += length > 0 ? std::to_string(length) : "any";
  }
  return text + ")";
}

// A length that is given must be that of the input: one that is always the same where the input's
// may be any would be another picture.
bool Fits(long length, long expected) { return length <= 0 || length == expected; }

}  // namespace

std::string BuiltBackends() {
  if (kHasOpenVino && kHasLite) return "openvino, lite";
  return kHasLite ? "lite" : "openvino";
}

std::unique_ptr<Backend> LoadModel(const fs::path& file, const BackendOptions& options) {
  const std::string backend = ChooseBackend(file, options.backend);
  std::error_code ignored;
  if (!fs::is_regular_file(file, ignored)) {
    Fail(file, "no such file; expected a model that midas_export.py wrote");
  }
#ifdef MIDAS_WITH_OPENVINO
  if (backend == "openvino") return LoadOpenVino(file, options);
#endif
#ifdef MIDAS_WITH_LITE
  if (backend == "lite") return LoadLite(file, options);
#endif
  Fail(file, "needs the backend " + backend + ", but this program was built with " +
                 BuiltBackends() + " only; " +
                 (backend == "lite" ? "set LITE_HOME and build again, or export an .onnx for a CPU"
                                    : "build again where the Python package openvino is"));
}

ModelShape CheckShapes(const fs::path& file, const std::vector<long>& input,
                       const std::vector<long>& output) {
  const bool fits = input.size() == 4 && output.size() == 3 && input[1] == 3 &&
                    Fits(output[0], input[0]) && Fits(output[1], input[2]) &&
                    Fits(output[2], input[3]);
  if (!fits) {
    Fail(file, "maps " + ShapeText(input) + " to " + ShapeText(output) +
                   ", expected RGB images (N, 3, height, width) to their inverse depth "
                   "(N, height, width)");
  }
  const auto known = [](long length) { return length > 0 ? static_cast<int>(length) : 0; };
  return {known(input[0]), known(input[2]), known(input[3])};
}

}  // namespace midas
