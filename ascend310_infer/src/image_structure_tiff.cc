// TIFF 6.0: a header, then a directory of 12-byte entries. EXIF data is such a structure too.
#include <algorithm>
#include <cstring>
#include <string>

#include "image_structure.h"

namespace midas {
namespace {

enum Tag : std::uint32_t {
  kWidth = 256,
  kHeight = 257,
  kBitsPerSample = 258,
  kCompression = 259,
  kPhotometric = 262,
  kStripOffsets = 273,
  kOrientation = 274,
  kSamplesPerPixel = 277,
  kStripByteCounts = 279,
  kPlanar = 284,
  kTileWidth = 322,
  kSampleFormat = 339,
};

// The first directory of a TIFF structure.
class Directory {
 public:
  explicit Directory(Bytes file) : file_(file), little_(file.StartsWith("II", 2)) {
    offset_ = Number(4, 4);
    count_ = Number(offset_, 2);
  }

  bool IsWhole() const { return count_ > 0 && file_.Contains(offset_, 2 + 12 * count_ + 4); }

  // The first value of an entry of integers, or `otherwise` where there is no such entry.
  std::uint32_t Value(Tag tag, std::uint32_t otherwise) const {
    return Value(tag, 0, otherwise);
  }

  // The value at this index, which counts from 0.
  std::uint32_t Value(Tag tag, std::size_t index, std::uint32_t otherwise) const {
    for (std::size_t i = 0; i < count_; ++i) {
      const std::size_t entry = offset_ + 2 + 12 * i;
      if (!file_.Contains(entry, 12)) break;
      if (Number(entry, 2) != tag) continue;
      const std::size_t bytes = Number(entry + 2, 2) == 3 ? 2 : 4;  // type 3: SHORT
      const std::size_t count = Number(entry + 4, 4);
      if (index >= count) break;
      const std::size_t values = count * bytes <= 4 ? entry + 8 : Number(entry + 8, 4);
      return Number(values + index * bytes, static_cast<int>(bytes));
    }
    return otherwise;
  }

 private:
  std::uint32_t Number(std::size_t offset, int count) const {
    return little_ ? file_.Little(offset, count) : file_.Big(offset, count);
  }

  Bytes file_;
  bool little_;
  std::size_t offset_ = 0;
  std::size_t count_ = 0;
};

// Only kinds whose pixels were found equal to Pillow's.
void CheckKind(const Directory& directory) {
  const auto compression = directory.Value(kCompression, 1);
  const auto bits = directory.Value(kBitsPerSample, 1);
  const auto photometric = directory.Value(kPhotometric, 0);
  const auto samples = directory.Value(kSamplesPerPixel, 1);
  const bool grey = photometric == 1 && samples == 1 && (bits == 8 || bits == 16);
  const bool colour = photometric == 2 && samples == 3 && bits == 8;
  if (directory.Value(kSampleFormat, 1) == 3) {
    Unsupported("a TIFF of floating-point values");
  }
  // OpenCV does not say where the decompression failed: the picture would be black from there on.
  if (compression != 1) Unsupported("a compressed TIFF");
  if (!(grey || colour) || directory.Value(kSampleFormat, 1) != 1 ||
      directory.Value(kPlanar, 1) != 1 || directory.Value(kTileWidth, 0) != 0) {
    Unsupported("a TIFF of " + std::to_string(samples) + " x " + std::to_string(bits) +
                " bits and photometric interpretation " + std::to_string(photometric));
  }
}

// Whether all pixels are there: OpenCV leaves black what it does not find.
bool HasItsStrips(const Directory& directory, Bytes file, Size size) {
  const auto samples = static_cast<std::size_t>(directory.Value(kSamplesPerPixel, 1));
  const std::size_t row = static_cast<std::size_t>(size.width) * samples *
                          (directory.Value(kBitsPerSample, 1) / 8);
  std::size_t rest = row * static_cast<std::size_t>(size.height);
  for (std::size_t strip = 0; rest > 0; ++strip) {
    const std::size_t length = directory.Value(kStripByteCounts, strip, 0);
    if (length == 0 || !file.Contains(directory.Value(kStripOffsets, strip, 0), length)) {
      return false;
    }
    rest -= std::min(rest, length);
  }
  return true;
}

}  // namespace

int ExifOrientation(Bytes tiff) {
  if (!tiff.StartsWith("II*\0", 4) && !tiff.StartsWith("MM\0*", 4)) return 0;
  return static_cast<int>(Directory(tiff).Value(kOrientation, 0));
}

ImageStructure InspectTiff(Bytes file) {
  const Directory directory(file);
  if (!directory.IsWhole()) Truncated("its directory is missing");
  CheckKind(directory);
  ImageStructure structure;
  structure.size = {static_cast<int>(directory.Value(kHeight, 0)),
                    static_cast<int>(directory.Value(kWidth, 0))};
  if (structure.size.height <= 0 || structure.size.width <= 0) Truncated("impossible size");
  if (!HasItsStrips(directory, file, structure.size)) Truncated("its end is missing");
  // The orientation stays 1: in a TIFF it is part of the format, and OpenCV applies it, always.
  return structure;
}

}  // namespace midas
