#include "image_structure.h"

#include <cstring>
#include <string>

#include "errors.h"

namespace midas {
namespace {

ImageStructure InspectByContent(Bytes file) {
  if (file.StartsWith("\xff\xd8\xff", 3)) return InspectJpeg(file);
  if (file.StartsWith("\x89PNG\r\n\x1a\n", 8)) return InspectPng(file);
  if (file.StartsWith("BM", 2)) return InspectBmp(file);
  if (file.StartsWith("II*\0", 4) || file.StartsWith("MM\0*", 4)) return InspectTiff(file);
  if (file.StartsWith("II+\0", 4) || file.StartsWith("MM\0+", 4)) Unsupported("a BigTIFF");
  if (file.StartsWith("RIFF", 4) && file.Contains(8, 4) &&
      std::memcmp(file.data + 8, "WEBP", 4) == 0) {
    return InspectWebp(file);
  }
  if (file.size > 2 && file.data[0] == 'P' && file.data[1] >= '1' && file.data[1] <= '6') {
    return InspectPpm(file);
  }
  throw ImageError("not an image, or damaged at its start");
}

}  // namespace

bool Bytes::StartsWith(const char* text, std::size_t length) const {
  return size >= length && std::memcmp(data, text, length) == 0;
}

std::uint32_t Bytes::Big(std::size_t offset, int count) const {
  std::uint32_t value = 0;
  if (!Contains(offset, static_cast<std::size_t>(count))) return 0;
  for (int i = 0; i < count; ++i) value = value << 8 | data[offset + static_cast<std::size_t>(i)];
  return value;
}

std::uint32_t Bytes::Little(std::size_t offset, int count) const {
  std::uint32_t value = 0;
  if (!Contains(offset, static_cast<std::size_t>(count))) return 0;
  for (int i = count; i-- > 0;) value = value << 8 | data[offset + static_cast<std::size_t>(i)];
  return value;
}

ImageStructure InspectImage(Bytes file) {
  const ImageStructure structure = InspectByContent(file);
  const Size size = structure.size;
  if (size.height <= 0 || size.width <= 0) Truncated("impossible size");
  if (IsTooLarge(size)) {
    throw ImageError("more than " + std::to_string(kMaxPixels) +
                     " pixels; make the image smaller");
  }
  return structure;
}

int XmpOrientation(Bytes xmp) {
  const std::string text(reinterpret_cast<const char*>(xmp.data), xmp.size);
  const std::string name = "tiff:Orientation";
  for (auto at = text.find(name); at != std::string::npos; at = text.find(name, at + 1)) {
    std::size_t value = at + name.size();
    if (text.compare(value, 2, "=\"") == 0) {
      value += 2;
    } else if (text.compare(value, 1, ">") == 0) {
      value += 1;
    } else {
      continue;
    }
    if (value < text.size() && text[value] >= '0' && text[value] <= '9') return text[value] - '0';
  }
  return 0;
}

int Orientation(int exif, int xmp) {
  const int found = exif != 0 ? exif : xmp;
  return found == 0 ? 1 : found;
}

void Truncated(const std::string& what) {
  throw ImageError("truncated or damaged (" + what + "); copy or download it again");
}

void Unsupported(const std::string& what) {
  throw ImageError(what + " is not read by this program; convert it to an 8-bit PNG");
}

}  // namespace midas
