#include "prepare.h"

#include <cstddef>
#include <opencv2/imgproc.hpp>

namespace midas {
namespace {

// value / 255 in float32; OpenCV's own scaling multiplies by 1 / 255 and rounds differently.
cv::Mat UnitValues() {
  cv::Mat table(1, 256, CV_32F);
  for (int value = 0; value < 256; ++value) {
    table.at<float>(value) = static_cast<float>(value) / 255.0f;
  }
  return table;
}

}  // namespace

std::vector<float> Prepare(const cv::Mat& rgb, Size size, const Normalisation& normalisation) {
  cv::Mat unit;
  cv::LUT(rgb, UnitValues(), unit);
  cv::Mat resized;
  cv::resize(unit, resized, cv::Size(size.width, size.height), 0, 0, cv::INTER_CUBIC);
  const auto plane = static_cast<std::size_t>(size.height) * static_cast<std::size_t>(size.width);
  std::vector<float> prepared(3 * plane);
  for (std::size_t channel = 0; channel < 3; ++channel) {
    const auto mean = static_cast<float>(normalisation.mean[channel]);
    const auto std = static_cast<float>(normalisation.std[channel]);
    const auto* source = resized.ptr<float>() + channel;
    float* target = prepared.data() + channel * plane;
    for (std::size_t i = 0; i < plane; ++i) target[i] = (source[3 * i] - mean) / std;
  }
  return prepared;
}

}  // namespace midas
