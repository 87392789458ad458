#include "errors.h"

#include <cstring>

namespace midas {

std::string OneLine(const std::string& text) {
  std::string line;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte > ' ' && byte != 127) {
      line += c;
    } else if (!line.empty() && line.back() != ' ') {
      line += ' ';
    }
  }
  if (!line.empty() && line.back() == ' ') line.pop_back();
  return line;
}

std::string SystemMessage(int error_number) {
  // The GNU variant, which returns the text; std::strerror is not safe in threads.
  char buffer[256];
  return strerror_r(error_number, buffer, sizeof buffer);
}

}  // namespace midas
