#include "result_writer.h"

#include <utility>

namespace midas {

ResultWriter::ResultWriter(ResultFiles& files, std::size_t capacity)
    : files_(files), capacity_(capacity), thread_([this] { Run(); }) {}

ResultWriter::~ResultWriter() { Stop(); }

void ResultWriter::Push(Prediction prediction) {
  std::unique_lock<std::mutex> lock(mutex_);
  changed_.wait(lock, [this] { return queue_.size() < capacity_ || error_; });
  if (error_) std::rethrow_exception(error_);
  queue_.push_back(std::move(prediction));
  changed_.notify_all();
}

void ResultWriter::Finish() {
  Stop();
  if (error_) std::rethrow_exception(error_);
}

std::size_t ResultWriter::Written() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return written_;
}

void ResultWriter::Stop() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
    changed_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
}

void ResultWriter::Run() {
  std::unique_lock<std::mutex> lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return !queue_.empty() || stopping_; });
    if (queue_.empty()) return;
    const Prediction prediction = std::move(queue_.front());
    queue_.pop_front();
    changed_.notify_all();
    lock.unlock();
    std::exception_ptr error;
    try {
      files_.Add(prediction);
    } catch (...) {
      error = std::current_exception();
    }
    lock.lock();
    if (error) {
      error_ = error;
      changed_.notify_all();
      return;
    }
    ++written_;
  }
}

}  // namespace midas
