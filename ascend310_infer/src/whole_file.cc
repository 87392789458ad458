#include "whole_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <system_error>
#include <utility>

#include "errors.h"

namespace midas {
namespace fs = std::filesystem;
namespace {

constexpr int kReadableByAll = 0666;  // less what the umask takes away

// Removes a file unless it was moved away.
class Temporary {
 public:
  explicit Temporary(fs::path file) : file_(std::move(file)) {}
  ~Temporary() {
    std::error_code ignored;
    fs::remove(file_, ignored);
  }
  Temporary(const Temporary&) = delete;
  Temporary& operator=(const Temporary&) = delete;

 private:
  fs::path file_;
};

}  // namespace

void CannotWrite(const fs::path& file, const std::string& reason) {
  throw Error(ExitCode::kOutput, file.string() + ": cannot be written (" + reason +
                                     "); free some space or choose another --output");
}

Descriptor::Descriptor(const fs::path& file, int flags, fs::path name)
    : name_(std::move(name)),
      descriptor_(open(file.c_str(), flags | O_CLOEXEC, kReadableByAll)) {
  if (descriptor_ < 0) CannotWrite(name_, SystemMessage(errno));
}

Descriptor::~Descriptor() {
  if (descriptor_ >= 0) close(descriptor_);
}

void Descriptor::Write(const void* data, std::size_t size) {
  const auto* bytes = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t written = write(descriptor_, bytes, size);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) CannotWrite(name_, SystemMessage(errno));
    bytes += written;
    size -= static_cast<std::size_t>(written);
  }
}

void Descriptor::Close() {
  const int result = close(descriptor_);
  descriptor_ = -1;
  if (result != 0) CannotWrite(name_, SystemMessage(errno));
}

void WriteWhole(const fs::path& file, const void* data, std::size_t size) {
  // Not named after the file: a name that is as long as names may be would become too long.
  const fs::path beside = file.parent_path() / ("." + std::to_string(getpid()) + ".tmp");
  const Temporary temporary(beside);
  try {
    Descriptor descriptor(beside, O_WRONLY | O_CREAT | O_TRUNC, file);
    descriptor.Write(data, size);
    descriptor.Close();
    fs::rename(beside, file);
  } catch (const fs::filesystem_error& error) {
    CannotWrite(file, error.code().message());
  }
}

void MakeFolder(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) CannotWrite(folder, error.message());
}

Table::Table(const fs::path& file, const std::string& header)
    : descriptor_(file, O_WRONLY | O_CREAT | O_EXCL, file) {
  Append(header);
}

void Table::Append(const std::string& row) {
  const std::string line = row + "\r\n";
  try {
    descriptor_.Write(line.data(), line.size());
  } catch (const Error&) {
    // What fitted of the row goes again. Nothing is to be done where even that fails.
    if (ftruncate(descriptor_.get(), static_cast<off_t>(size_)) == 0) {
      lseek(descriptor_.get(), 0, SEEK_END);
    }
    throw;
  }
  size_ += line.size();
}

}  // namespace midas
