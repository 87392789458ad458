// PNG (ISO/IEC 15948): signature, then chunks of length, name, data and CRC-32.
#include <array>
#include <cstring>
#include <string>

#include "image_structure.h"

namespace midas {
namespace {

constexpr std::size_t kSignature = 8;
constexpr std::size_t kFrame = 12;  // length, name and checksum around a chunk's data

std::array<std::uint32_t, 256> CrcTable() {
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t n = 0; n < table.size(); ++n) {
    std::uint32_t value = n;
    for (int bit = 0; bit < 8; ++bit) value = value & 1 ? 0xEDB88320u ^ value >> 1 : value >> 1;
    table[n] = value;
  }
  return table;
}

std::uint32_t Crc32(Bytes bytes) {
  static const std::array<std::uint32_t, 256> kTable = CrcTable();
  std::uint32_t crc = 0xFFFFFFFFu;
  for (std::size_t i = 0; i < bytes.size; ++i) {
    crc = kTable[(crc ^ bytes.data[i]) & 0xFF] ^ crc >> 8;
  }
  return ~crc;
}

std::string Printable(Bytes name) {
  std::string text;
  for (std::size_t i = 0; i < name.size; ++i) {
    const char c = static_cast<char>(name.data[i]);
    text += c > ' ' && c < 127 ? c : '?';
  }
  return text;
}

// An international text chunk: keyword, 0, compressed or not, method, language, 0, translated
// keyword, 0, text.
int OrientationOfText(Bytes data) {
  constexpr char kKeyword[] = "XML:com.adobe.xmp";
  const bool is_xmp = data.StartsWith(kKeyword, sizeof kKeyword);
  return is_xmp && data.Big(sizeof kKeyword, 1) == 0 ? XmpOrientation(data) : 0;
}

}  // namespace

ImageStructure InspectPng(Bytes file) {
  ImageStructure structure;
  int exif = 0;
  int xmp = 0;
  std::string name;
  for (std::size_t position = kSignature; name != "IEND";) {
    if (!file.Contains(position, kFrame)) Truncated("its end is missing");
    const std::size_t length = file.Big(position, 4);
    if (!file.Contains(position, kFrame + length)) Truncated("its end is missing");
    name = Printable(file.From(position + 4, 4));
    if (Crc32(file.From(position + 4, 4 + length)) != file.Big(position + 8 + length, 4)) {
      Truncated("wrong checksum in chunk " + name);
    }
    const Bytes data = file.From(position + 8, length);
    if (name == "IHDR") {
      structure.size = {static_cast<int>(data.Big(4, 4)), static_cast<int>(data.Big(0, 4))};
    }
    if (name == "eXIf") exif = ExifOrientation(data);
    if (name == "iTXt" && xmp == 0) xmp = OrientationOfText(data);
    position += kFrame + length;
  }
  structure.orientation = Orientation(exif, xmp);
  return structure;
}

}  // namespace midas
