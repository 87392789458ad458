// What the program says while it runs.
#pragma once

#include <cstddef>
#include <string>

#include "stopwatch.h"

namespace midas {

// Opens those of stdin, stdout and stderr that are closed. Otherwise a file of the results would
// get such a number, and in it what is meant for stderr. To be called before any file is opened.
void OpenStandardStreams();

// The program's own messages on stderr. The libraries' go elsewhere: OpenCV, libpng, libtiff and
// OpenVINO write there too, in the middle of lines.
class Console {
 public:
  Console();
  ~Console();
  Console(const Console&) = delete;
  Console& operator=(const Console&) = delete;

  // Moves the libraries' messages from stderr to the file MIDAS_LIBRARY_LOG names, else nowhere.
  // Throws Error(kCommandLine): that file cannot be opened.
  void MoveLibraryMessages();

  // One line on stderr: "error: <text>".
  void Error(const std::string& text);

  // How far the work is: a bar that is drawn again where stderr is a terminal, elsewhere a line
  // every half minute.
  //   seconds: since the beginning.
  void Progress(std::size_t done, std::size_t total, double seconds);

  // Removes the bar.
  void EndProgress();

 private:
  void Write(const std::string& text);

  int descriptor_;
  bool is_terminal_;
  bool has_bar_ = false;
  double next_ = 0;  // seconds; when the progress is told again
};

}  // namespace midas
