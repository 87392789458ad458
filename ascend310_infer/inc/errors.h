// What a user can cause, and the exit code that it ends with.
#pragma once

#include <stdexcept>
#include <string>

namespace midas {

enum class ExitCode : int {
  kSuccess = 0,
  kSomeImagesFailed = 1,
  kCommandLine = 2,
  kModel = 3,
  kData = 4,
  kOutput = 5,
  kComputation = 6,
};

// Ends the program. The text is one line: which file or flag, what was expected, what to do.
class Error : public std::runtime_error {
 public:
  Error(ExitCode code, const std::string& text) : std::runtime_error(text), code_(code) {}
  ExitCode code() const { return code_; }

 private:
  ExitCode code_;
};

// One image cannot be read; the others go on. The text names the file.
class ImageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Text as a single line: runs of blanks and control characters, which file names and libraries'
// messages may hold, become one space.
std::string OneLine(const std::string& text);

// The text of an errno value.
std::string SystemMessage(int error_number);

}  // namespace midas
