#include "dataset.h"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <system_error>

#include "errors.h"
#include "image_reader.h"

namespace midas {
namespace fs = std::filesystem;
namespace {

constexpr char kAssociations[] = "associate.txt";

[[noreturn]] void Fail(const fs::path& path, const std::string& text) {
  throw Error(ExitCode::kData, path.string() + ": " + text);
}

// What a folder holds without hidden entries, sorted by name.
std::vector<fs::path> Entries(const fs::path& folder) {
  std::vector<fs::path> entries;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    if (it->path().filename().string().front() != '.') entries.push_back(it->path());
  }
  if (error) Fail(folder, "cannot be listed (" + error.message() + ")");
  std::sort(entries.begin(), entries.end());
  return entries;
}

bool IsFolder(const fs::path& path) {
  std::error_code ignored;
  return fs::is_directory(path, ignored);
}

bool IsFile(const fs::path& path) {
  std::error_code ignored;
  return fs::is_regular_file(path, ignored);
}

std::vector<fs::path> Subfolders(const fs::path& folder) {
  std::vector<fs::path> folders = Entries(folder);
  folders.erase(std::remove_if(folders.begin(), folders.end(),
                               [](const fs::path& path) { return !IsFolder(path); }),
                folders.end());
  return folders;
}

// The images directly inside a folder; none where there is no such folder.
std::vector<fs::path> Images(const fs::path& folder) {
  if (!IsFolder(folder)) return {};
  std::vector<fs::path> images = Entries(folder);
  images.erase(
      std::remove_if(images.begin(), images.end(),
                     [](const fs::path& path) { return !HasImageSuffix(path) || !IsFile(path); }),
      images.end());
  return images;
}

void Append(std::vector<fs::path>& all, const std::vector<fs::path>& more) {
  all.insert(all.end(), more.begin(), more.end());
}

std::vector<fs::path> FindKitti(const fs::path& root) {
  std::vector<fs::path> images;
  for (const fs::path& drive : Subfolders(root)) Append(images, Images(drive / "image"));
  return images;
}

std::vector<fs::path> FindSintel(const fs::path& root) {
  const fs::path scenes = root / "final_left";
  if (!IsFolder(scenes)) {
    Fail(scenes, "no such folder, expected final_left/<scene>/*.png in " + root.string());
  }
  std::vector<fs::path> images;
  for (const fs::path& scene : Subfolders(scenes)) Append(images, Images(scene));
  return images;
}

bool IsNumber(const std::string& text) {
  char* end = nullptr;
  std::strtod(text.c_str(), &end);
  return !text.empty() && *end == '\0';
}

// The image that a line of an associate.txt names; empty for blank and '#' lines.
std::string AssociatedImage(const std::string& line, const fs::path& file, int number) {
  std::istringstream stream(line);
  std::vector<std::string> fields;
  for (std::string field; stream >> field;) fields.push_back(field);
  if (fields.empty() || fields[0].front() == '#') return "";
  if (fields.size() == 4 && IsNumber(fields[0]) && IsNumber(fields[2])) return fields[1];
  if (fields.size() != 2) {
    Fail(file, "line " + std::to_string(number) +
                   ": expected 'rgb depth' or 'time rgb time depth', found '" + line + "'");
  }
  return fields[0];
}

std::vector<fs::path> AssociatedImages(const fs::path& sequence) {
  const fs::path file = sequence / kAssociations;
  std::ifstream stream(file);
  if (!stream) {
    Fail(file, "no such file, expected a line `rgb/FILE.png depth/FILE.png` for each image; make "
               "it with `python preprocess/associate.py " + sequence.string() + "`");
  }
  std::vector<fs::path> images;
  int number = 0;
  for (std::string line; std::getline(stream, line);) {
    const std::string mark = "\xEF\xBB\xBF";  // that Windows editors put in front
    if (++number == 1 && line.compare(0, mark.size(), mark) == 0) line.erase(0, mark.size());
    const std::string image = AssociatedImage(line, file, number);
    if (!image.empty()) images.push_back((sequence / image).lexically_normal());
  }
  return images;
}

bool IsSequence(const fs::path& folder) {
  return IsFile(folder / kAssociations) || IsFolder(folder / "rgb");
}

std::vector<fs::path> FindTum(const fs::path& root) {
  std::vector<fs::path> images;
  if (IsSequence(root)) {
    images = AssociatedImages(root);
  } else {
    for (const fs::path& folder : Subfolders(root)) {
      if (IsSequence(folder)) Append(images, AssociatedImages(folder));
    }
  }
  std::sort(images.begin(), images.end());
  images.erase(std::unique(images.begin(), images.end()), images.end());
  return images;
}

// a.jpg and a.png must not write the same file, nor a.jpg and a.jpg.png.
void NameResults(std::vector<DatasetImage>& images) {
  std::map<std::string, int> stems;
  const auto stem = [](const DatasetImage& image) {
    return fs::path(image.name).replace_extension().string();
  };
  for (const DatasetImage& image : images) ++stems[stem(image)];
  for (DatasetImage& image : images) {
    const std::string name = stem(image);
    const bool whole = stems[name] > 1 || HasImageSuffix(name);
    image.result = (whole ? image.name : name) + ".bin";
  }
}

struct Layout {
  const char* name;
  ResizeMethod resize;
  bool upright;
  std::vector<fs::path> (*find)(const fs::path& root);
  const char* files;
};

Layout LayoutOf(DatasetKind kind) {
  switch (kind) {
    case DatasetKind::kKitti:
      // The images are wide: with an upper bound they would be only 128 pixels high.
      return {"Kitti", ResizeMethod::kLowerBound, false, FindKitti, "<drive>/image/*.png"};
    case DatasetKind::kSintel:
      return {"Sintel", ResizeMethod::kUpperBound, false, FindSintel, "final_left/<scene>/*.png"};
    case DatasetKind::kTum:
      return {"TUM", ResizeMethod::kUpperBound, false, FindTum,
              "<sequence>/associate.txt with lines 'rgb/*.png depth/*.png'"};
    default:
      return {"images", ResizeMethod::kUpperBound, true, Images,
              "files .jpg .jpeg .png .bmp .tif .tiff .webp .ppm"};
  }
}

}  // namespace

Dataset ListDataset(DatasetKind kind, const fs::path& folder) {
  const Layout layout = LayoutOf(kind);
  if (!IsFolder(folder)) {
    Fail(folder, std::string("no such folder, expected one with ") + layout.files);
  }
  Dataset dataset{layout.name, layout.resize, layout.upright, {}};
  const fs::path root = folder.lexically_normal();
  for (const fs::path& file : layout.find(root)) {
    const std::string name = file.lexically_relative(root).generic_string();
    if (name.empty() || name.compare(0, 2, "..") == 0) {
      Fail(file, "lies outside of " + folder.string() + "; name images inside of it");
    }
    dataset.images.push_back({file, name, ""});
  }
  if (dataset.images.empty()) {
    Fail(folder, std::string("no image in this folder, expected ") + layout.files);
  }
  NameResults(dataset.images);
  return dataset;
}

}  // namespace midas
