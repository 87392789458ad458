// The way of the images: read ahead, predicted in batches, written behind.
#pragma once

#include <cstddef>
#include <string>

#include "backend.h"
#include "console.h"
#include "image_queue.h"
#include "result_writer.h"
#include "stop_signals.h"

namespace midas {

// What a run did, and where its time went, in seconds.
struct RunReport {
  std::size_t images = 0;     // of the dataset
  std::size_t predicted = 0;
  std::size_t failed = 0;     // could not be read
  std::size_t batches = 0;
  std::size_t part_batches = 0;  // of fewer images than the batch size
  double loading = 0;            // the model
  double total = 0;              // without loading
  double network = 0;
  double waiting_for_images = 0;
  double waiting_for_writer = 0;
  double reading = 0;  // all threads together
  bool stopped = false;
};

// The text of time_Result/test_perform_static.txt.
std::string TimesText(const RunReport& report, int batch_size);

class Pipeline {
 public:
  //   batch_size: a model of fixed batch must be given just that.
  Pipeline(Backend& backend, const Dataset& dataset, const Preparation& preparation,
           int batch_size, Console& console, const StopSignals& signals);

  // Predicts all images, or those until a signal. Images that cannot be read are named on the
  // console and left out. `report` is right even where an error ends the work.
  // Throws Error(kComputation): the network failed, or gave a value that is not finite;
  // Error(kOutput).
  void Run(ResultFiles& files, RunReport& report);

 private:
  void PredictAll(ImageQueue& queue, ResultWriter& writer, RunReport& report);
  void Predict(const std::vector<PreparedImage>& batch, ResultWriter& writer, RunReport& report);

  Backend& backend_;
  const Dataset& dataset_;
  Preparation preparation_;
  std::size_t batch_size_;
  Console& console_;
  const StopSignals& signals_;
};

}  // namespace midas
