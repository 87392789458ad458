#include "batcher.h"

#include <algorithm>
#include <utility>

namespace midas {

std::vector<PreparedImage> Batcher::Add(PreparedImage image) {
  auto batch = std::find_if(batches_.begin(), batches_.end(), [&image](const auto& images) {
    return images.front().size == image.size;
  });
  if (batch == batches_.end()) batch = batches_.insert(batches_.end(), Batches::value_type());
  batch->push_back(std::move(image));
  ++waiting_;
  if (batch->size() == size_) return Take(batch);
  return waiting_ > limit_ ? Rest() : std::vector<PreparedImage>();
}

std::vector<PreparedImage> Batcher::Rest() {
  if (batches_.empty()) return {};
  return Take(batches_.begin());
}

std::vector<PreparedImage> Batcher::Take(Batches::iterator batch) {
  std::vector<PreparedImage> images = std::move(*batch);
  batches_.erase(batch);
  waiting_ -= images.size();
  return images;
}

}  // namespace midas
