// BMP, WebP and the binary kinds of PPM.
#include <cstdlib>
#include <limits>
#include <string>

#include "errors.h"
#include "image_structure.h"

namespace midas {
namespace {

// Of the versions of the header that follow the old OS/2 one.
bool IsBmpHeader(std::uint32_t size) {
  for (const std::uint32_t known : {40, 52, 56, 64, 108, 124}) {
    if (size == known) return true;
  }
  return false;
}

// The size that a chunk of a WebP states; {0, 0} for a chunk that holds no picture.
Size WebpSize(const std::string& name, Bytes chunk) {
  constexpr std::uint32_t kBits14 = 0x3fff;
  const auto size = [](std::uint32_t height, std::uint32_t width) {
    return Size{static_cast<int>(height), static_cast<int>(width)};
  };
  if (name == "VP8X") return size(chunk.Little(7, 3) + 1, chunk.Little(4, 3) + 1);
  if (name == "VP8 ") return size(chunk.Little(8, 2) & kBits14, chunk.Little(6, 2) & kBits14);
  if (name == "VP8L") {
    const std::uint32_t bits = chunk.Little(1, 4);
    return size((bits >> 14 & kBits14) + 1, (bits & kBits14) + 1);
  }
  return {};
}

bool IsBlank(std::uint8_t c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

}  // namespace

ImageStructure InspectBmp(Bytes file) {
  ImageStructure structure;
  if (!file.Contains(14, 40) || !IsBmpHeader(file.Little(14, 4))) {
    Unsupported("a BMP of an old or unknown kind");
  }
  const auto height = static_cast<std::int32_t>(file.Little(22, 4));  // negative: top row first
  structure.size = {height, static_cast<int>(file.Little(18, 4))};
  if (height == std::numeric_limits<std::int32_t>::min() || structure.size.width <= 0) {
    Truncated("impossible size");
  }
  structure.size.height = std::abs(height);
  const auto bits = file.Little(28, 2);
  const auto compression = file.Little(30, 4);
  if (compression != 0 || (bits != 1 && bits != 4 && bits != 8 && bits != 24)) {
    Unsupported("a BMP of " + std::to_string(bits) + " bits a pixel and compression " +
                std::to_string(compression));
  }
  const std::size_t row = (static_cast<std::size_t>(file.Little(18, 4)) * bits + 31) / 32 * 4;
  if (structure.size.height <= 0 ||
      !file.Contains(file.Little(10, 4), row * static_cast<std::size_t>(structure.size.height))) {
    Truncated("its end is missing");
  }
  return structure;
}

// Chunks of name, length and data (padded to even) behind "RIFF", length, "WEBP".
ImageStructure InspectWebp(Bytes file) {
  ImageStructure structure;
  int exif = 0;
  int xmp = 0;
  const std::size_t end = 8 + static_cast<std::size_t>(file.Little(4, 4));
  if (end > file.size) Truncated("its end is missing");
  for (std::size_t position = 12; position + 8 <= end;) {
    const std::size_t length = file.Little(position + 4, 4);
    if (!file.Contains(position + 8, length)) Truncated("its end is missing");
    const Bytes data = file.From(position + 8, length);
    const std::string name(reinterpret_cast<const char*>(file.data) + position, 4);
    if (name == "ANMF" || name == "ANIM") Unsupported("an animated WebP");
    if (name == "ALPH" || (name == "VP8X" && (data.Big(0, 1) & 0x10) != 0)) {
      Unsupported("a WebP with transparency");
    }
    const Size size = WebpSize(name, data);
    if (size.width > 0) structure.size = size;
    if (name == "EXIF") {
      const std::size_t skip = data.StartsWith("Exif\0\0", 6) ? 6 : 0;
      exif = ExifOrientation(data.From(skip, length - skip));
    }
    if (name == "XMP ") xmp = XmpOrientation(data);
    position += 8 + length + length % 2;
  }
  structure.orientation = Orientation(exif, xmp);
  return structure;
}

// "P5" (grey) or "P6" (RGB), width, height, 255, then the values. Comments begin with '#'.
ImageStructure InspectPpm(Bytes file) {
  ImageStructure structure;
  if (file.data[1] != '5' && file.data[1] != '6') Unsupported("a PNM of plain text or of bits");
  std::size_t position = 2;
  std::size_t numbers[3] = {0, 0, 0};
  for (std::size_t& number : numbers) {
    while (position < file.size && (IsBlank(file.data[position]) || file.data[position] == '#')) {
      const bool comment = file.data[position] == '#';
      while (comment && position < file.size && file.data[position] != '\n') ++position;
      if (position < file.size) ++position;
    }
    const std::size_t begin = position;
    for (; position < file.size && position < begin + 9; ++position) {
      if (file.data[position] < '0' || file.data[position] > '9') break;
      number = 10 * number + static_cast<std::size_t>(file.data[position] - '0');
    }
    if (position == begin) Truncated("no number where its header needs one");
  }
  structure.size = {static_cast<int>(numbers[1]), static_cast<int>(numbers[0])};
  if (numbers[2] != 255) Unsupported("a PNM of other than 8 bits a value");
  const std::size_t channels = file.data[1] == '6' ? 3 : 1;
  if (position == file.size || !IsBlank(file.data[position]) ||
      !file.Contains(position + 1, numbers[0] * numbers[1] * channels)) {
    Truncated("its end is missing");
  }
  return structure;
}

}  // namespace midas
