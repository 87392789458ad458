#include "image_reader.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cerrno>
#include <cstdint>
#include <fstream>
#include <iterator>
#include <new>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "errors.h"
#include "image_structure.h"

namespace midas {
namespace fs = std::filesystem;
namespace {

std::vector<std::uint8_t> ReadBytes(const fs::path& file) {
  std::error_code ignored;
  if (fs::is_directory(file, ignored)) throw ImageError("is a folder, expected a file");
  std::ifstream stream(file, std::ios::binary | std::ios::ate);
  if (!stream) {
    if (errno == ENOENT) throw ImageError("no such file; check the path");
    throw ImageError("cannot be read (" + SystemMessage(errno) + ")");
  }
  const std::streamoff size = stream.tellg();
  if (size <= 0) throw ImageError("the file is empty; copy or download it again");
  std::vector<std::uint8_t> bytes(static_cast<std::size_t>(size));
  stream.seekg(0);
  stream.read(reinterpret_cast<char*>(bytes.data()), size);
  if (!stream) throw ImageError("cannot be read (" + SystemMessage(errno) + ")");
  return bytes;
}

// As stored: 1, 3 (BGR) or 4 (BGRA) channels of 8 or 16 bits.
cv::Mat Decode(const std::vector<std::uint8_t>& bytes) {
  cv::Mat image;
  std::string reason = "its data cannot be decoded";
  try {
    image = cv::imdecode(bytes, cv::IMREAD_UNCHANGED);
  } catch (const cv::Exception& error) {
    if (IsOutOfMemory(error)) throw;
    reason = OneLine(error.err);
  }
  if (image.empty()) Truncated(reason);
  return image;
}

// Pillow keeps all 16 bits of grey images, which the Python code scales so that 65535 becomes 255;
// of colours it keeps the upper 8 bits only.
cv::Mat ToEightBits(const cv::Mat& image) {
  if (image.depth() == CV_8U) return image;
  cv::Mat narrow(image.size(), CV_8UC(image.channels()));
  const bool grey = image.channels() == 1;
  const auto row_length = static_cast<std::ptrdiff_t>(image.cols) * image.channels();
  for (int row = 0; row < image.rows; ++row) {
    const auto* source = image.ptr<std::uint16_t>(row);
    std::transform(source, source + row_length, narrow.ptr<std::uint8_t>(row), [grey](int value) {
      return static_cast<std::uint8_t>(grey ? (value + 128) / 257 : value >> 8);
    });
  }
  return narrow;
}

cv::Mat ToRgb(const cv::Mat& image) {
  cv::Mat rgb;
  switch (image.channels()) {
    case 1:
      cv::cvtColor(image, rgb, cv::COLOR_GRAY2RGB);
      break;
    case 3:
      cv::cvtColor(image, rgb, cv::COLOR_BGR2RGB);
      break;
    default:
      cv::cvtColor(image, rgb, cv::COLOR_BGRA2RGB);
  }
  return rgb;
}

// How the stored rows and columns lie (EXIF 2.32, tag 0x0112) -> upright.
cv::Mat Upright(const cv::Mat& image, int orientation) {
  constexpr int kUpsideDown = 0;
  constexpr int kMirrored = 1;
  constexpr int kBoth = -1;
  cv::Mat turned = image;
  if (orientation >= 5 && orientation <= 8) cv::transpose(image, turned);
  cv::Mat result;
  switch (orientation) {
    case 2:
    case 6:
      cv::flip(turned, result, kMirrored);
      break;
    case 3:
    case 7:
      cv::flip(turned, result, kBoth);
      break;
    case 4:
    case 8:
      cv::flip(turned, result, kUpsideDown);
      break;
    default:
      result = turned;
  }
  return result;
}

}  // namespace

bool HasImageSuffix(const fs::path& file) {
  constexpr std::array<std::string_view, 8> kSuffixes = {".jpg", ".jpeg", ".png",  ".bmp",
                                                         ".tif", ".tiff", ".webp", ".ppm"};
  std::string suffix = file.extension().string();
  std::transform(suffix.begin(), suffix.end(), suffix.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return std::find(kSuffixes.begin(), kSuffixes.end(), suffix) != kSuffixes.end();
}

cv::Mat ReadImage(const fs::path& file, bool upright) {
  try {
    const std::vector<std::uint8_t> bytes = ReadBytes(file);
    const ImageStructure structure = InspectImage({bytes.data(), bytes.size()});
    const cv::Mat rgb = ToRgb(ToEightBits(Decode(bytes)));
    return upright ? Upright(rgb, structure.orientation) : rgb;
  } catch (const std::exception& error) {
    throw ImageError(file.string() + ": " +
                     (IsOutOfMemory(error) ? "not enough memory to read it; make the image smaller"
                                           : error.what()));
  }
}

bool IsOutOfMemory(const std::exception& error) {
  const auto* of_opencv = dynamic_cast<const cv::Exception*>(&error);
  return dynamic_cast<const std::bad_alloc*>(&error) != nullptr ||
         (of_opencv != nullptr && of_opencv->code == cv::Error::StsNoMem);
}

}  // namespace midas
