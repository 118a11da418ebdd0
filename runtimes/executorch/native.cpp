// A C interface to ExecuTorch's C++ runtime, which native.py calls through ctypes, so that predicting needs no torch.
//
// Functions return 0 or an ExecuTorch error code. No exception leaves them. A program is used by one thread at a time.

#include <cstdint>
#include <cstring>
#include <exception>
#include <memory>
#include <string>

#include <executorch/extension/data_loader/buffer_data_loader.h>
#include <executorch/extension/module/module.h>

// The wheel has the library of the thread pool, but not its header.
namespace executorch::extension::threadpool {
class ThreadPool {
 public:
  size_t get_thread_count() const;
  bool _unsafe_reset_threadpool(uint32_t count);
};
ThreadPool* get_threadpool();
}  // namespace executorch::extension::threadpool

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
using executorch::runtime::Program;

constexpr const char* kMethod = "forward";
constexpr size_t kMaxRank = 8;
constexpr int kFailed = static_cast<int>(Error::Internal);

template <typename Body>
int guarded(Body body) {
  try {
    return static_cast<int>(body());
  } catch (const std::bad_alloc&) {
    return static_cast<int>(Error::MemoryAllocationFailed);
  } catch (...) {
    return kFailed;
  }
}

}  // namespace

extern "C" {

uint32_t libkd_threads() { return static_cast<uint32_t>(get_threadpool()->get_thread_count()); }

int libkd_set_threads(uint32_t count) {
  return guarded([&] { return get_threadpool()->_unsafe_reset_threadpool(count) ? Error::Ok : Error::Internal; });
}

// Reads a program. The caller keeps `data` as long as the program.
int libkd_open(const void* data, size_t size, Module** opened) {
  return guarded([&] {
    auto module = std::make_unique<Module>(std::make_unique<BufferDataLoader>(data, size));
    Error error = module->load(Program::Verification::InternalConsistency);
    if (error == Error::Ok) *opened = module.release();
    return error;
  });
}

int libkd_load(Module* module) {
  return guarded([&] { return module->load_method(kMethod); });
}

void libkd_close(Module* module) { delete module; }

// Writes the dtype and the lengths of an input or output; `sizes` has room for 8.
int libkd_port(Module* module, int is_output, size_t index, int32_t* dtype, size_t* rank, int32_t* sizes) {
  return guarded([&] {
    auto method = module->method_meta(kMethod);
    if (!method.ok()) return method.error();
    auto tensor = is_output ? method->output_tensor_meta(index) : method->input_tensor_meta(index);
    if (!tensor.ok()) return tensor.error();
    auto lengths = tensor->sizes();
    if (lengths.size() > kMaxRank) return Error::NotSupported;
    *dtype = static_cast<int32_t>(tensor->scalar_type());
    *rank = lengths.size();
    for (size_t place = 0; place < *rank; ++place) sizes[place] = lengths[place];
    return Error::Ok;
  });
}

int libkd_port_counts(Module* module, size_t* inputs, size_t* outputs) {
  return guarded([&] {
    auto method = module->method_meta(kMethod);
    if (!method.ok()) return method.error();
    *inputs = method->num_inputs();
    *outputs = method->num_outputs();
    return Error::Ok;
  });
}

// Copies the string that a method without inputs returns, as far as there is room. Its length is 0 without such a method.
int libkd_text(Module* module, const char* name, char* text, size_t room, size_t* length) {
  return guarded([&] {
    *length = 0;
    auto names = module->method_names();
    if (!names.ok()) return names.error();
    if (names->count(name) == 0) return Error::Ok;
    auto answer = module->execute(name);
    if (!answer.ok()) return answer.error();
    if (answer->size() != 1 || !answer->at(0).isString()) return Error::InvalidType;
    auto found = answer->at(0).toString();
    std::memcpy(text, found.data(), found.size() < room ? found.size() : room);
    *length = found.size();
    return Error::Ok;
  });
}

// Computes the probabilities of one image, uint8 [1, height, width, 3].
int libkd_run(Module* module, const void* pixels, int32_t height, int32_t width, float* probabilities, size_t classes) {
  return guarded([&] {
    SizesType sizes[4] = {1, height, width, 3};
    TensorImpl image(ScalarType::Byte, 4, sizes, const_cast<void*>(pixels));
    auto answer = module->execute(kMethod, EValue(Tensor(&image)));
    if (!answer.ok()) return answer.error();
    if (answer->size() != 1 || !answer->at(0).isTensor()) return Error::InvalidType;
    const Tensor row = answer->at(0).toTensor();
    if (row.scalar_type() != ScalarType::Float || row.numel() != static_cast<ssize_t>(classes)) return Error::InvalidType;
    std::memcpy(probabilities, row.const_data_ptr<float>(), classes * sizeof(float));
    return Error::Ok;
  });
}

}  // extern "C"
