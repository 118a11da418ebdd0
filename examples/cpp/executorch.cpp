// ExecuTorch with XNNPACK.

#include <executorch/extension/data_loader/buffer_data_loader.h>
#include <executorch/extension/module/module.h>
#include <executorch/runtime/platform/platform.h>

#if __has_include(<executorch/extension/threadpool/threadpool.h>)
#include <executorch/extension/threadpool/threadpool.h>
#else  // the wheel has the library of the thread pool, but not its header
namespace executorch::extension::threadpool {
class ThreadPool {
 public:
  size_t get_thread_count() const;
  bool _unsafe_reset_threadpool(uint32_t count);
};
ThreadPool* get_threadpool();
}  // namespace executorch::extension::threadpool
#endif

#include "engines.hpp"

namespace libkd {
namespace {

using executorch::aten::ScalarType;
using executorch::aten::SizesType;
using executorch::aten::Tensor;
using executorch::aten::TensorImpl;
using executorch::extension::BufferDataLoader;
using executorch::extension::Module;
using executorch::extension::threadpool::get_threadpool;
using executorch::runtime::Error;
using executorch::runtime::EValue;
using executorch::runtime::PalImpl;
using executorch::runtime::Program;
using executorch::runtime::Result;
using executorch::runtime::TensorInfo;

constexpr const char* kMethod = "forward";
constexpr const char* kManifestMethod = "libkd_bundle";

// What the engine said last in this thread. It says why something failed only in its log.
thread_local std::string last_message;

void keep_message(et_timestamp_t, et_pal_log_level_t, const char*, const char*, size_t, const char* message,
                  size_t length) {
  last_message.assign(message, length);
}

// The engine has one thread pool for the whole process. It can't be replaced while a session is open.
class ThreadPoolUser {
 public:
  ThreadPoolUser(const std::string& path, int threads) {
    const std::lock_guard<std::mutex> turn(mutex());
    const auto wanted = static_cast<std::uint32_t>(threads);
    const std::size_t current = get_threadpool()->get_thread_count();
    if (current != wanted) {
      if (users() > 0) {
        throw libkd::Error(code::kEngine, path + ": ExecuTorch already runs with " + std::to_string(current) +
                                              " threads in this process; close its sessions or use the same number");
      }
      get_threadpool()->_unsafe_reset_threadpool(wanted);
    }
    ++users();
  }
  ThreadPoolUser(const ThreadPoolUser&) = delete;
  ThreadPoolUser& operator=(const ThreadPoolUser&) = delete;
  ~ThreadPoolUser() {
    const std::lock_guard<std::mutex> turn(mutex());
    --users();
  }

 private:
  static std::mutex& mutex() {
    static std::mutex mutex;
    return mutex;
  }
  static int& users() {
    static int users = 0;
    return users;
  }
};

class ExecutorchSession : public Session {
 public:
  ExecutorchSession(const Bundle& bundle, int threads)
      : path_(bundle.path),
        height_(bundle.manifest.input.height),
        width_(bundle.manifest.input.width),
        content_(bundle.files.at("model.pte")),
        pool_(bundle.path, threads),
        module_(std::make_unique<BufferDataLoader>(content_->data(), content_->size())) {
    check(module_.load(Program::Verification::InternalConsistency), "loading model.pte");
    graph_ = read_graph();
    check(module_.load_method(kMethod), "loading model.pte");
  }

  Graph graph() const override { return graph_; }

  void run(const std::uint8_t* pixels, float* probabilities, std::size_t classes) override {
    last_message.clear();
    SizesType sizes[] = {1, height_, width_, 3};
    TensorImpl image(ScalarType::Byte, 4, sizes, const_cast<std::uint8_t*>(pixels));
    const std::vector<EValue> answer = taken(module_.execute(kMethod, EValue(Tensor(&image))), "ExecuTorch");
    check(answer.size() == 1 && answer[0].isTensor() ? Error::Ok : Error::InvalidType, "ExecuTorch");
    const Tensor row = answer[0].toTensor();
    const bool fits = row.scalar_type() == ScalarType::Float && row.numel() == static_cast<ssize_t>(classes);
    check(fits ? Error::Ok : Error::InvalidType, "ExecuTorch");
    std::copy_n(row.const_data_ptr<float>(), classes, probabilities);
  }

 private:
  void check(Error error, const char* task) const {
    if (error == Error::Ok) return;
    char number[32];
    std::snprintf(number, sizeof number, "error 0x%x", static_cast<unsigned>(error));
    throw engine_failure(path_ + ": " + task, last_message.empty() ? number : last_message);
  }

  template <typename Value>
  Value taken(Result<Value> result, const char* task) const {
    check(result.error(), task);
    return std::move(*result);
  }

  Graph read_graph() {
    constexpr const char* kTask = "reading model.pte";
    Graph graph;
    const auto method = taken(module_.method_meta(kMethod), kTask);
    for (std::size_t i = 0; i < method.num_inputs(); ++i)
      graph.inputs.push_back(port(taken(method.input_tensor_meta(i), kTask)));
    for (std::size_t i = 0; i < method.num_outputs(); ++i)
      graph.outputs.push_back(port(taken(method.output_tensor_meta(i), kTask)));
    if (taken(module_.method_names(), kTask).count(kManifestMethod) > 0) {
      const std::vector<EValue> carried = taken(module_.execute(kManifestMethod), kTask);
      if (carried.size() == 1 && carried[0].isString()) graph.manifest = std::string(carried[0].toString());
    }
    return graph;
  }

  static Port port(const TensorInfo& tensor) {
    const ScalarType type = tensor.scalar_type();
    const char* dtype = type == ScalarType::Byte ? "uint8" : type == ScalarType::Float ? "float32" : "another type";
    return {"", dtype, {tensor.sizes().begin(), tensor.sizes().end()}};
  }

  std::string path_;
  int height_;
  int width_;
  std::shared_ptr<const Bytes> content_;  // the engine reads from the bytes as long as it runs
  ThreadPoolUser pool_;
  Module module_;
  Graph graph_;
};

}  // namespace

std::unique_ptr<Session> open_executorch(const Bundle& bundle, int threads) {
  static const bool is_quiet = executorch::runtime::register_pal(PalImpl::create(keep_message, __FILE__));
  (void)is_quiet;
  last_message.clear();
  return std::make_unique<ExecutorchSession>(bundle, threads);
}

}  // namespace libkd
