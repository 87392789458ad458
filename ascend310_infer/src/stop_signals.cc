#include "stop_signals.h"

#include <unistd.h>

#include <csignal>

namespace midas {
namespace {

// What a shell has switched off for a program in the background stays off.
bool IsIgnored(int signal) {
  struct sigaction action {};
  return sigaction(signal, nullptr, &action) == 0 && action.sa_handler == SIG_IGN;
}

sigset_t WatchedSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : {SIGINT, SIGTERM}) {
    if (!IsIgnored(signal)) sigaddset(&signals, signal);
  }
  sigaddset(&signals, SIGUSR1);  // the end of the waiting thread
  return signals;
}

}  // namespace

StopSignals::StopSignals() {
  const sigset_t signals = WatchedSignals();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  thread_ = std::thread([this] { Wait(); });
}

StopSignals::~StopSignals() {
  ending_ = true;
  pthread_kill(thread_.native_handle(), SIGUSR1);
  thread_.join();
}

void StopSignals::Wait() {
  const sigset_t signals = WatchedSignals();
  while (!ending_) {
    int signal = 0;
    if (sigwait(&signals, &signal) != 0 || signal == SIGUSR1) continue;
    if (!accepted_ || requested_ != 0) _exit(128 + signal);
    requested_ = signal;
  }
}

std::string SignalName(int signal) { return signal == SIGINT ? "SIGINT" : "SIGTERM"; }

}  // namespace midas
