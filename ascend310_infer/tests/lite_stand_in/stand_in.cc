// "Runs" a text file in the place of a model: the output is the mean of the input's channels.
//
//   toy                   the first word
//   input 1 3 64 96       its shape, -1 for any
//   output 1 64 96
//   devices 2             that exist; 1 where it does not say
//   fail predict          optional: what goes wrong (build, graph, predict, nan, half, null)
#include <cmath>
#include <fstream>
#include <string>
#include <vector>

#include "include/api/model.h"

namespace mindspore {

class MSTensor::Impl {
 public:
  enum DataType type = DataType::kNumberTypeFloat32;
  std::vector<std::int64_t> shape;
  std::vector<float> values;
  bool is_lost = false;  // the copy from the device fails

  void SetShape(const std::vector<std::int64_t>& lengths) {
    shape = lengths;
    std::size_t count = 1;
    for (const std::int64_t length : lengths) {
      count *= length > 0 ? static_cast<std::size_t>(length) : 0;
    }
    values.assign(count, 0.0f);
  }
};

MSTensor::MSTensor() : impl_(std::make_shared<Impl>()) {}
MSTensor::MSTensor(const std::shared_ptr<Impl>& impl) : impl_(impl) {}
MSTensor::~MSTensor() = default;
enum DataType MSTensor::DataType() const { return impl_->type; }
const std::vector<std::int64_t>& MSTensor::Shape() const { return impl_->shape; }
std::shared_ptr<const void> MSTensor::Data() const {
  if (impl_->is_lost) return nullptr;
  return std::shared_ptr<const void>(impl_, impl_->values.data());
}
void* MSTensor::MutableData() { return impl_->values.data(); }
std::size_t MSTensor::DataSize() const { return impl_->values.size() * sizeof(float); }

class ModelImpl {
 public:
  std::shared_ptr<MSTensor::Impl> input = std::make_shared<MSTensor::Impl>();
  std::shared_ptr<MSTensor::Impl> output = std::make_shared<MSTensor::Impl>();
  std::uint32_t devices = 1;
  std::string failure;

  bool Read(const std::string& path) {
    std::ifstream file(path);
    std::string word;
    if (!(file >> word) || word != "toy") return false;
    while (file >> word) {
      if (word == "input") input->SetShape(ReadShape(file, 4));
      if (word == "output") output->SetShape(ReadShape(file, 3));
      if (word == "devices") file >> devices;
      if (word == "fail") file >> failure;
    }
    output->is_lost = failure == "null";
    if (failure == "half") output->type = DataType::kNumberTypeFloat16;
    return !input->shape.empty();
  }

 private:
  static std::vector<std::int64_t> ReadShape(std::ifstream& file, int count) {
    std::vector<std::int64_t> shape(static_cast<std::size_t>(count));
    for (std::int64_t& length : shape) file >> length;
    return shape;
  }
};

Model::Model() : impl_(std::make_shared<ModelImpl>()) {}
Model::~Model() = default;

Status Model::Build(const std::string& model_path, ModelType model_type,
                    const std::shared_ptr<Context>& model_context) {
  if (model_type != kMindIR || !impl_->Read(model_path)) {
    return Status(kLiteFileError, "Invalid file.");
  }
  const auto& devices = model_context->MutableDeviceInfo();
  const auto ascend = std::dynamic_pointer_cast<AscendDeviceInfo>(devices.at(0));
  if (ascend == nullptr || ascend->GetDeviceID() >= impl_->devices) {
    return Status(kMCDeviceError, "Device error,\nset device failed.");
  }
  if (impl_->failure == "graph") return Status(kLiteGraphFileError, "Failed to verify graph.");
  if (impl_->failure == "build") return Status(kLiteError, "Common error code.");
  return kSuccess;
}

Status Model::Resize(const std::vector<MSTensor>&,
                     const std::vector<std::vector<std::int64_t>>& dims) {
  const std::vector<std::int64_t>& to = dims.at(0);
  impl_->input->SetShape(to);
  impl_->output->SetShape({to.at(0), to.at(2), to.at(3)});
  return kSuccess;
}

Status Model::Predict(const std::vector<MSTensor>&, std::vector<MSTensor>* outputs) {
  if (impl_->failure == "predict") return Status(kLiteError, "Common error code.");
  const auto& shape = impl_->input->shape;
  const auto batch = static_cast<std::size_t>(shape.at(0));
  const auto pixels = static_cast<std::size_t>(shape.at(2) * shape.at(3));
  for (std::size_t i = 0; i < batch; ++i) {
    const float* image = impl_->input->values.data() + 3 * i * pixels;
    for (std::size_t p = 0; p < pixels; ++p) {
      impl_->output->values[i * pixels + p] =
          (image[p] + image[pixels + p] + image[2 * pixels + p]) / 3.0f;
    }
  }
  if (impl_->failure == "nan") impl_->output->values.back() = std::nanf("");
  *outputs = {MSTensor(impl_->output)};
  return kSuccess;
}

std::vector<MSTensor> Model::GetInputs() { return {MSTensor(impl_->input)}; }
std::vector<MSTensor> Model::GetOutputs() { return {MSTensor(impl_->output)}; }

}  // namespace mindspore
