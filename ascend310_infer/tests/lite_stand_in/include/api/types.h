// Stand-in for MindSpore Lite: the names and signatures of its public API that midas_infer uses.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace mindspore {

enum class DataType : int { kNumberTypeFloat16 = 42, kNumberTypeFloat32 = 43 };

enum ModelType : std::uint32_t { kMindIR = 0 };

class MSTensor {
 public:
  class Impl;

  MSTensor();
  explicit MSTensor(const std::shared_ptr<Impl>& impl);
  ~MSTensor();

  enum DataType DataType() const;
  const std::vector<std::int64_t>& Shape() const;
  std::shared_ptr<const void> Data() const;
  void* MutableData();
  std::size_t DataSize() const;

 private:
  std::shared_ptr<Impl> impl_;
};

}  // namespace mindspore
