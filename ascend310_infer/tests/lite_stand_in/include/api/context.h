// Stand-in for MindSpore Lite: the names and signatures of its public API that midas_infer uses.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

namespace mindspore {

enum DeviceType { kCPU = 0, kAscend = 3 };

class DeviceInfoContext {
 public:
  virtual ~DeviceInfoContext() = default;
  virtual enum DeviceType GetDeviceType() const = 0;
};

class AscendDeviceInfo : public DeviceInfoContext {
 public:
  enum DeviceType GetDeviceType() const override { return DeviceType::kAscend; }
  void SetDeviceID(std::uint32_t device_id) { device_id_ = device_id; }
  std::uint32_t GetDeviceID() const { return device_id_; }

 private:
  std::uint32_t device_id_ = 0;
};

class Context {
 public:
  std::vector<std::shared_ptr<DeviceInfoContext>>& MutableDeviceInfo() { return devices_; }

 private:
  std::vector<std::shared_ptr<DeviceInfoContext>> devices_;
};

}  // namespace mindspore
