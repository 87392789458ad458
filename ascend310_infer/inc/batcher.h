// Images of one size put together into batches.
#pragma once

#include <cstddef>
#include <list>
#include <vector>

#include "image_queue.h"

namespace midas {

// A batch is given away when it is full. What waits is bounded, whatever sizes the images have:
// when too many wait, the batch of the one that waits longest goes as it is.
class Batcher {
 public:
  //   size: images of a full batch.
  //   limit: images that wait, at most.
  Batcher(std::size_t size, std::size_t limit) : size_(size), limit_(limit) {}

  // Takes an image; returns the batch that is due now, or nothing.
  std::vector<PreparedImage> Add(PreparedImage image);

  // A batch of what is left; nothing if nothing is.
  std::vector<PreparedImage> Rest();

 private:
  using Batches = std::list<std::vector<PreparedImage>>;

  std::vector<PreparedImage> Take(Batches::iterator batch);

  std::size_t size_;
  std::size_t limit_;
  std::size_t waiting_ = 0;
  Batches batches_;  // by the age of their first images
};

}  // namespace midas
