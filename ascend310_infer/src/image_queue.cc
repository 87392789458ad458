#include "image_queue.h"

#include <climits>
#include <exception>
#include <utility>

#include "errors.h"
#include "image_reader.h"
#include "stopwatch.h"

namespace midas {
namespace {

// An image whose name is as long as names may be is no reason to end the run.
void RequireShortName(const DatasetImage& image) {
  if (std::filesystem::path(image.result).filename().string().size() <= NAME_MAX) return;
  throw ImageError(image.file.string() + ": the name of its prediction would be longer than " +
                   std::to_string(NAME_MAX) + " bytes; rename it");
}

}  // namespace

Size Preparation::InputSize(Size image) const {
  Size size = rule.OutputSize(image);
  if (accepts.height > 0) size.height = accepts.height;
  if (accepts.width > 0) size.width = accepts.width;
  return size;
}

ImageQueue::ImageQueue(const Dataset& dataset, const Preparation& preparation, std::size_t threads,
                       std::size_t ahead)
    : dataset_(dataset), preparation_(preparation), ahead_(ahead) {
  threads_.reserve(threads);
  try {
    for (std::size_t i = 0; i < threads; ++i) threads_.emplace_back([this] { Run(); });
  } catch (...) {
    Stop();  // a thread that is not joined would end the program without a word
    throw;
  }
}

ImageQueue::~ImageQueue() { Stop(); }

void ImageQueue::Stop() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
    changed_.notify_all();
  }
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

std::optional<PreparedImage> ImageQueue::Next() {
  std::unique_lock<std::mutex> lock(mutex_);
  if (taken_ == dataset_.images.size()) return std::nullopt;
  changed_.wait(lock, [this] { return ready_.count(taken_) > 0; });
  PreparedImage image = std::move(ready_.extract(taken_).mapped());
  ++taken_;
  changed_.notify_all();
  return image;
}

double ImageQueue::SecondsReading() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return seconds_;
}

void ImageQueue::Run() {
  std::unique_lock<std::mutex> lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] {
      return stopping_ || begun_ == dataset_.images.size() || begun_ < taken_ + ahead_;
    });
    if (stopping_ || begun_ == dataset_.images.size()) return;
    const std::size_t index = begun_++;
    lock.unlock();
    const Stopwatch watch;
    PreparedImage image = Read(index);
    lock.lock();
    seconds_ += watch.Seconds();
    ready_.emplace(index, std::move(image));
    changed_.notify_all();
  }
}

PreparedImage ImageQueue::Read(std::size_t index) const {
  const DatasetImage& source = dataset_.images[index];
  const std::string file = source.file.string();
  PreparedImage image;
  image.index = index;
  try {
    RequireShortName(source);
    const cv::Mat rgb = ReadImage(source.file, preparation_.upright);
    image.image = {rgb.rows, rgb.cols};
    image.size = preparation_.InputSize(image.image);
    if (IsTooLarge(image.size)) {
      throw ImageError(file + ": becomes " + std::to_string(image.size.height) + "x" +
                       std::to_string(image.size.width) + " pixels for the network, more than " +
                       std::to_string(kMaxPixels) + "; make it less oblong, or --size smaller");
    }
    image.values = Prepare(rgb, image.size, preparation_.normalisation);
  } catch (const ImageError& error) {
    image.error = error.what();  // names the file
  } catch (const std::exception& error) {
    image.error = file + ": " +
                  (IsOutOfMemory(error) ? "not enough memory to resize it; make it smaller"
                                        : "cannot be resized (" + OneLine(error.what()) + ")");
  }
  return image;
}

}  // namespace midas
