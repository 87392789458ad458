// From an image to the network's input: resize and normalise, as src/data/transforms.py does.
#pragma once

#include <array>
#include <opencv2/core.hpp>
#include <vector>

#include "resize_rule.h"

namespace midas {

// Of RGB in [0, 1].
struct Normalisation {
  std::array<double, 3> mean = {0.485, 0.456, 0.406};
  std::array<double, 3> std = {0.229, 0.224, 0.225};
};

// Bicubic resize, then (value / 255 - mean) / std.
//   rgb: uint8 [H, W, 3], RGB.
// Returns float32 [3, size.height, size.width]. Safe to call from several threads.
std::vector<float> Prepare(const cv::Mat& rgb, Size size, const Normalisation& normalisation);

}  // namespace midas
