// midas_infer: inverse depth for the images of a folder.
#include <csignal>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <new>
#include <opencv2/core.hpp>
#include <optional>
#include <string>

#include "backend.h"
#include "command_line.h"
#include "console.h"
#include "dataset.h"
#include "errors.h"
#include "pipeline.h"
#include "result_files.h"
#include "stop_signals.h"
#include "stopwatch.h"

namespace {

using midas::ExitCode;

// A full disk, a limit on file sizes or a closed pipe are errors to tell of, no reasons to die.
void IgnoreWriteSignals() {
  std::signal(SIGXFSZ, SIG_IGN);
  std::signal(SIGPIPE, SIG_IGN);
}

std::string ResizeText(const midas::Preparation& preparation) {
  const midas::ModelShape& accepts = preparation.accepts;
  if (accepts.height == 0 || accepts.width == 0) return preparation.rule.Text();
  return "fixed " + std::to_string(accepts.height) + "x" + std::to_string(accepts.width);
}

// What is worth a line on stdout besides the result.
void SayBatches(const midas::RunReport& report, int batch_size, std::optional<int> asked,
                bool is_fixed) {
  if (asked && batch_size != *asked) {
    std::printf("the model takes %d images at once: --batch_size %d does not count\n", batch_size,
                *asked);
  }
  if (report.part_batches > 0) {
    std::printf("%zu of %zu batches held fewer than %d images of one size and %s\n",
                report.part_batches, report.batches, batch_size,
                is_fixed ? "were filled up" : "were predicted as they were");
  }
}

// After an error, which is the one to tell: on a full disk this fails too.
void WriteTimesIfPossible(const std::filesystem::path& output, const std::string& text) {
  try {
    midas::WriteTimes(output, text);
  } catch (const midas::Error&) {
    return;
  }
}

int Finish(const midas::RunReport& report, const midas::StopSignals& signals,
           const midas::ResultFiles& files, midas::Console& console) {
  std::printf("%zu of %zu images predicted in %.1f s (%.2f images/s): %s\n", report.predicted,
              report.images, report.total,
              report.total > 0 ? static_cast<double>(report.predicted) / report.total : 0.0,
              files.folder().c_str());
  if (report.stopped) {
    console.Error("stopped by " + midas::SignalName(signals.Requested()) + " after " +
                  std::to_string(report.predicted) + " of " + std::to_string(report.images) +
                  " images; these are complete");
    return 128 + signals.Requested();
  }
  return static_cast<int>(report.failed > 0 ? ExitCode::kSomeImagesFailed : ExitCode::kSuccess);
}

int Infer(const midas::Options& options, midas::Console& console, midas::StopSignals& signals) {
  const midas::Dataset dataset = midas::ListDataset(options.dataset, options.data);
  midas::ResultFiles::RequireFree(options.output, dataset.name);
  const midas::Stopwatch loading;
  const auto backend = midas::LoadModel(options.model, options.backend);
  midas::RunReport report;
  report.loading = loading.Seconds();

  const midas::ModelShape accepts = backend->Accepts();
  const bool is_fixed = accepts.batch > 0;
  const int batch_size = is_fixed ? accepts.batch : options.batch_size.value_or(1);
  const midas::Preparation preparation{
      {dataset.resize, options.size}, accepts, options.normalisation, dataset.upright};
  midas::ResultFiles files(
      options.output, dataset,
      {options.model, backend->Name(), backend->Precision(), batch_size, ResizeText(preparation),
       options.normalisation, backend->Description()});
  signals.Accept();
  midas::Pipeline pipeline(*backend, dataset, preparation, batch_size, console, signals);
  try {
    pipeline.Run(files, report);
  } catch (const midas::Error&) {
    WriteTimesIfPossible(options.output, TimesText(report, batch_size));
    throw;
  }
  midas::WriteTimes(options.output, TimesText(report, batch_size));
  SayBatches(report, batch_size, options.batch_size, is_fixed);
  return Finish(report, signals, files, console);
}

int Run(int count, char** words, midas::Console& console) {
  midas::StopSignals signals;
  console.MoveLibraryMessages();
  cv::setNumThreads(1);  // the reading threads are the parallelism
  const midas::Options options = midas::ParseCommandLine(count, words);
  if (options.help) {
    std::fputs(midas::Usage().c_str(), stdout);
    return 0;
  }
  return Infer(options, console, signals);
}

}  // namespace

int main(int count, char** words) {
  IgnoreWriteSignals();
  midas::OpenStandardStreams();
  midas::Console console;
  try {
    return Run(count, words, console);
  } catch (const midas::Error& error) {
    console.Error(error.what());
    return static_cast<int>(error.code());
  } catch (const std::bad_alloc&) {
    console.Error("not enough memory; try a smaller --batch_size or --size");
  } catch (const std::exception& error) {
    console.Error(std::string("the computation failed (") + error.what() + "); please report it");
  }
  return static_cast<int>(ExitCode::kComputation);
}
