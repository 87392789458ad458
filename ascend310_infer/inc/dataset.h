// Which images a folder of a benchmark holds.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "resize_rule.h"

namespace midas {

enum class DatasetKind { kKitti, kSintel, kTum, kImages };

struct DatasetImage {
  std::filesystem::path file;
  std::string name;    // path relative to the folder, with '/'
  std::string result;  // path of its prediction relative to the results, ends in .bin; unique
};

struct Dataset {
  std::string name;  // "Kitti", "Sintel", "TUM" or "images"
  ResizeMethod resize = ResizeMethod::kUpperBound;
  // Whether the EXIF orientation is applied. For benchmarks it is not: a depth map has the
  // orientation in which the camera stored the image.
  bool upright = false;
  std::vector<DatasetImage> images;  // sorted, at least one
};

// Lists the images below a folder:
//   Kitti   <drive>/image/*
//   Sintel  final_left/<scene>/*
//   TUM     <sequence>/associate.txt with lines `rgb depth` or `time rgb time depth`; the folder
//           may also be a single sequence
//   images  *
// Hidden files and folders are left out. An image that a line of associate.txt names need not
// exist: reading it reports that.
// Throws Error(kData): no such folder, another layout, or no image.
Dataset ListDataset(DatasetKind kind, const std::filesystem::path& folder);

}  // namespace midas
