// Files that are written whole or not at all.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>

namespace midas {

// An open file descriptor.
class Descriptor {
 public:
  // `flags` as in open(2); `name` is the file that messages name.
  // Throws Error(kOutput): it cannot be opened.
  Descriptor(const std::filesystem::path& file, int flags, std::filesystem::path name);
  ~Descriptor();
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  // Throws Error(kOutput): disk full and the like.
  void Write(const void* data, std::size_t size);
  // Some file systems report a full disk only now. Throws Error(kOutput).
  void Close();
  int get() const { return descriptor_; }

 private:
  std::filesystem::path name_;
  int descriptor_;
};

// Writes a file whole or not at all: to a temporary one beside it, then moved in one step.
// Throws Error(kOutput).
void WriteWhole(const std::filesystem::path& file, const void* data, std::size_t size);

// Makes a folder and those above it. Throws Error(kOutput).
void MakeFolder(const std::filesystem::path& folder);

[[noreturn]] void CannotWrite(const std::filesystem::path& file, const std::string& reason);

// A table without rows, to which whole rows are appended.
class Table {
 public:
  // Creates the file with its header. Throws Error(kOutput).
  Table(const std::filesystem::path& file, const std::string& header);

  // Appends a row, or leaves the file as it was. Throws Error(kOutput).
  void Append(const std::string& row);

 private:
  Descriptor descriptor_;
  std::size_t size_ = 0;
};

}  // namespace midas
