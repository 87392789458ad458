#include "pipeline.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <thread>
#include <utility>

#include "batcher.h"
#include "errors.h"
#include "stopwatch.h"

namespace midas {
namespace {

// Reading takes a hundredth of the network's time: more threads would only take cores from it.
constexpr std::size_t kMostReaders = 4;
constexpr std::size_t kAhead = 4;  // images beyond a batch, and predictions that wait
// Images of other sizes that wait for their batch to become full: enough for the 23 sizes of the
// default rule, and with 1.8 MB each no burden.
constexpr std::size_t kOthers = 32;

std::size_t Readers() {
  return std::clamp<std::size_t>(std::thread::hardware_concurrency(), 1, kMostReaders);
}

void RequireFinite(const std::vector<float>& values, const std::string& image) {
  if (std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); })) {
    return;
  }
  throw Error(ExitCode::kComputation,
              image + ": the prediction is not finite; this model has diverged, or the precision "
                      "is too low for it");
}

// The images of a batch one after the other; the last one is repeated up to `count` images.
std::vector<float> Join(const std::vector<PreparedImage>& batch, std::size_t count) {
  std::vector<float> joined;
  joined.reserve(count * batch.front().values.size());
  for (std::size_t i = 0; i < count; ++i) {
    const std::vector<float>& values = batch[std::min(i, batch.size() - 1)].values;
    joined.insert(joined.end(), values.begin(), values.end());
  }
  return joined;
}

}  // namespace

std::string TimesText(const RunReport& report, int batch_size) {
  const auto per = [](double seconds, std::size_t count) {
    return count > 0 ? seconds / static_cast<double>(count) : 0.0;
  };
  const double rate = report.total > 0 ? static_cast<double>(report.predicted) / report.total : 0;
  char text[1024];
  std::snprintf(text, sizeof text,
                "NN inference cost average time: %.3f ms of infer_count %zu\n"
                "images: %zu predicted, %zu failed, %zu in the data set%s\n"
                "batch size: %d, batches: %zu, of these with fewer images: %zu\n"
                "end to end: %.4f images/s, %.3f s without loading the model\n"
                "loading the model: %.3f s\n"
                "network: %.3f s, %.3f ms per image\n"
                "waiting for images: %.3f s\n"
                "waiting for the writer: %.3f s\n"
                "reading and preparing, all threads: %.3f s, %.3f ms per image\n",
                1000 * per(report.network, report.batches), report.batches, report.predicted,
                report.failed, report.images, report.stopped ? ", stopped before the end" : "",
                batch_size, report.batches, report.part_batches, rate, report.total,
                report.loading, report.network, 1000 * per(report.network, report.predicted),
                report.waiting_for_images, report.waiting_for_writer, report.reading,
                1000 * per(report.reading, report.predicted + report.failed));
  return text;
}

Pipeline::Pipeline(Backend& backend, const Dataset& dataset, const Preparation& preparation,
                   int batch_size, Console& console, const StopSignals& signals)
    : backend_(backend),
      dataset_(dataset),
      preparation_(preparation),
      batch_size_(static_cast<std::size_t>(batch_size)),
      console_(console),
      signals_(signals) {}

void Pipeline::Run(ResultFiles& files, RunReport& report) {
  const Stopwatch watch;
  report.images = dataset_.images.size();
  ResultWriter writer(files, batch_size_ + kAhead);
  ImageQueue queue(dataset_, preparation_, Readers(), batch_size_ + kAhead);
  const auto finish = [&] {
    const Stopwatch waiting;
    writer.Finish();
    report.waiting_for_writer += waiting.Seconds();
  };
  const auto summarise = [&] {
    report.predicted = writer.Written();
    report.reading = queue.SecondsReading();
    report.total = watch.Seconds();
    console_.EndProgress();
  };
  try {
    PredictAll(queue, writer, report);
    finish();
  } catch (...) {
    try {
      finish();  // what was predicted before is kept
    } catch (const Error&) {
      // The first error is the one to tell.
    }
    summarise();
    throw;
  }
  summarise();
}

void Pipeline::PredictAll(ImageQueue& queue, ResultWriter& writer, RunReport& report) {
  const Stopwatch watch;
  Batcher batcher(batch_size_, batch_size_ + kOthers);
  std::size_t done = 0;
  const auto predict = [&](const std::vector<PreparedImage>& batch) {
    if (batch.empty()) return;
    Predict(batch, writer, report);
    done += batch.size();
    console_.Progress(done + report.failed, report.images, watch.Seconds());
  };
  const auto stopped = [&] { return report.stopped = signals_.Requested() != 0; };
  while (!stopped()) {
    const Stopwatch waiting;
    std::optional<PreparedImage> image = queue.Next();
    report.waiting_for_images += waiting.Seconds();
    if (!image) break;
    if (image->error.empty()) {
      predict(batcher.Add(std::move(*image)));
    } else {
      ++report.failed;
      console_.Error(image->error);
    }
  }
  for (auto batch = batcher.Rest(); !batch.empty() && !stopped(); batch = batcher.Rest()) {
    predict(batch);
  }
}

void Pipeline::Predict(const std::vector<PreparedImage>& batch, ResultWriter& writer,
                       RunReport& report) {
  const Size size = batch.front().size;
  const bool is_fixed = preparation_.accepts.batch > 0;
  const std::size_t count = is_fixed ? batch_size_ : batch.size();
  const ModelShape shape{static_cast<int>(count), size.height, size.width};
  std::vector<float> output(shape.Pixels());
  std::vector<float> joined;
  if (count > 1) joined = Join(batch, count);
  const float* input = count > 1 ? joined.data() : batch.front().values.data();
  const Stopwatch network;
  backend_.Predict(input, shape, output.data());
  report.network += network.Seconds();
  ++report.batches;
  if (batch.size() < batch_size_) ++report.part_batches;
  const auto pixels = static_cast<std::ptrdiff_t>(shape.Pixels() / count);
  for (std::size_t i = 0; i < batch.size(); ++i) {
    const auto begin = output.begin() + static_cast<std::ptrdiff_t>(i) * pixels;
    Prediction prediction{batch[i].index, batch[i].image, size, {begin, begin + pixels}};
    RequireFinite(prediction.values, dataset_.images[batch[i].index].file.string());
    const Stopwatch waiting;
    writer.Push(std::move(prediction));
    report.waiting_for_writer += waiting.Seconds();
  }
}

}  // namespace midas
