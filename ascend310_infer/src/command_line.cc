#include "command_line.h"

#include <array>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <limits>
#include <map>
#include <system_error>
#include <utility>
#include <vector>

#include "errors.h"

namespace midas {
namespace {

constexpr int kLargestSize = 8192;
constexpr int kLargestBatch = 1024;
constexpr int kManyThreads = 1024;
constexpr int kLastDevice = 1023;

[[noreturn]] void Fail(const std::string& text) {
  throw Error(ExitCode::kCommandLine, text);
}

int ParseInteger(const std::string& flag, const std::string& text, int low, int high) {
  int value = 0;
  const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (problem != std::errc() || end != text.data() + text.size() || value < low || value > high) {
    Fail(flag + ": '" + text + "', expected a whole number from " + std::to_string(low) + " to " +
         std::to_string(high));
  }
  return value;
}

std::array<double, 3> ParseColour(const std::string& flag, const std::string& text) {
  std::array<double, 3> numbers{};
  const char* position = text.c_str();
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    char* next = nullptr;
    numbers[i] = std::strtod(position, &next);  // GCC has std::from_chars of double from 11 on
    const char expected = i + 1 < numbers.size() ? ',' : '\0';
    if (next == position || *next != expected ||
        !(std::abs(numbers[i]) <= std::numeric_limits<float>::max())) {
      Fail(flag + ": '" + text + "', expected three numbers r,g,b like 0.485,0.456,0.406");
    }
    position = next + 1;
  }
  return numbers;
}

std::string ParseChoice(const std::string& flag, const std::string& text,
                        const std::vector<std::string>& choices) {
  std::string all;
  for (const std::string& choice : choices) {
    if (text == choice) return text;
    all += (all.empty() ? "" : ", ") + choice;
  }
  Fail(flag + ": '" + text + "', expected one of " + all);
}

DatasetKind ParseDataset(const std::string& flag, const std::string& text) {
  const std::map<std::string, DatasetKind> kinds = {{"Kitti", DatasetKind::kKitti},
                                                    {"Sintel", DatasetKind::kSintel},
                                                    {"TUM", DatasetKind::kTum},
                                                    {"images", DatasetKind::kImages}};
  return kinds.at(ParseChoice(flag, text, {"Kitti", "Sintel", "TUM", "images"}));
}

int ParseSize(const std::string& flag, const std::string& text) {
  const int size = ParseInteger(flag, text, kSizeMultiple, kLargestSize);
  if (size % kSizeMultiple != 0) Fail(flag + ": " + text + ", expected a multiple of 32");
  return size;
}

std::array<double, 3> ParseStd(const std::string& flag, const std::string& text) {
  const std::array<double, 3> numbers = ParseColour(flag, text);
  for (const double number : numbers) {
    // The computation is in float32, where a very small number is 0.
    if (static_cast<float>(number) <= 0) Fail(flag + ": '" + text + "', expected numbers above 0");
  }
  return numbers;
}

using Setter = std::function<void(const std::string& flag, const std::string& value)>;

std::map<std::string, Setter> Setters(Options& to) {
  return {
      {"--model", [&to](auto&, auto& value) { to.model = value; }},
      {"--data", [&to](auto&, auto& value) { to.data = value; }},
      {"--dataset", [&to](auto& flag, auto& value) { to.dataset = ParseDataset(flag, value); }},
      {"--output", [&to](auto&, auto& value) { to.output = value; }},
      {"--backend",
       [&to](auto& flag, auto& value) {
         to.backend.backend = ParseChoice(flag, value, {"auto", "openvino", "lite"});
       }},
      {"--device_id",
       [&to](auto& flag, auto& value) {
         to.backend.device_id = ParseInteger(flag, value, 0, kLastDevice);
       }},
      {"--batch_size",
       [&to](auto& flag, auto& value) {
         to.batch_size = ParseInteger(flag, value, 1, kLargestBatch);
       }},
      {"--precision",
       [&to](auto& flag, auto& value) {
         to.backend.precision = ParseChoice(flag, value, {"float32", "bfloat16"});
       }},
      {"--size", [&to](auto& flag, auto& value) { to.size = ParseSize(flag, value); }},
      {"--mean",
       [&to](auto& flag, auto& value) { to.normalisation.mean = ParseColour(flag, value); }},
      {"--std", [&to](auto& flag, auto& value) { to.normalisation.std = ParseStd(flag, value); }},
      {"--threads",
       [&to](auto& flag, auto& value) {
         to.backend.threads = ParseInteger(flag, value, 0, kManyThreads);
       }},
  };
}

}  // namespace

Options ParseCommandLine(int count, const char* const* words) {
  Options options;
  const std::map<std::string, Setter> setters = Setters(options);
  std::map<std::string, bool> given;
  for (int i = 1; i < count; ++i) {
    std::string flag = words[i];
    if (flag == "--help" || flag == "-h") {
      options.help = true;
      return options;
    }
    const std::size_t equals = flag.find('=');
    const bool joined = equals != std::string::npos;
    std::string value = joined ? flag.substr(equals + 1) : "";
    flag = flag.substr(0, equals);
    const auto setter = setters.find(flag);
    if (setter == setters.end()) Fail(flag + ": no such flag; midas_infer --help lists them");
    if (!joined && ++i < count) value = words[i];
    if (value.empty()) Fail(flag + ": expected a value behind it");
    if (given[flag]) Fail(flag + ": given twice; give it once");
    given[flag] = true;
    setter->second(flag, value);
  }
  for (const char* flag : {"--model", "--data", "--dataset"}) {
    if (!given[flag]) Fail(std::string(flag) + " is missing; midas_infer --help lists the flags");
  }
  return options;
}

std::string Usage() {
  return "usage: midas_infer --model FILE --data FOLDER --dataset Kitti|Sintel|TUM|images\n"
         "\n"
         "Predicts inverse depth for the images of a folder.\n"
         "\n"
         "  --model FILE         .onnx (OpenVINO) or .mindir (MindSpore Lite)\n"
         "  --data FOLDER        the data set\n"
         "  --dataset NAME       its layout: Kitti, Sintel, TUM, or images (a plain folder)\n"
         "  --output FOLDER      gets result_Files/<dataset> and time_Result (working folder)\n"
         "  --backend NAME       auto (by the model's suffix), openvino or lite (auto)\n"
         "  --device_id N        of Ascend; OpenVINO ignores it (0)\n"
         "  --batch_size N       images of one size that go through the network together (1)\n"
         "  --precision NAME     of OpenVINO: float32 or bfloat16 (float32)\n"
         "  --size N             bound of the network's size in pixels, multiple of 32 (384)\n"
         "  --mean r,g,b         of RGB in [0, 1] (0.485,0.456,0.406)\n"
         "  --std r,g,b          of RGB in [0, 1] (0.229,0.224,0.225)\n"
         "  --threads N          of OpenVINO; 0: the cores (0)\n"
         "\n"
         "Built with: " + BuiltBackends() + "\n"
         "Exit codes: 0 all predicted, 1 some images failed, 2 command line, 3 model, 4 data,\n"
         "5 output, 6 device or computation, 130 and 143 stopped by SIGINT and SIGTERM.\n";
}

}  // namespace midas
