// Convolutions for MindSpore on a CPU, by the oneDNN that it brings, in the layouts oneDNN prefers.
//
// MindSpore's own operators hand oneDNN plain NCHW tensors and demand plain ones back, which leaves
// its slow kernels. Here oneDNN chooses the layouts and each tensor is reordered on the way in and
// out, as PyTorch does. The three functions at the end are operators of MindSpore's type "aot"
// (mindspore.ops.Custom): pointers and shapes of inputs and outputs, 0 for success.
//
// float32, padded by half the kernel; x [N, I, H, W], weight [O, I / groups, K, K], y [N, O, h, w]
// with h = ceil(H / stride). The stride is 1 or 2, which the sizes tell.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <stdexcept>
#include <tuple>
#include <unordered_map>
#include <vector>

#include <omp.h>

#include "oneapi/dnnl/dnnl.hpp"
#include "oneapi/dnnl/dnnl_threadpool.hpp"

namespace {

using dnnl::memory;
using Dims = memory::dims;

constexpr auto kFloat = memory::data_type::f32;
constexpr std::size_t kMostShapes = 4096;  // then all are made anew: an image of every size comes by

enum class Kind { kForward, kInputGradient, kWeightGradient };

// Threads of OpenMP, whose number OMP_NUM_THREADS and the process's cores decide.
class Threads : public dnnl::threadpool_interop::threadpool_iface {
 public:
  int get_num_threads() const override { return count_; }
  bool get_in_parallel() const override { return omp_in_parallel() != 0; }
  void parallel_for(int n, const std::function<void(int, int)> &work) override {
#pragma omp parallel for num_threads(count_) schedule(static, 1)
    for (int i = 0; i < n; ++i) {
      work(i, n);
    }
  }
  uint64_t get_flags() const override { return 0; }  // parallel_for returns when all is done
  // oneDNN has it from 3.11 on; an older one never calls it, as nothing comes after it.
  void wait() override {}

 private:
  int count_ = omp_get_max_threads();
};

// Memory for a convolution's tensors in oneDNN's layouts, kept for the next one: new pages each time
// made the kernel take 7 % of a training step's processor time.
class Buffer {
 public:
  void *Of(std::size_t size) {
    if (size > size_) {
      memory_.reset();  // before there is another
      size_ = 0;
      memory_.reset(std::aligned_alloc(kAlignment, (size + kAlignment - 1) / kAlignment * kAlignment));
      if (memory_ == nullptr) {
        throw std::bad_alloc();
      }
      size_ = size;
    }
    return memory_.get();
  }

 private:
  static constexpr std::size_t kAlignment = 4096;
  struct Free {
    void operator()(void *memory) const { std::free(memory); }
  };
  std::unique_ptr<void, Free> memory_;
  std::size_t size_ = 0;
};

struct Tensor {
  void *data;
  Dims dims;
};

struct Operands {
  Tensor x;
  Tensor weight;
  Tensor y;
};

// A primitive with its operands' layouts: MindSpore's, and those that oneDNN wants.
struct Convolution {
  struct Layout {
    int argument;
    memory::desc plain;
    memory::desc wanted;
    bool is_output;
  };
  dnnl::primitive primitive;
  Layout x;
  Layout weight;
  Layout y;
  memory::desc scratchpad;
};

// All that runs, one convolution at a time: each uses every thread.
class Runner {
 public:
  void Run(Kind kind, const Operands &operands) {
    std::lock_guard<std::mutex> one(mutex_);
    // Of the thread that calls: oneDNN plans for so many, here and in what it runs at once.
    dnnl_threadpool_interop_set_max_concurrency(threads_.get_num_threads());
    const Convolution &convolution = Find(kind, operands);
    std::unordered_map<int, memory> arguments{
        {DNNL_ARG_SCRATCHPAD, In(scratchpad_, convolution.scratchpad)}};
    memory computed;
    memory result;
    const std::tuple<const Convolution::Layout &, const Tensor &, Buffer &> all[] = {
        {convolution.x, operands.x, x_},
        {convolution.weight, operands.weight, weight_},
        {convolution.y, operands.y, y_}};
    for (const auto &[layout, tensor, buffer] : all) {
      memory plain(layout.plain, engine_, tensor.data);
      memory wanted = layout.plain == layout.wanted ? plain : In(buffer, layout.wanted);
      arguments[layout.argument] = wanted;
      if (layout.is_output) {
        computed = wanted;
        result = plain;
      } else {
        Reorder(plain, wanted);
      }
    }
    convolution.primitive.execute(stream_, arguments);
    Reorder(computed, result);
    stream_.wait();
  }

 private:
  memory In(Buffer &buffer, const memory::desc &layout) const {
    return memory(layout, engine_, buffer.Of(layout.get_size()));
  }

  void Reorder(memory &from, memory &to) {
    if (from.get_desc() != to.get_desc()) {
      dnnl::reorder(from, to).execute(stream_, from, to);
    }
  }

  const Convolution &Find(Kind kind, const Operands &operands) {
    std::vector<int64_t> key{static_cast<int64_t>(kind)};
    for (const Tensor *tensor : {&operands.x, &operands.weight, &operands.y}) {
      key.insert(key.end(), tensor->dims.begin(), tensor->dims.end());
    }
    const auto found = made_.find(key);
    if (found != made_.end()) {
      return found->second;
    }
    if (made_.size() >= kMostShapes) {
      made_.clear();
    }
    return made_.emplace(key, Make(kind, operands)).first->second;
  }

  Convolution Make(Kind kind, const Operands &operands) const {
    const Dims &x = operands.x.dims;
    const Dims &weight = operands.weight.dims;
    const Dims &y = operands.y.dims;
    const int64_t groups = x[1] / weight[1];
    Dims grouped = weight;
    if (groups > 1) {
      grouped = {groups, weight[0] / groups, weight[1], weight[2], weight[3]};
    }
    const int64_t stride = y[2] == x[2] && y[3] == x[3] ? 1 : 2;
    const Dims strides{stride, stride};
    const Dims padding{weight[2] / 2, weight[3] / 2};
    const auto free = [](const Dims &dims) {
      return memory::desc(dims, kFloat, memory::format_tag::any);
    };
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    const auto algorithm = dnnl::algorithm::convolution_direct;
    const dnnl::convolution_forward::primitive_desc forward(
        engine_, dnnl::prop_kind::forward_training, algorithm, free(x), free(grouped), free(y),
        strides, padding, padding, attributes);
    const auto of_x = [&](const memory::desc &wanted) {
      return Convolution::Layout{DNNL_ARG_SRC, {x, kFloat, memory::format_tag::nchw}, wanted, false};
    };
    const auto of_weight = [&](const memory::desc &wanted) {
      const auto plain = groups > 1 ? memory::format_tag::goihw : memory::format_tag::oihw;
      return Convolution::Layout{DNNL_ARG_WEIGHTS, {grouped, kFloat, plain}, wanted, false};
    };
    const auto of_y = [&](const memory::desc &wanted) {
      return Convolution::Layout{
          DNNL_ARG_DIFF_DST, {y, kFloat, memory::format_tag::nchw}, wanted, false};
    };
    Convolution made;
    switch (kind) {
      case Kind::kForward:
        made = {dnnl::convolution_forward(forward), of_x(forward.src_desc()),
                of_weight(forward.weights_desc()), of_y(forward.dst_desc()),
                forward.scratchpad_desc()};
        made.y.argument = DNNL_ARG_DST;
        made.y.is_output = true;
        break;
      case Kind::kInputGradient: {
        const dnnl::convolution_backward_data::primitive_desc backward(
            engine_, algorithm, free(x), free(grouped), free(y), strides, padding, padding, forward,
            attributes);
        made = {dnnl::convolution_backward_data(backward), of_x(backward.diff_src_desc()),
                of_weight(backward.weights_desc()), of_y(backward.diff_dst_desc()),
                backward.scratchpad_desc()};
        made.x.argument = DNNL_ARG_DIFF_SRC;
        made.x.is_output = true;
        break;
      }
      case Kind::kWeightGradient: {
        const dnnl::convolution_backward_weights::primitive_desc backward(
            engine_, algorithm, free(x), free(grouped), free(y), strides, padding, padding, forward,
            attributes);
        made = {dnnl::convolution_backward_weights(backward), of_x(backward.src_desc()),
                of_weight(backward.diff_weights_desc()), of_y(backward.diff_dst_desc()),
                backward.scratchpad_desc()};
        made.weight.argument = DNNL_ARG_DIFF_WEIGHTS;
        made.weight.is_output = true;
        break;
      }
    }
    return made;
  }

  Threads threads_;
  dnnl::engine engine_{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream_ = dnnl::threadpool_interop::make_stream(engine_, &threads_);
  std::map<std::vector<int64_t>, Convolution> made_;
  std::mutex mutex_;
  Buffer x_;
  Buffer weight_;
  Buffer y_;
  Buffer scratchpad_;
};

// The operands among MindSpore's parameters, by their places.
int Run(Kind kind, void **data, const int *ranks, int64_t **shapes, int x, int weight, int y) {
  const auto tensor = [&](int place) {
    if (ranks[place] != 4) {
      throw std::invalid_argument("expected tensors of 4 dimensions");
    }
    return Tensor{data[place], Dims(shapes[place], shapes[place] + 4)};
  };
  try {
    // Never destroyed: MindSpore's threads may outlive what a program destroys at its end.
    static Runner *runner = new Runner;
    runner->Run(kind, {tensor(x), tensor(weight), tensor(y)});
  } catch (const std::exception &error) {
    std::fprintf(stderr, "onednn_conv: %s\n", error.what());
    return 1;
  }
  return 0;
}

}  // namespace

// The build hides all other names: MindSpore has oneDNN's templates of another version.
#define MIDAS_OPERATOR extern "C" __attribute__((visibility("default")))

// (x, weight) -> y
MIDAS_OPERATOR int Forward(int, void **data, int *ranks, int64_t **shapes, const char **, void *,
                           void *) {
  return Run(Kind::kForward, data, ranks, shapes, 0, 1, 2);
}

// (x, weight, gradient of y) -> gradient of x
MIDAS_OPERATOR int InputGradient(int, void **data, int *ranks, int64_t **shapes, const char **,
                                 void *, void *) {
  return Run(Kind::kInputGradient, data, ranks, shapes, 3, 1, 2);
}

// (x, weight, gradient of y) -> gradient of weight
MIDAS_OPERATOR int WeightGradient(int, void **data, int *ranks, int64_t **shapes, const char **,
                                  void *, void *) {
  return Run(Kind::kWeightGradient, data, ranks, shapes, 0, 3, 2);
}
