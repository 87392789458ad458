// Stand-in for MindSpore Lite: the names and signatures of its public API that midas_infer uses.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

namespace mindspore {

enum StatusCode : std::uint32_t {
  kSuccess = 0,
  kMCDeviceError = 0x30000002u,
  kLiteError = 0xFFFFFFFFu,           // -1
  kLiteFileError = 0xFFFFFFF6u,       // -10
  kLiteGraphFileError = 0xFFFFFF38u,  // -200
};

class Status {
 public:
  Status() = default;
  Status(enum StatusCode code, std::string message = "")  // implicit, as in the original
      : code_(code), message_(std::move(message)) {}

  enum StatusCode StatusCode() const { return code_; }
  std::string ToString() const { return message_; }
  bool operator==(enum StatusCode other) const { return code_ == other; }
  bool operator!=(enum StatusCode other) const { return code_ != other; }

 private:
  enum StatusCode code_ = kSuccess;
  std::string message_;
};

}  // namespace mindspore
