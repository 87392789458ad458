// Reading photographs to the pixels that src/image_io.py reads.
#pragma once

#include <exception>
#include <filesystem>
#include <opencv2/core.hpp>

namespace midas {

// Whether a file is an image by its suffix, in either case.
bool HasImageSuffix(const std::filesystem::path& file);

// The content decides the format, not the suffix. Transparency is dropped, grey and palette images
// become RGB, 16-bit values are scaled to 8 bits.
//   upright: apply the EXIF orientation; otherwise rows and columns stay as they are stored.
// Returns uint8 [H, W, 3], RGB. Safe to call from several threads.
// Throws ImageError: missing, empty, no image, truncated, damaged, too large, or of a kind that is
// not read.
cv::Mat ReadImage(const std::filesystem::path& file, bool upright);

// Whether this, OpenCV's error too, says that there was not enough memory.
bool IsOutOfMemory(const std::exception& error);

}  // namespace midas
