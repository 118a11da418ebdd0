// OpenVINO on the CPU, which also reads the files of ONNX Runtime.

#include <openvino/openvino.hpp>

#include "engines.hpp"

namespace libkd {
namespace {

constexpr const char* kManifestKey = "libkd_bundle";

// The core of the process. It is never freed: its plugin may be in use by threads that end later than main.
ov::Core& core() {
  static ov::Core* const core = new ov::Core;
  return *core;
}

Port port(const ov::Output<const ov::Node>& node) {
  std::string name;
  for (const std::string& each : node.get_names()) name += (name.empty() ? "" : ", ") + each;
  const ov::element::Type type = node.get_element_type();
  Port port{name, type == ov::element::u8 ? "uint8" : type == ov::element::f32 ? "float32" : type.get_type_name(), {}};
  for (const ov::Dimension& length : node.get_partial_shape())
    port.shape.push_back(length.is_static() ? length.get_length() : -1);
  return port;
}

// Returns whether an ONNX file has weights in another file, which OpenVINO would look for in the working folder. The
// name of that file follows the text `location`, and the length of this text, 8 and maybe zeros, stands before it.
bool names_other_file(const std::string& model) {
  for (std::size_t at = model.find("location", 1); at != std::string::npos; at = model.find("location", at + 1))
    if (model[at - 1] == 8 || model[at - 1] == 0) return true;
  return false;
}

class OpenvinoSession : public Session {
 public:
  OpenvinoSession(const Bundle& bundle, int threads) : path_(bundle.path) {
    const char* const file = facts_of(bundle.manifest.target).files[0];
    try {
      const std::shared_ptr<ov::Model> model = read(bundle);
      for (const auto& input : std::as_const(*model).inputs()) graph_.inputs.push_back(port(input));
      for (const auto& output : std::as_const(*model).outputs()) graph_.outputs.push_back(port(output));
      graph_.manifest = carried(*model, bundle.manifest.target);
      const Input& input = bundle.manifest.input;
      const ov::Shape one{1, static_cast<std::size_t>(input.height), static_cast<std::size_t>(input.width), 3};
      if (graph_.inputs.size() != 1 || graph_.inputs[0].shape.size() != one.size())
        return;  // the classifier refuses it
      model->reshape(ov::PartialShape(one));
      request_ = core().compile_model(model, "CPU", settings(bundle.manifest, threads)).create_infer_request();
    } catch (const Error&) {
      throw;
    } catch (const std::exception& fault) {
      throw engine_failure(path_ + ": loading " + file, fault.what());
    }
  }

  Graph graph() const override { return graph_; }

  void run(const std::uint8_t* pixels, float* probabilities, std::size_t classes) override {
    try {
      ov::Tensor image = request_.get_input_tensor();
      std::memcpy(image.data<std::uint8_t>(), pixels, image.get_byte_size());
      request_.infer();
      const ov::Tensor answer = request_.get_output_tensor();
      if (answer.get_size() != classes) throw std::runtime_error("another number of probabilities");
      std::copy_n(answer.data<float>(), classes, probabilities);
    } catch (const std::exception& fault) {
      throw engine_failure(path_ + ": OpenVINO", fault.what());
    }
  }

 private:
  std::shared_ptr<ov::Model> read(const Bundle& bundle) {
    const Bytes& content = *bundle.files.at(facts_of(bundle.manifest.target).files[0]);
    const std::string graph(content.begin(), content.end());
    if (bundle.manifest.target == "onnx") {
      if (!names_other_file(graph)) return core().read_model(graph, ov::Tensor());
      throw Error(code::kBundle, path_ + ": model.onnx names another file; export it again, with its weights inside");
    }
    weights_ = bundle.files.at("model.bin");
    const ov::Tensor weights(ov::element::u8, {weights_->size()}, const_cast<std::uint8_t*>(weights_->data()));
    return core().read_model(graph, weights);
  }

  // Returns the manifest in the model. OpenVINO keeps the metadata of an ONNX file under `framework`.
  static std::string carried(const ov::Model& model, const std::string& target) {
    const std::vector<std::string> place =
        target == "onnx" ? std::vector<std::string>{"framework", kManifestKey} : std::vector<std::string>{kManifestKey};
    return model.has_rt_info(place) ? model.get_rt_info<std::string>(place) : "";
  }

  static ov::AnyMap settings(const Description& about, int threads) {
    ov::AnyMap settings{ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY),
                        ov::inference_num_threads(threads)};
    if (about.precision == "fp32") {  // by default, OpenVINO computes in bf16 if the CPU can
      settings.insert(ov::hint::execution_mode(ov::hint::ExecutionMode::ACCURACY));
      settings.insert(ov::hint::inference_precision(ov::element::f32));
    }
    // Sums of 8-bit weights overflow on CPUs without VNNI. OpenVINO's own files avoid that, those of ONNX Runtime
    // don't.
    if (about.target == "onnx" && about.precision == "int8") settings["LP_TRANSFORMS_MODE"] = "NO";
    return settings;
  }

  std::string path_;
  std::shared_ptr<const Bytes> weights_;  // the model reads from them as long as it runs
  Graph graph_;
  ov::InferRequest request_;
};

}  // namespace

std::unique_ptr<Session> open_openvino(const Bundle& bundle, int threads) {
  return std::make_unique<OpenvinoSession>(bundle, threads);
}

}  // namespace libkd
