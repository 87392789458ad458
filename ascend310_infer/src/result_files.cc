#include "result_files.h"

#include <array>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <system_error>

#include "errors.h"

namespace midas {
namespace fs = std::filesystem;
namespace {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "predictions are little-endian");

constexpr char kTimes[] = "time_Result";
constexpr char kHeader[] = "image,file,height,width,image_height,image_width";

fs::path FolderOf(const fs::path& output, const std::string& dataset) {
  return output / "result_Files" / dataset;
}

// RFC 4180.
std::string CsvField(const std::string& text) {
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  std::string quoted = "\"";
  for (const char c : text) quoted += c == '"' ? "\"\"" : std::string(1, c);
  return quoted + "\"";
}

std::string JsonText(const std::string& text) {
  std::string quoted = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      quoted += std::string("\\") + c;
    } else if (byte < ' ') {
      char escape[8];
      std::snprintf(escape, sizeof escape, "\\u%04x", static_cast<unsigned>(byte));
      quoted += escape;
    } else {
      quoted += c;
    }
  }
  return quoted + "\"";
}

// The shortest text that is read back as the same number. std::to_chars does that for double from
// GCC 11 on, which not every Ascend machine has.
std::string JsonNumber(double number) {
  char text[32];
  for (int digits = 1; digits <= std::numeric_limits<double>::max_digits10; ++digits) {
    std::snprintf(text, sizeof text, "%.*g", digits, number);
    if (std::strtod(text, nullptr) == number) break;
  }
  return text;
}

std::string JsonNumbers(const std::array<double, 3>& numbers) {
  return "[" + JsonNumber(numbers[0]) + ", " + JsonNumber(numbers[1]) + ", " +
         JsonNumber(numbers[2]) + "]";
}

std::string Json(const RunSettings& settings) {
  return "{\n  \"model\": " + JsonText(settings.model.string()) +
         ",\n  \"backend\": " + JsonText(settings.backend) +
         ",\n  \"precision\": " + JsonText(settings.precision) +
         ",\n  \"batch_size\": " + std::to_string(settings.batch_size) +
         ",\n  \"resize\": " + JsonText(settings.resize) +
         ",\n  \"mean\": " + JsonNumbers(settings.normalisation.mean) +
         ",\n  \"std\": " + JsonNumbers(settings.normalisation.std) +
         ",\n  \"device\": " + JsonText(settings.device) + "\n}\n";
}

[[noreturn]] void ExistsAlready(const fs::path& folder) {
  throw Error(ExitCode::kOutput, folder.string() +
                                     ": exists already and is not overwritten; move it away, or "
                                     "choose another --output");
}

// A new folder, which goes again with all that is in it unless it is kept: one without its table
// would be in the way of the next try.
class NewFolder {
 public:
  explicit NewFolder(const fs::path& folder) : folder_(folder) {
    MakeFolder(folder.parent_path());
    std::error_code error;
    const bool is_new = fs::create_directory(folder, error);
    if (error) CannotWrite(folder, error.message());
    if (!is_new) ExistsAlready(folder);  // made by another program since RequireFree
  }
  ~NewFolder() {
    std::error_code ignored;
    if (!kept_) fs::remove_all(folder_, ignored);
  }
  NewFolder(const NewFolder&) = delete;
  NewFolder& operator=(const NewFolder&) = delete;

  void Keep() { kept_ = true; }

 private:
  fs::path folder_;
  bool kept_ = false;
};

// Also true for links to nowhere, which are in the way too.
bool Exists(const fs::path& file) {
  std::error_code error;
  const fs::file_type type = fs::symlink_status(file, error).type();
  if (type == fs::file_type::none) CannotWrite(file, error.message());
  return type != fs::file_type::not_found;
}

std::string Row(const DatasetImage& image, const Prediction& prediction) {
  std::string row = CsvField(image.name) + "," + CsvField(image.result);
  for (const int number : {prediction.size.height, prediction.size.width, prediction.image.height,
                           prediction.image.width}) {
    row += "," + std::to_string(number);
  }
  return row;
}

}  // namespace

void ResultFiles::RequireFree(const fs::path& output, const std::string& dataset) {
  const fs::path folder = FolderOf(output, dataset);
  std::error_code ignored;
  if (fs::exists(fs::symlink_status(folder, ignored))) ExistsAlready(folder);
  const fs::path times = output / kTimes;
  std::error_code error;
  const fs::file_type type = fs::status(times, error).type();
  if (type == fs::file_type::none) CannotWrite(times, error.message());
  if (type != fs::file_type::not_found && type != fs::file_type::directory) {
    CannotWrite(times, "not a folder");
  }
}

ResultFiles::ResultFiles(const fs::path& output, const Dataset& dataset,
                         const RunSettings& settings)
    : dataset_(dataset), folder_(FolderOf(output, dataset.name)) {
  NewFolder folder(folder_);
  const std::string json = Json(settings);
  WriteWhole(folder_ / "run.json", json.data(), json.size());
  table_.emplace(folder_ / "predictions.csv", kHeader);
  folder.Keep();
}

void ResultFiles::Add(const Prediction& prediction) {
  const DatasetImage& image = dataset_.images[prediction.index];
  const fs::path file = folder_ / image.result;
  MakeFolder(file.parent_path());
  WriteWhole(file, prediction.values.data(), prediction.values.size() * sizeof(float));
  try {
    table_->Append(Row(image, prediction));
  } catch (const Error&) {
    std::error_code ignored;
    fs::remove(file, ignored);
    throw;
  }
}

void WriteTimes(const fs::path& output, const std::string& text) {
  const fs::path folder = output / kTimes;
  MakeFolder(folder);
  const fs::path file = folder / "test_perform_static.txt";
  if (Exists(file)) {
    int number = 1;
    fs::path kept;
    do {
      kept = folder / ("test_perform_static." + std::to_string(number++) + ".txt");
    } while (Exists(kept));
    std::error_code error;
    fs::rename(file, kept, error);
    if (error) CannotWrite(file, error.message());
  }
  WriteWhole(file, text.data(), text.size());
}

}  // namespace midas
