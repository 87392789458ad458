#include "console.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "errors.h"

namespace midas {
namespace {

constexpr double kRedraw = 0.2;   // seconds
constexpr double kNewLine = 30.0;
constexpr std::size_t kBarLength = 30;

std::string Duration(double seconds) {
  const auto whole = static_cast<long>(seconds + 0.5);
  char text[32];
  std::snprintf(text, sizeof text, "%ld:%02ld:%02ld", whole / 3600, whole / 60 % 60, whole % 60);
  return text;
}

std::string State(std::size_t done, std::size_t total, double seconds) {
  const double rate = seconds > 0 ? static_cast<double>(done) / seconds : 0;
  char text[128];
  std::snprintf(text, sizeof text, "%zu of %zu images, %.2f images/s, %s left", done, total, rate,
                rate > 0 ? Duration(static_cast<double>(total - done) / rate).c_str() : "?");
  return text;
}

}  // namespace

void OpenStandardStreams() {
  for (const int stream : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    // open takes the lowest number that is free, which is this one.
    if (fcntl(stream, F_GETFD) < 0 && open("/dev/null", O_RDWR) < 0) return;
  }
}

Console::Console() : descriptor_(fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3)) {
  is_terminal_ = isatty(descriptor_) == 1;
  next_ = is_terminal_ ? 0 : kNewLine;
}

void Console::MoveLibraryMessages() {
  const char* log = std::getenv("MIDAS_LIBRARY_LOG");
  const int target = open(log != nullptr ? log : "/dev/null",
                          O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (target < 0 && log != nullptr) {
    throw midas::Error(ExitCode::kCommandLine, "MIDAS_LIBRARY_LOG=" + std::string(log) +
                                                   ": cannot be opened (" + SystemMessage(errno) +
                                                   "); name a file that can be written");
  }
  if (target < 0 || target == STDERR_FILENO) return;
  dup2(target, STDERR_FILENO);
  close(target);
}

Console::~Console() {
  if (descriptor_ < 0) return;
  dup2(descriptor_, STDERR_FILENO);
  close(descriptor_);
}

void Console::Error(const std::string& text) {
  EndProgress();
  Write("error: " + OneLine(text) + "\n");
}

void Console::Progress(std::size_t done, std::size_t total, double seconds) {
  if (seconds < next_) return;
  next_ = seconds + (is_terminal_ ? kRedraw : kNewLine);
  const std::string state = State(done, total, seconds);
  if (!is_terminal_) {
    Write(state + "\n");
    return;
  }
  const std::size_t filled = total > 0 ? kBarLength * done / total : 0;
  const std::string bar = std::string(filled, '#') + std::string(kBarLength - filled, '.');
  Write("\r\033[K[" + bar + "] " + state);
  has_bar_ = true;
}

void Console::EndProgress() {
  if (has_bar_) Write("\r\033[K");
  has_bar_ = false;
}

void Console::Write(const std::string& text) {
  // Nothing is left to be told where even stderr is closed.
  if (write(descriptor_, text.data(), text.size()) < 0) return;
}

}  // namespace midas
