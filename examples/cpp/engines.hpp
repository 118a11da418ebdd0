// The engines that this program was built with.

#ifndef LIBKD_ENGINES_HPP
#define LIBKD_ENGINES_HPP

#include <memory>
#include <string>
#include <thread>

#include "libkd.hpp"

namespace libkd {

// Loads the model of a bundle for ExecuTorch. Throws kEngine. Defined in executorch.cpp.
std::unique_ptr<Session> open_executorch(const Bundle& bundle, int threads);

// Loads the model of a bundle for OpenVINO or for ONNX Runtime. Throws kEngine. Defined in openvino.cpp.
std::unique_ptr<Session> open_openvino(const Bundle& bundle, int threads);

// Returns an engine's message as an error of one line. A line that ends in a colon only introduces the next one.
inline Error engine_failure(const std::string& task, const std::string& message) {
  std::istringstream lines(message);
  std::string line, first;
  while (std::getline(lines, line)) {
    line.erase(0, line.find_first_not_of(" \t\r"));
    if (line.empty()) continue;
    if (first.empty()) first = line;
    if (line.back() != ':') return {code::kEngine, task + " failed: " + line};
  }
  return {code::kEngine, task + " failed: " + first};
}

// Loads the model of a bundle into the engine that reads it. `threads` is at least 1; 0 means the cores of the device.
// Throws kEngine, kEngineMissing and kUsage.
inline std::unique_ptr<Session> open_session(const Bundle& bundle, int threads) {
  if (threads < 0) throw Error(code::kUsage, "threads: at least 1");
  if (threads == 0) threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  const Manifest& manifest = bundle.manifest;
  if (manifest.target == "coreml" || manifest.backend.value_or("xnnpack") != "xnnpack") {
    throw Error(code::kEngineMissing, bundle.path + ": was made for " + manifest.backend.value_or("Core ML") +
                                          ", and this program has no such backend; export for executorch or openvino");
  }
#ifdef LIBKD_EXECUTORCH
  if (manifest.target == "executorch") return open_executorch(bundle, threads);
#endif
#ifdef LIBKD_OPENVINO
  if (manifest.target != "executorch") return open_openvino(bundle, threads);
#endif
  const std::string engine = manifest.target == "executorch" ? "executorch" : "openvino";
  throw Error(code::kEngineMissing, bundle.path + ": this program was built without the engine for " +
                                        facts_of(manifest.target).title + " bundles; pip install " + engine +
                                        ", and build it again");
}

// Opens a bundle: all that an app needs. Its files are freed again, but for what the engine keeps.
inline Classifier open_classifier(const std::string& path, int threads) {
  const Bundle bundle = Bundle::open(path);
  return Classifier(bundle, open_session(bundle, threads));
}

}  // namespace libkd

#endif  // LIBKD_ENGINES_HPP
