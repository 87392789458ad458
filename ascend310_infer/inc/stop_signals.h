// Ctrl-C and SIGTERM as a request to stop at the next batch.
#pragma once

#include <atomic>
#include <string>
#include <thread>

namespace midas {

// The signals are blocked in this thread and in those it starts later; one thread waits for them.
// So it must be made before any other thread, the libraries' included.
class StopSignals {
 public:
  StopSignals();
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

  // From now on a first signal is a request; until now, and a second one, end the program.
  void Accept() { accepted_ = true; }

  // The signal that asked to stop; 0 for none.
  int Requested() const { return requested_; }

 private:
  void Wait();

  std::atomic<bool> accepted_{false};
  std::atomic<bool> ending_{false};
  std::atomic<int> requested_{0};
  std::thread thread_;
};

// "SIGINT" or "SIGTERM".
std::string SignalName(int signal);

}  // namespace midas
