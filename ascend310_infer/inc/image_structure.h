// What the bytes of an image file say about it, and whether they are all there.
//
// OpenCV's decoders let damaged files through: a JPEG without its end becomes half grey, a PNG with
// wrong checksums another picture. And some files they decode to other pixels than Pillow does,
// which the Python programs read with. Both are found here, before OpenCV sees the file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "resize_rule.h"

namespace midas {

// A view of bytes that somebody else keeps.
struct Bytes {
  const std::uint8_t* data = nullptr;
  std::size_t size = 0;

  bool Contains(std::size_t offset, std::size_t count) const {
    return offset <= size && count <= size - offset;
  }
  Bytes From(std::size_t offset, std::size_t count) const { return {data + offset, count}; }
  bool StartsWith(const char* text, std::size_t length) const;
  std::uint32_t Big(std::size_t offset, int count) const;     // unsigned, big-endian; 0 outside
  std::uint32_t Little(std::size_t offset, int count) const;  // unsigned, little-endian
};

struct ImageStructure {
  Size size;            // as stored, before the orientation is applied
  int orientation = 1;  // EXIF 2.32, tag 0x0112, where reading may apply it or not
};

// Looks at a whole file. Throws ImageError with the reason only (the caller knows the file): not an
// image, truncated, damaged, too large, or of a kind that this program does not read.
ImageStructure InspectImage(Bytes file);

// The parts of InspectImage; each is given a file of its format.
ImageStructure InspectJpeg(Bytes file);
ImageStructure InspectPng(Bytes file);
ImageStructure InspectBmp(Bytes file);
ImageStructure InspectTiff(Bytes file);
ImageStructure InspectWebp(Bytes file);
ImageStructure InspectPpm(Bytes file);

// The orientation that a TIFF structure (EXIF data without its "Exif\0\0") holds; 0 where it holds
// none or is damaged: damaged metadata leaves the pixels good.
int ExifOrientation(Bytes tiff);

// The same of an XMP packet; 0 where it holds none.
int XmpOrientation(Bytes xmp);

// The two together: EXIF wins, and 1, upright, stands for neither.
int Orientation(int exif, int xmp);

[[noreturn]] void Truncated(const std::string& what);
[[noreturn]] void Unsupported(const std::string& what);

}  // namespace midas
