// Images read ahead of the network, in threads of their own.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "backend.h"
#include "dataset.h"
#include "prepare.h"
#include "resize_rule.h"

namespace midas {

// An image as the network takes it.
struct PreparedImage {
  std::size_t index = 0;      // in its dataset
  Size image;                 // of the decoded image, pixels
  Size size;                  // of `values`
  std::vector<float> values;  // float32 [3, size.height, size.width], normalised RGB
  std::string error;          // why there is no image, naming the file; empty if there is one
};

// How images become the network's input.
struct Preparation {
  ResizeRule rule;
  ModelShape accepts;  // a fixed height and width win over the rule
  Normalisation normalisation;
  bool upright = false;

  Size InputSize(Size image) const;
};

class ImageQueue {
 public:
  //   threads: that read.
  //   ahead: images that are read or under way and not yet taken, at most; bounds the memory.
  ImageQueue(const Dataset& dataset, const Preparation& preparation, std::size_t threads,
             std::size_t ahead);
  // Drops what was not taken.
  ~ImageQueue();
  ImageQueue(const ImageQueue&) = delete;
  ImageQueue& operator=(const ImageQueue&) = delete;

  // The next image in the dataset's order; waits for it. None after the last one.
  std::optional<PreparedImage> Next();

  // Seconds that the threads spent reading, together.
  double SecondsReading() const;

 private:
  void Stop();
  void Run();
  PreparedImage Read(std::size_t index) const;

  const Dataset& dataset_;
  Preparation preparation_;
  std::size_t ahead_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::size_t, PreparedImage> ready_;
  std::size_t begun_ = 0;  // images that a thread has taken up
  std::size_t taken_ = 0;  // images that Next has given away
  double seconds_ = 0;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace midas
