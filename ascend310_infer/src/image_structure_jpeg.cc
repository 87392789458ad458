// JPEG (ITU-T T.81, annex B): SOI, segments, entropy-coded scans, EOI.
#include "image_structure.h"

namespace midas {
namespace {

constexpr int kStartOfScan = 0xDA;
constexpr int kEndOfImage = 0xD9;
constexpr int kApp1 = 0xE1;

bool IsRestart(int marker) { return marker >= 0xD0 && marker <= 0xD7; }

bool HasNoLength(int marker) { return marker == 0x01 || marker == 0xD8 || IsRestart(marker); }

bool IsFrameHeader(int marker) {
  return marker >= 0xC0 && marker <= 0xCF && marker != 0xC4 && marker != 0xC8 && marker != 0xCC;
}

// The next marker at or after `position`, which moves behind it. Stuffed zeros, fill bytes and
// restart markers belong to a scan's data.
int NextMarker(Bytes file, std::size_t& position) {
  while (position + 1 < file.size) {
    const int marker = file.data[position + 1];
    if (file.data[position] != 0xFF || marker == 0x00 || IsRestart(marker)) {
      ++position;
    } else if (marker == 0xFF) {
      ++position;
    } else {
      position += 2;
      return marker;
    }
  }
  Truncated("its end is missing");
}

struct Metadata {
  int exif = 0;
  int xmp = 0;
};

void ReadApp1(Bytes segment, Metadata& metadata) {
  constexpr std::size_t kExif = 6;
  constexpr std::size_t kXmp = 29;
  if (segment.StartsWith("Exif\0\0", kExif) && metadata.exif == 0) {
    metadata.exif = ExifOrientation(segment.From(kExif, segment.size - kExif));
  } else if (segment.StartsWith("http://ns.adobe.com/xap/1.0/\0", kXmp) && metadata.xmp == 0) {
    metadata.xmp = XmpOrientation(segment.From(kXmp, segment.size - kXmp));
  }
}

void ReadFrameHeader(Bytes segment, ImageStructure& structure) {
  structure.size = {static_cast<int>(segment.Big(1, 2)), static_cast<int>(segment.Big(3, 2))};
  if (segment.Big(0, 1) != 8) Unsupported("a JPEG of other than 8 bits a value");
  if (segment.Big(5, 1) == 4) Unsupported("a CMYK JPEG");
}

}  // namespace

ImageStructure InspectJpeg(Bytes file) {
  ImageStructure structure;
  Metadata metadata;
  std::size_t position = 2;
  bool has_scan = false;
  while (true) {
    const int marker = NextMarker(file, position);
    if (marker == kEndOfImage) break;
    if (HasNoLength(marker)) continue;
    const std::size_t length = file.Big(position, 2);
    if (length < 2 || !file.Contains(position, length)) Truncated("its end is missing");
    const Bytes segment = file.From(position + 2, length - 2);
    if (marker == kApp1) ReadApp1(segment, metadata);
    if (IsFrameHeader(marker)) ReadFrameHeader(segment, structure);
    has_scan = has_scan || marker == kStartOfScan;
    position += length;
  }
  if (!has_scan) Truncated("it holds no picture");
  structure.orientation = Orientation(metadata.exif, metadata.xmp);
  return structure;
}

}  // namespace midas
