#include "resize_rule.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace midas {
namespace {

int RoundToMultiple(double length, const ResizeRule& rule) {
  const double multiples = length / kSizeMultiple;
  // nearbyint takes ties to even, as Python's round does.
  double count = std::nearbyint(multiples);
  if (rule.method == ResizeMethod::kUpperBound && count * kSizeMultiple > rule.bound) {
    count = std::floor(multiples);
  }
  if (rule.method == ResizeMethod::kLowerBound && count * kSizeMultiple < rule.bound) {
    count = std::ceil(multiples);
  }
  constexpr int kMost = std::numeric_limits<int>::max() / kSizeMultiple;
  return static_cast<int>(std::clamp(count, 1.0, static_cast<double>(kMost))) * kSizeMultiple;
}

}  // namespace

Size ResizeRule::OutputSize(Size image) const {
  const double scale_h = static_cast<double>(bound) / image.height;
  const double scale_w = static_cast<double>(bound) / image.width;
  const double scale = method == ResizeMethod::kLowerBound ? std::max(scale_h, scale_w)
                                                           : std::min(scale_h, scale_w);
  return {RoundToMultiple(scale * image.height, *this),
          RoundToMultiple(scale * image.width, *this)};
}

std::string ResizeRule::Text() const {
  const std::string name = method == ResizeMethod::kLowerBound ? "lower_bound" : "upper_bound";
  return name + " " + std::to_string(bound);
}

}  // namespace midas
