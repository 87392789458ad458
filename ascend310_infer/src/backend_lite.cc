// MindSpore Lite on an Ascend device.
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "backend.h"
#include "errors.h"
#include "include/api/context.h"
#include "include/api/model.h"
#include "include/api/status.h"
#include "include/api/types.h"

namespace midas {
namespace fs = std::filesystem;
namespace {

// kLiteFileError, which older versions of MindSpore Lite do not name.
constexpr std::uint32_t kInvalidFile = 0xFFFFFFF6u;

std::vector<long> Lengths(const mindspore::MSTensor& tensor) {
  const std::vector<std::int64_t>& shape = tensor.Shape();
  return {shape.begin(), shape.end()};
}

std::shared_ptr<mindspore::Context> AscendContext(int device_id) {
  auto device = std::make_shared<mindspore::AscendDeviceInfo>();
  device->SetDeviceID(static_cast<std::uint32_t>(device_id));
  auto context = std::make_shared<mindspore::Context>();
  context->MutableDeviceInfo().push_back(device);
  return context;
}

// Computes in the precision that the model was converted with.
class Lite : public Backend {
 public:
  Lite(fs::path file, const BackendOptions& options)
      : file_(std::move(file)), device_id_(options.device_id) {
    if (options.precision != "float32") {
      throw Error(ExitCode::kCommandLine, "--precision: " + options.precision +
                                              " is of OpenVINO; with a .mindir it is chosen when "
                                              "the model is converted");
    }
    Build();
    const std::vector<mindspore::MSTensor> inputs = model_.GetInputs();
    const std::vector<mindspore::MSTensor> outputs = model_.GetOutputs();
    if (inputs.size() != 1 || outputs.size() != 1) {
      throw Error(ExitCode::kModel,
                  file_.string() + ": has " + std::to_string(inputs.size()) + " inputs and " +
                      std::to_string(outputs.size()) +
                      " outputs, expected one each; export it with midas_export.py");
    }
    RequireFloat("input", inputs[0]);
    RequireFloat("output", outputs[0]);
    accepts_ = CheckShapes(file_, Lengths(inputs[0]), Lengths(outputs[0]));
  }

  std::string Name() const override { return "lite"; }
  std::string Precision() const override { return "as converted"; }
  ModelShape Accepts() const override { return accepts_; }

  std::string Description() const override {
    return "MindSpore Lite, Ascend device " + std::to_string(device_id_);
  }

  void Predict(const float* images, const ModelShape& shape, float* inverse_depth) override {
    Fit(shape);
    std::vector<mindspore::MSTensor> inputs = model_.GetInputs();
    const std::size_t size = 3 * shape.Pixels() * sizeof(float);
    void* input = inputs[0].MutableData();
    if (input == nullptr || inputs[0].DataSize() != size) {
      Fail("its input takes " + std::to_string(inputs[0].DataSize()) + " bytes, not " +
           std::to_string(size));
    }
    std::memcpy(input, images, size);
    std::vector<mindspore::MSTensor> outputs;
    const mindspore::Status status = model_.Predict(inputs, &outputs);
    if (status != mindspore::kSuccess) Fail(OneLine(status.ToString()));
    const std::size_t expected = shape.Pixels() * sizeof(float);
    const std::vector<long> lengths = {shape.batch, shape.height, shape.width};
    if (outputs.size() != 1 || !IsFloat(outputs[0]) || outputs[0].DataSize() != expected ||
        Lengths(outputs[0]) != lengths) {
      Fail("its output is not float32 of the size of its input");
    }
    const std::shared_ptr<const void> output = outputs[0].Data();  // a copy on the host
    if (output == nullptr) Fail("its output cannot be copied from the device");
    std::memcpy(inverse_depth, output.get(), expected);
  }

 private:
  static bool IsFloat(const mindspore::MSTensor& tensor) {
    return tensor.DataType() == mindspore::DataType::kNumberTypeFloat32;
  }

  void RequireFloat(const std::string& which, const mindspore::MSTensor& tensor) const {
    if (IsFloat(tensor)) return;
    const bool is_half = tensor.DataType() == mindspore::DataType::kNumberTypeFloat16;
    throw Error(ExitCode::kModel, file_.string() + ": its " + which + " is " +
                                      (is_half ? "float16" : "not of floats") +
                                      ", expected float32; convert it with float32 inputs and "
                                      "outputs");
  }

  void Build() {
    const mindspore::Status status =
        model_.Build(file_.string(), mindspore::kMindIR, AscendContext(device_id_));
    if (status == mindspore::kSuccess) return;
    const std::string device = "Ascend device " + std::to_string(device_id_);
    const std::string reason = " (" + OneLine(status.ToString()) + "); ";
    const auto code = static_cast<std::uint32_t>(status.StatusCode());
    if (code == kInvalidFile || status == mindspore::kLiteGraphFileError) {
      throw Error(ExitCode::kModel, file_.string() + ": not a model that can be loaded for " +
                                        device + reason + "export or convert it again");
    }
    // For most errors, a device that does not exist among them, there is only a general code.
    throw Error(ExitCode::kComputation, device + " cannot be used, or not with " +
                                            file_.string() + reason +
                                            "choose another --device_id, or convert it again");
  }

  // Models of any size must be told the next one.
  void Fit(const ModelShape& shape) {
    const bool is_fixed = accepts_.batch > 0 && accepts_.height > 0 && accepts_.width > 0;
    const std::vector<std::int64_t> wanted = {shape.batch, 3, shape.height, shape.width};
    const std::vector<mindspore::MSTensor> inputs = model_.GetInputs();
    if (is_fixed || inputs[0].Shape() == wanted) return;
    const mindspore::Status status = model_.Resize(inputs, {wanted});
    if (status != mindspore::kSuccess) Fail(OneLine(status.ToString()));
  }

  [[noreturn]] void Fail(const std::string& reason) const {
    throw Error(ExitCode::kComputation,
                file_.string() + ": the computation on Ascend device " +
                    std::to_string(device_id_) + " failed (" + reason +
                    "); set MIDAS_LIBRARY_LOG=FILE to keep the device's messages");
  }

  fs::path file_;
  int device_id_;
  ModelShape accepts_;
  mindspore::Model model_;
};

}  // namespace

std::unique_ptr<Backend> LoadLite(const fs::path& file, const BackendOptions& options) {
  return std::make_unique<Lite>(file, options);
}

}  // namespace midas
