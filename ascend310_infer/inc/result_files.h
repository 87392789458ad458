// The files that a run leaves: predictions, their table, the settings and the times.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "backend.h"
#include "dataset.h"
#include "prepare.h"
#include "resize_rule.h"
#include "whole_file.h"

namespace midas {

struct Prediction {
  std::size_t index = 0;      // of the image in its dataset
  Size image;                 // of the decoded image, pixels
  Size size;                  // of the prediction
  std::vector<float> values;  // [size.height, size.width], inverse depth, larger is closer
};

// What the predictions depend on, for run.json.
struct RunSettings {
  std::filesystem::path model;
  std::string backend;
  std::string precision;
  int batch_size = 1;
  std::string resize;  // "upper_bound 384" or "fixed 384x1280" (height x width)
  Normalisation normalisation;
  std::string device;
};

// result_Files/<dataset>/: <image>.bin each (little-endian float32, row after row), predictions.csv
// and run.json.
class ResultFiles {
 public:
  // Throws Error(kOutput) if results of this dataset are there already (nothing is overwritten), or
  // if the times could not be written at the end.
  static void RequireFree(const std::filesystem::path& output, const std::string& dataset);

  // Makes the folder with an empty table, or nothing. Throws Error(kOutput).
  ResultFiles(const std::filesystem::path& output, const Dataset& dataset,
              const RunSettings& settings);

  // Writes one prediction and then its row: a row stands for a whole file. Throws Error(kOutput).
  void Add(const Prediction& prediction);

  const std::filesystem::path& folder() const { return folder_; }

 private:
  const Dataset& dataset_;
  std::filesystem::path folder_;
  std::optional<Table> table_;  // always there once it is built
};

// Writes time_Result/test_perform_static.txt; one of an earlier run is kept under a new name, with
// a number. Throws Error(kOutput).
void WriteTimes(const std::filesystem::path& output, const std::string& text);

}  // namespace midas
