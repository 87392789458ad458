// Lets the Python tests look into the program. Binary results go to stdout.
//
//   midas_probe resize                    lines `lower|upper BOUND HEIGHT WIDTH` -> `HEIGHT WIDTH`
//   midas_probe read FILE UPRIGHT         int32 height, width, then uint8 [height, width, 3]
//   midas_probe prepare FILE UPRIGHT H W  float32 [3, H, W]
#include <cstdint>
#include <cstdio>
#include <exception>
#include <iostream>
#include <string>
#include <vector>

#include "image_reader.h"
#include "prepare.h"
#include "resize_rule.h"

namespace {

void Resize() {
  std::string method;
  midas::ResizeRule rule;
  midas::Size image;
  while (std::cin >> method >> rule.bound >> image.height >> image.width) {
    rule.method = method == "lower" ? midas::ResizeMethod::kLowerBound
                                    : midas::ResizeMethod::kUpperBound;
    const midas::Size size = rule.OutputSize(image);
    std::cout << size.height << ' ' << size.width << '\n';
  }
}

void Read(const std::string& file, bool upright) {
  const cv::Mat image = midas::ReadImage(file, upright);
  const std::int32_t size[2] = {image.rows, image.cols};
  std::fwrite(size, sizeof size, 1, stdout);
  std::fwrite(image.data, 1, image.total() * image.elemSize(), stdout);
}

void Prepare(const std::string& file, bool upright, midas::Size size) {
  const std::vector<float> values =
      midas::Prepare(midas::ReadImage(file, upright), size, midas::Normalisation());
  std::fwrite(values.data(), sizeof(float), values.size(), stdout);
}

}  // namespace

int main(int count, char** words) {
  const std::vector<std::string> arguments(words + 1, words + count);
  try {
    const std::string command = arguments.at(0);
    if (command == "resize") {
      Resize();
    } else if (command == "read") {
      Read(arguments.at(1), arguments.at(2) == "1");
    } else {
      Prepare(arguments.at(1), arguments.at(2) == "1",
              {std::stoi(arguments.at(3)), std::stoi(arguments.at(4))});
    }
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}
