// Stand-in for MindSpore Lite: the names and signatures of its public API that midas_infer uses.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "include/api/context.h"
#include "include/api/status.h"
#include "include/api/types.h"

namespace mindspore {

class ModelImpl;

class Model {
 public:
  Model();
  ~Model();
  Model(const Model&) = delete;
  void operator=(const Model&) = delete;

  Status Build(const std::string& model_path, ModelType model_type,
               const std::shared_ptr<Context>& model_context = nullptr);
  Status Resize(const std::vector<MSTensor>& inputs,
                const std::vector<std::vector<std::int64_t>>& dims);
  Status Predict(const std::vector<MSTensor>& inputs, std::vector<MSTensor>* outputs);
  std::vector<MSTensor> GetInputs();
  std::vector<MSTensor> GetOutputs();

 private:
  std::shared_ptr<ModelImpl> impl_;
};

}  // namespace mindspore
