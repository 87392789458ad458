// OpenVINO on the CPU.
#include <exception>
#include <openvino/openvino.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "backend.h"
#include "errors.h"

namespace midas {
namespace fs = std::filesystem;
namespace {

// Any shape that the network accepts; its lengths differ, so that a turned output shows.
constexpr int kProbeBatch = 2;
constexpr int kProbeHeight = 64;  // pixels
constexpr int kProbeWidth = 96;

// OpenVINO's messages are traces of many lines; the last one says what was wrong.
std::string Reason(const std::exception& error) {
  std::string reason;
  std::istringstream lines(error.what());
  for (std::string line; std::getline(lines, line);) {
    line = OneLine(line);
    if (!line.empty() && line.find("Exception from") == std::string::npos) reason = line;
  }
  const std::size_t check = reason.find(" failed at ");  // "Check '...' failed at <source>:\n..."
  if (reason.compare(0, 5, "Check") == 0 && check != std::string::npos) {
    reason = reason.substr(0, check);
  }
  constexpr std::size_t kLongest = 160;
  return reason.size() > kLongest ? reason.substr(0, kLongest) + "..." : reason;
}

std::vector<long> Lengths(const ov::PartialShape& shape) {
  std::vector<long> lengths;
  if (shape.rank().is_dynamic()) return lengths;
  for (const ov::Dimension& length : shape) {
    lengths.push_back(length.is_static() ? length.get_length() : 0);
  }
  return lengths;
}

std::shared_ptr<ov::Model> ReadModel(ov::Core& core, const fs::path& file) {
  try {
    return core.read_model(file.string());
  } catch (const std::exception& error) {
    throw Error(ExitCode::kModel, file.string() + ": not an ONNX model, or damaged (" +
                                      Reason(error) + "); export it again");
  }
}

// The output's shape for a small input, since that of a model for any size says little.
std::vector<long> OutputShape(const std::shared_ptr<ov::Model>& model, const fs::path& file) {
  std::vector<long> input = Lengths(model->input().get_partial_shape());
  if (input.size() != 4) return Lengths(model->output().get_partial_shape());
  ov::PartialShape probe;
  for (std::size_t i = 0; i < input.size(); ++i) {
    const long any[] = {kProbeBatch, 3, kProbeHeight, kProbeWidth};
    probe.push_back(input[i] > 0 ? input[i] : any[i]);
  }
  try {
    const std::shared_ptr<ov::Model> copy = model->clone();
    copy->reshape(probe);
    std::vector<long> output = Lengths(copy->output().get_partial_shape());
    for (std::size_t i = 0; i < output.size(); ++i) {
      // Where the length follows that of the input, it is any, as there.
      const std::size_t axis = i == 0 ? 0 : i + 1;
      const bool follows = axis < input.size() && input[axis] <= 0;
      if (follows && output[i] == probe[axis].get_length()) output[i] = 0;
    }
    return output;
  } catch (const std::exception& error) {
    const std::string size = std::to_string(kProbeHeight) + "x" + std::to_string(kProbeWidth);
    throw Error(ExitCode::kModel, file.string() + ": does not accept two images of " + size +
                                      " pixels (" + Reason(error) + "); export it again");
  }
}

ModelShape CheckModel(const std::shared_ptr<ov::Model>& model, const fs::path& file) {
  if (model->inputs().size() != 1 || model->outputs().size() != 1 ||
      model->input().get_element_type() != ov::element::f32 ||
      model->output().get_element_type() != ov::element::f32) {
    throw Error(ExitCode::kModel,
                file.string() + ": has " + std::to_string(model->inputs().size()) +
                    " inputs and " + std::to_string(model->outputs().size()) +
                    " outputs, expected one of float32 each; export it with midas_export.py");
  }
  return CheckShapes(file, Lengths(model->input().get_partial_shape()), OutputShape(model, file));
}

class OpenVino : public Backend {
 public:
  OpenVino(const fs::path& file, const BackendOptions& options)
      : file_(file), precision_(options.precision) {
    const std::shared_ptr<ov::Model> model = ReadModel(core_, file);
    accepts_ = CheckModel(model, file);
    ov::AnyMap settings = {
        ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY),
        // By itself OpenVINO takes bfloat16 where the processor has it.
        ov::hint::inference_precision(precision_ == "bfloat16" ? ov::element::bf16
                                                               : ov::element::f32)};
    if (options.threads > 0) settings.insert(ov::inference_num_threads(options.threads));
    try {
      compiled_ = core_.compile_model(model, "CPU", settings);
      request_ = compiled_.create_infer_request();
    } catch (const std::exception& error) {
      const bool coarse = precision_ != "float32";  // the processor's fault, not the model's
      throw Error(coarse ? ExitCode::kComputation : ExitCode::kModel,
                  file.string() + ": cannot be compiled for the CPU (" + Reason(error) + "); " +
                      Advice("export it again"));
    }
  }

  std::string Name() const override { return "openvino"; }
  std::string Precision() const override { return precision_; }
  ModelShape Accepts() const override { return accepts_; }

  std::string Description() const override {
    const ov::Version version = ov::get_openvino_version();
    const auto device = core_.get_property("CPU", ov::device::full_name);
    const auto threads = compiled_.get_property(ov::inference_num_threads);
    return "OpenVINO " + std::string(version.buildNumber) + ", " + OneLine(device) + ", " +
           std::to_string(threads) + " threads";
  }

  void Predict(const float* images, const ModelShape& shape, float* inverse_depth) override {
    const auto batch = static_cast<std::size_t>(shape.batch);
    const auto height = static_cast<std::size_t>(shape.height);
    const auto width = static_cast<std::size_t>(shape.width);
    const ov::Shape expected = {batch, height, width};
    ov::Shape found;
    try {
      request_.set_output_tensor(ov::Tensor(ov::element::f32, expected, inverse_depth));
    } catch (const std::exception&) {
      OtherSize();  // of some networks this is known before they compute
    }
    try {
      // The network only reads its input, but a tensor on somebody's memory takes no const.
      request_.set_input_tensor(
          ov::Tensor(ov::element::f32, {batch, 3, height, width}, const_cast<float*>(images)));
      request_.infer();
      found = request_.get_output_tensor().get_shape();
    } catch (const std::exception& error) {
      throw Error(ExitCode::kComputation,
                  "openvino: the computation failed (" + Reason(error) + "); " +
                      Advice("try a smaller --batch_size, or export the model again"));
    }
    // OpenVINO takes the tensor for an output of another size, and fills it with what it has.
    if (found != expected) OtherSize();
  }

 private:
  [[noreturn]] void OtherSize() const {
    throw Error(ExitCode::kModel,
                file_.string() + ": its output has another size than its input; export it again");
  }

  // Some processors have no bfloat16 for some numbers of channels.
  std::string Advice(const std::string& otherwise) const {
    return precision_ == "float32" ? otherwise : "try --precision float32";
  }

  fs::path file_;
  std::string precision_;
  ModelShape accepts_;
  ov::Core core_;
  ov::CompiledModel compiled_;
  ov::InferRequest request_;
};

}  // namespace

std::unique_ptr<Backend> LoadOpenVino(const fs::path& file, const BackendOptions& options) {
  return std::make_unique<OpenVino>(file, options);
}

}  // namespace midas
