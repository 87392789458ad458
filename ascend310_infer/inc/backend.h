// What computes the network.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "resize_rule.h"

namespace midas {

// Of a batch of images, or what a model accepts: there 0 is any.
struct ModelShape {
  int batch = 0;
  int height = 0;
  int width = 0;

  std::size_t Pixels() const {
    return static_cast<std::size_t>(batch) * static_cast<std::size_t>(height) *
           static_cast<std::size_t>(width);
  }
};

class Backend {
 public:
  virtual ~Backend() = default;

  virtual std::string Name() const = 0;         // "openvino" or "lite"
  virtual std::string Precision() const = 0;    // "float32", "bfloat16" or "as converted"
  virtual std::string Description() const = 0;  // library, its version and the device

  // The shape that the model accepts.
  virtual ModelShape Accepts() const = 0;

  // Predicts a batch, of a shape that the model accepts.
  //   images: float32 [batch, 3, height, width], normalised RGB.
  //   inverse_depth: float32 [batch, height, width], is written; larger is closer.
  // Throws Error(kComputation); Error(kModel): the prediction has another size.
  virtual void Predict(const float* images, const ModelShape& shape, float* inverse_depth) = 0;
};

struct BackendOptions {
  std::string backend = "auto";         // auto (by the model's suffix), openvino or lite
  std::string precision = "float32";    // of OpenVINO: float32 or bfloat16
  int device_id = 0;                    // of Ascend
  int threads = 0;                      // of OpenVINO; 0: the cores
};

// Loads a model.
// Throws Error(kModel): the file is missing, damaged, of another backend, or no network that maps
// images to inverse depth; Error(kComputation): the device or the precision cannot be used.
std::unique_ptr<Backend> LoadModel(const std::filesystem::path& file,
                                   const BackendOptions& options);

// The backends that this program was built with: "openvino", "lite" or "openvino, lite".
std::string BuiltBackends();

// These are defined where the backend is compiled.
std::unique_ptr<Backend> LoadOpenVino(const std::filesystem::path& file,
                                      const BackendOptions& options);
std::unique_ptr<Backend> LoadLite(const std::filesystem::path& file, const BackendOptions& options);

// Throws Error(kModel) unless a model of this input and output, with 0 or less for any length, maps
// [N, 3, H, W] to [N, H, W].
ModelShape CheckShapes(const std::filesystem::path& file, const std::vector<long>& input,
                       const std::vector<long>& output);

}  // namespace midas
