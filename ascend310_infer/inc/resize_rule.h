// The rule by which an image becomes the network's input size: that of src/data/transforms.py.
#pragma once

#include <cstdint>
#include <string>

namespace midas {

struct Size {
  int height = 0;  // pixels
  int width = 0;
};

inline bool operator==(Size a, Size b) { return a.height == b.height && a.width == b.width; }
inline bool operator!=(Size a, Size b) { return !(a == b); }

// Pillow's limit, twice its MAX_IMAGE_PIXELS: a small file must not fill the memory.
constexpr std::int64_t kMaxPixels = 178956970;

inline bool IsTooLarge(Size size) {
  return static_cast<std::int64_t>(size.height) * size.width > kMaxPixels;
}

constexpr int kSizeMultiple = 32;  // the network's deepest level is 1/32 of its input

enum class ResizeMethod { kLowerBound, kUpperBound };

// Keeps the aspect. With kLowerBound both sides are at least `bound`, with kUpperBound at most.
struct ResizeRule {
  ResizeMethod method = ResizeMethod::kUpperBound;
  int bound = 384;  // pixels, a multiple of 32

  // The network's input for an image of this size in pixels; both sides are multiples of 32.
  // A side that an int does not hold becomes the largest one that it holds, which is too large.
  Size OutputSize(Size image) const;

  // "upper_bound 384"
  std::string Text() const;
};

}  // namespace midas
