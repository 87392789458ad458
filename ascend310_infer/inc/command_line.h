// The command line.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "backend.h"
#include "dataset.h"
#include "prepare.h"

namespace midas {

struct Options {
  std::filesystem::path model;
  std::filesystem::path data;
  DatasetKind dataset = DatasetKind::kImages;
  std::filesystem::path output = ".";
  BackendOptions backend;
  std::optional<int> batch_size;  // 1 where it is not given
  int size = 384;  // pixels; the bound of the resize rule, a multiple of 32
  Normalisation normalisation;
  bool help = false;
};

// `--key value` or `--key=value`. Throws Error(kCommandLine).
Options ParseCommandLine(int count, const char* const* words);

// What --help prints.
std::string Usage();

}  // namespace midas
