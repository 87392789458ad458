// Writing in a thread of its own, so that the network does not wait for the disk.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>

#include "result_files.h"

namespace midas {

class ResultWriter {
 public:
  //   capacity: predictions that wait at most; Push then waits.
  ResultWriter(ResultFiles& files, std::size_t capacity);
  // Writes what waits, without reporting errors: see Finish.
  ~ResultWriter();
  ResultWriter(const ResultWriter&) = delete;
  ResultWriter& operator=(const ResultWriter&) = delete;

  // Takes a prediction. Throws Error(kOutput) if an earlier one could not be written.
  void Push(Prediction prediction);

  // Waits until everything is written. Throws Error(kOutput).
  void Finish();

  // Predictions on the disk.
  std::size_t Written() const;

 private:
  void Run();
  void Stop();

  ResultFiles& files_;
  std::size_t capacity_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Prediction> queue_;
  std::size_t written_ = 0;
  bool stopping_ = false;
  std::exception_ptr error_;
  std::thread thread_;
};

}  // namespace midas
