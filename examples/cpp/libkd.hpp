// Predict with a bundle of libkd-sdk: everything but the decoding of image files and the engine.
//
//   libkd::Bundle bundle = libkd::Bundle::open("bundles/executorch");                  // checks that need no engine
//   libkd::Classifier classifier(bundle, libkd::open_session(bundle, 2));              // engines.hpp; the other checks
//   libkd::Image image = libkd::read_image("photo.jpg", classifier.input());           // decoding.hpp
//   libkd::Prediction answer = classifier.predict(std::move(image), "photo.jpg", 3);
//   std::cout << answer.top[0].label;
//
// This header needs C++17 and POSIX, and nothing else. spec/bundle.md and spec/preprocessing.md say what it does.
// Compile it with -ffp-contract=off: fused operations round differently, and some pixels then differ by 1.

#ifndef LIBKD_HPP
#define LIBKD_HPP

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <initializer_list>
#include <limits>
#include <locale>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

namespace libkd {

using Bytes = std::vector<std::uint8_t>;

// ------------------------------------------------------------------------------------------------------------- errors

namespace code {
constexpr const char* kImage = "image-unreadable";
constexpr const char* kUsage = "usage";
constexpr const char* kBundle = "bundle-invalid";
constexpr const char* kProof = "proof-failed";
constexpr const char* kEngine = "engine-failed";
constexpr const char* kEngineMissing = "engine-missing";
}  // namespace code

namespace detail {

// Returns the length of the UTF-8 character at `at`; 0 if there is none.
inline std::size_t utf8_length(std::string_view text, std::size_t at) {
  const auto byte = [&](std::size_t offset) {
    return at + offset < text.size() ? static_cast<unsigned char>(text[at + offset]) : 0u;
  };
  const unsigned first = byte(0);
  if (first < 0x80) return at < text.size() ? 1 : 0;
  const std::size_t length = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
  if (first < 0xC2 || first > 0xF4) return 0;
  // Neither longer than it need be, nor half a character, nor above 10FFFF.
  const unsigned least = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
  const unsigned most = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
  if (byte(1) < least || byte(1) > most) return 0;
  for (std::size_t offset = 2; offset < length; ++offset)
    if (byte(offset) < 0x80 || byte(offset) > 0xBF) return 0;
  return length;
}

// Returns whether a terminal would obey the character, or take it for the end of a line.
inline bool is_control(std::string_view character) {
  const auto first = static_cast<unsigned char>(character[0]);
  if (character.size() == 1) return first < 0x20 || first == 0x7F;
  if (character.size() == 2) return first == 0xC2 && static_cast<unsigned char>(character[1]) < 0xA0;
  return character == "\u2028" || character == "\u2029";
}

inline std::string one_line(std::string_view text) {
  std::string line;
  for (std::size_t at = 0, length = 0; at < text.size(); at += std::max<std::size_t>(length, 1)) {
    length = utf8_length(text, at);
    const std::string_view character = text.substr(at, std::max<std::size_t>(length, 1));
    if (length > 0 && is_control(character)) line += ' ';
    else line += character;
  }
  return line;
}

}  // namespace detail

// Every error of this project. Its message is one line: what is wrong, where, and how to fix it. docs/errors.md
// explains each code.
class Error : public std::runtime_error {
 public:
  Error(const char* code, const std::string& message) : std::runtime_error(detail::one_line(message)), code_(code) {}

  const char* code() const noexcept { return code_; }

  // What a command returns: 2 if its user can fix the cause, else 1.
  int exit_code() const noexcept {
    return code_ == std::string_view(code::kProof) || code_ == std::string_view(code::kEngine) ? 1 : 2;
  }

 private:
  const char* code_;
};

// --------------------------------------------------------------------------------------------------------------- JSON

namespace detail {

// The text is not the JSON that was expected. The message says where in it, and why.
struct Malformed : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Reads JSON straight into typed values, so that a hostile text can neither nest deeply nor fill the memory.
class Json {
 public:
  explicit Json(std::string_view text) : text_(text) { skip_space(); }

  struct Field {
    const char* key;
    std::function<void()> read;
    bool required = true;
  };

  // Reads an object that has these keys and no others. At most 32 fields.
  void object(std::initializer_list<Field> fields) {
    std::uint32_t seen = 0;
    members([&](const std::string& key) {
      std::uint32_t bit = 1;
      for (const Field& field : fields) {
        if (key == field.key) {
          if (seen & bit) fail("it is there twice");
          seen |= bit;
          return field.read();
        }
        bit <<= 1;
      }
      fail("an unknown key");
    });
    std::uint32_t bit = 1;
    for (const Field& field : fields) {
      if (field.required && !(seen & bit)) fail("the key " + std::string(field.key) + " is missing");
      bit <<= 1;
    }
  }

  // Reads an object whose keys are data.
  template <typename Read>
  auto map(Read read) {
    std::map<std::string, decltype(read())> found;
    members([&](const std::string& key) {
      if (!found.emplace(key, read()).second) fail("it is there twice");
    });
    return found;
  }

  template <typename Read>
  auto array(Read read) {
    std::vector<decltype(read())> found;
    separated('[', ']', [&] { found.push_back(read()); });
    return found;
  }

  template <typename Read>
  auto nullable(Read read) {
    return null() ? std::nullopt : std::optional<decltype(read())>(read());
  }

  std::string string() {
    expect('"');
    std::string value;
    while (peek() != '"') {
      if (peek() == '\\') {
        value += escaped();
      } else {
        const std::size_t length = utf8_length(text_, at_);
        if (length == 0 || static_cast<unsigned char>(text_[at_]) < 0x20) fail("no text in UTF-8");
        value += text_.substr(at_, length);
        at_ += length;
      }
    }
    ++at_;
    skip_space();
    return value;
  }

  std::string one_of(std::initializer_list<const char*> known) {
    std::string value = string();
    if (std::find(known.begin(), known.end(), value) == known.end()) {
      std::string names;
      for (const char* name : known) names += (names.empty() ? "" : ", ") + std::string(name);
      fail("one of: " + names);
    }
    return value;
  }

  std::int64_t integer(std::int64_t least, std::int64_t most) {
    const std::string_view digits = literal();
    std::int64_t value = 0;
    const bool negative = digits[0] == '-';
    for (const char digit : digits.substr(negative)) {
      if (digit < '0' || digit > '9') fail("no whole number");
      if (value > (std::numeric_limits<std::int64_t>::max() - 9) / 10) fail("a number that is too large");
      value = 10 * value + (digit - '0');
    }
    value = negative ? -value : value;
    if (value < least || value > most)
      fail("a number that is not between " + std::to_string(least) + " and " + std::to_string(most));
    return value;
  }

  double number() {
    std::istringstream digits{std::string(literal())};
    digits.imbue(std::locale::classic());
    double value = 0;
    if (!(digits >> value)) fail("a number that is too large");
    return value;
  }

  // Reads an object for the text of one key, whatever else it holds.
  std::string text_of(std::string_view wanted) {
    std::optional<std::string> found;
    members([&](const std::string& key) {
      if (key == wanted) found = string();
      else skip();
    });
    if (!found) fail("the key " + std::string(wanted) + " is missing");
    return *found;
  }

  // Passes over any value.
  void skip(int depth = 0) {
    if (depth == kMaxDepth) fail("nested too deeply");
    switch (peek()) {
      case '{': return members([&](const std::string&) { skip(depth + 1); });
      case '[': return separated('[', ']', [&] { skip(depth + 1); });
      case '"': return void(string());
      case 't': return word("true");
      case 'f': return word("false");
      case 'n': return word("null");
      default: return void(literal());
    }
  }

  // Checks that nothing follows.
  void end() {
    if (at_ != text_.size()) fail("something follows the value");
  }

  [[noreturn]] void fail(const std::string& why) const {
    std::string place = "$";
    for (const std::string& key : path_) place += "." + (key.size() > 60 ? key.substr(0, 60) + "..." : key);
    throw Malformed(place + ": " + why);
  }

 private:
  static constexpr int kMaxDepth = 64;

  template <typename Read>
  void members(Read read) {
    separated('{', '}', [&] {
      const std::string key = string();
      path_.push_back(key);
      expect(':');
      skip_space();
      read(key);
      path_.pop_back();
    });
  }

  template <typename Read>
  void separated(char open, char close, Read read) {
    expect(open);
    skip_space();
    for (bool first = true; peek() != close; first = false) {
      if (!first) {
        expect(',');
        skip_space();
      }
      read();
    }
    ++at_;
    skip_space();
  }

  bool null() {
    if (peek() != 'n') return false;
    word("null");
    return true;
  }

  void word(std::string_view expected) {
    if (text_.substr(at_, expected.size()) != expected) fail("no JSON");
    at_ += expected.size();
    skip_space();
  }

  // Takes a number, and returns its text: -?(0|[1-9][0-9]*)(.[0-9]+)?([eE][+-]?[0-9]+)?
  std::string_view literal() {
    const std::size_t start = at_;
    if (peek() == '-') ++at_;
    if (peek() == '0') ++at_;
    else digits();
    if (at_ < text_.size() && text_[at_] == '.') {
      ++at_;
      digits();
    }
    if (at_ < text_.size() && (text_[at_] == 'e' || text_[at_] == 'E')) {
      ++at_;
      if (peek() == '+' || peek() == '-') ++at_;
      digits();
    }
    const std::string_view found = text_.substr(start, at_ - start);
    skip_space();
    return found;
  }

  void digits() {
    if (peek() < '0' || peek() > '9') fail("a value of another type");
    while (at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9') ++at_;
  }

  std::string escaped() {
    ++at_;
    const char kind = peek();
    ++at_;
    switch (kind) {
      case '"':
      case '\\':
      case '/': return std::string(1, kind);
      case 'b': return "\b";
      case 'f': return "\f";
      case 'n': return "\n";
      case 'r': return "\r";
      case 't': return "\t";
      case 'u': return utf8(code_point());
      default: fail("no JSON");
    }
  }

  std::uint32_t code_point() {
    const std::uint32_t first = hex();
    if (first < 0xD800 || first > 0xDFFF) return first;
    if (first > 0xDBFF || text_.substr(at_, 2) != "\\u") fail("half a character");
    at_ += 2;
    const std::uint32_t second = hex();
    if (second < 0xDC00 || second > 0xDFFF) fail("half a character");
    return 0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00);
  }

  std::uint32_t hex() {
    std::uint32_t value = 0;
    for (int digit = 0; digit < 4; ++digit, ++at_) {
      const char letter = peek();
      if (letter >= '0' && letter <= '9') value = 16 * value + static_cast<std::uint32_t>(letter - '0');
      else if (letter >= 'a' && letter <= 'f') value = 16 * value + static_cast<std::uint32_t>(letter - 'a' + 10);
      else if (letter >= 'A' && letter <= 'F') value = 16 * value + static_cast<std::uint32_t>(letter - 'A' + 10);
      else fail("no JSON");
    }
    return value;
  }

  static std::string utf8(std::uint32_t point) {
    const auto last = [&](int shift) { return static_cast<char>(0x80 | (point >> shift & 0x3F)); };
    if (point < 0x80) return {static_cast<char>(point)};
    if (point < 0x800) return {static_cast<char>(0xC0 | point >> 6), last(0)};
    if (point < 0x10000) return {static_cast<char>(0xE0 | point >> 12), last(6), last(0)};
    return {static_cast<char>(0xF0 | point >> 18), last(12), last(6), last(0)};
  }

  char peek() const {
    if (at_ >= text_.size()) fail("it ends too early");
    return text_[at_];
  }

  void expect(char wanted) {
    if (peek() != wanted) fail("a value of another type");
    ++at_;
  }

  void skip_space() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\t' || text_[at_] == '\r'))
      ++at_;
  }

  std::string_view text_;
  std::size_t at_ = 0;
  std::vector<std::string> path_;
};

// Returns what `read` makes of a whole text.
template <typename Read>
auto from_json(std::string_view text, Read read) {
  Json json(text);
  auto value = read(json);
  json.end();
  return value;
}

}  // namespace detail

// ------------------------------------------------------------------------------------------------------- the manifest

constexpr const char* kFormat = "libkd-bundle/1";
constexpr const char* kManifest = "bundle.json";
constexpr const char* kSignature = "bundle.sig";
constexpr const char* kGolden = "golden.safetensors";
constexpr std::size_t kMaxManifestBytes = 16u << 20;
constexpr std::size_t kMaxSignatureBytes = 4096;
constexpr std::int64_t kMaxFileBytes = std::int64_t{1} << 31;

// How an image is scaled before the crop. Lengths are pixels.
struct Resize {
  std::string mode;  // "squash" or "cover"
  int height = 0;
  int width = 0;
  std::string filter = "bicubic";

  bool operator==(const Resize& other) const {
    return std::tie(mode, height, width, filter) == std::tie(other.mode, other.height, other.width, other.filter);
  }
};

// The pixels that a model takes: uint8 RGB [height, width, 3], and how an image becomes these pixels.
struct Input {
  int height = 0;
  int width = 0;
  Resize resize;
  std::string crop = "center";  // or "none"

  bool operator==(const Input& other) const {
    return std::tie(height, width, resize, crop) == std::tie(other.height, other.width, other.resize, other.crop);
  }
};

struct Model {
  std::string arch;
  std::int64_t parameters = 0;
  std::vector<std::string> teachers;
  std::optional<std::string> trained_on;
  std::optional<std::string> calibrated_on;

  bool operator==(const Model& other) const {
    return std::tie(arch, parameters, teachers, trained_on, calibrated_on) ==
           std::tie(other.arch, other.parameters, other.teachers, other.trained_on, other.calibrated_on);
  }
};

struct Quantized {
  std::int64_t calibration_images = 0;
  std::vector<std::string> float_layers;

  bool operator==(const Quantized& other) const {
    return std::tie(calibration_images, float_layers) == std::tie(other.calibration_images, other.float_layers);
  }
};

// The part of a manifest that the model file carries as well.
struct Description {
  std::string name;
  std::string created;
  std::string target;  // the engine: "onnx", "openvino", "executorch" or "coreml"
  std::optional<std::string> backend;
  std::string precision;  // "fp32", "fp16" or "int8"
  std::vector<std::string> labels;
  Input input;
  double temperature = 1;
  Model model;
  std::optional<Quantized> quantized;
  std::map<std::string, std::string> versions;

  bool operator==(const Description& other) const {
    return std::tie(name, created, target, backend, precision, labels, input, temperature, model, quantized,
                    versions) == std::tie(other.name, other.created, other.target, other.backend, other.precision,
                                          other.labels, other.input, other.temperature, other.model, other.quantized,
                                          other.versions);
  }
};

struct FileEntry {
  std::string sha256;
  std::int64_t bytes = 0;
};

// The content of `bundle.json`. What is only for people, `lowered` and `proof`, is checked and left out.
struct Manifest : Description {
  std::map<std::string, FileEntry> files;
};

namespace detail {

constexpr std::int64_t kAnyCount = std::numeric_limits<std::int64_t>::max();
constexpr std::int64_t kMaxLength = 8192;

inline std::string read_label(Json& json) {
  std::string label = json.string();
  std::size_t characters = 0;
  for (std::size_t at = 0; at < label.size(); ++characters) {
    const std::string_view character = std::string_view(label).substr(at, utf8_length(label, at));
    if (character.size() < 3 && is_control(character)) json.fail("a control character in a name");
    at += character.size();
  }
  if (characters < 1 || characters > 500) json.fail("a name has between 1 and 500 characters");
  return label;
}

inline std::vector<std::string> read_strings(Json& json) {
  return json.array([&] { return json.string(); });
}

inline double read_share(Json& json) {
  const double share = json.number();
  if (!(share >= 0 && share <= 1)) json.fail("a number that is not between 0 and 1");
  return share;
}

inline Resize read_resize(Json& json) {
  Resize resize;
  json.object({
      {"mode", [&] { resize.mode = json.one_of({"squash", "cover"}); }},
      {"size",
       [&] {
         const auto size = json.array([&] { return static_cast<int>(json.integer(1, kMaxLength)); });
         if (size.size() != 2) json.fail("height and width");
         resize.height = size[0];
         resize.width = size[1];
       }},
      {"filter", [&] { resize.filter = json.one_of({"nearest", "box", "bilinear", "bicubic", "lanczos"}); }, false},
  });
  return resize;
}

inline Input read_input(Json& json) {
  Input input;
  json.object({
      {"dtype", [&] { json.one_of({"uint8"}); }, false},
      {"layout", [&] { json.one_of({"NHWC"}); }, false},
      {"channels", [&] { json.one_of({"RGB"}); }, false},
      {"height", [&] { input.height = static_cast<int>(json.integer(1, kMaxLength)); }},
      {"width", [&] { input.width = static_cast<int>(json.integer(1, kMaxLength)); }},
      {"resize", [&] { input.resize = read_resize(json); }},
      {"crop", [&] { input.crop = json.one_of({"center", "none"}); }, false},
  });
  const Resize& resize = input.resize;
  const bool same = resize.height == input.height && resize.width == input.width;
  if (input.crop == "none" && (resize.mode != "squash" || !same))
    json.fail("without a crop, resize squashes to height x width");
  if (resize.height < input.height || resize.width < input.width) json.fail("resize.size is smaller than the crop");
  return input;
}

inline Model read_model(Json& json) {
  Model model;
  json.object({
      {"arch", [&] { model.arch = json.string(); }},
      {"parameters", [&] { model.parameters = json.integer(0, kAnyCount); }},
      {"teachers", [&] { model.teachers = read_strings(json); }, false},
      {"trained_on", [&] { model.trained_on = json.nullable([&] { return json.string(); }); }, false},
      {"calibrated_on", [&] { model.calibrated_on = json.nullable([&] { return json.string(); }); }, false},
  });
  return model;
}

inline Quantized read_quantized(Json& json) {
  Quantized quantized;
  json.object({
      {"calibration_images", [&] { quantized.calibration_images = json.integer(1, kAnyCount); }},
      {"float_layers", [&] { quantized.float_layers = read_strings(json); }, false},
  });
  return quantized;
}

inline double read_temperature(Json& json) {
  double temperature = 1;
  json.object({
      {"kind", [&] { json.one_of({"probabilities"}); }, false},
      {"temperature",
       [&] {
         temperature = json.number();
         if (!(temperature > 0)) json.fail("a temperature is more than 0");
       },
       false},
  });
  return temperature;
}

inline FileEntry read_entry(Json& json) {
  FileEntry entry;
  json.object({
      {"sha256",
       [&] {
         entry.sha256 = json.string();
         if (entry.sha256.size() != 64 || entry.sha256.find_first_not_of("0123456789abcdef") != std::string::npos)
           json.fail("64 hexadecimal digits in lower case");
       }},
      {"bytes", [&] { entry.bytes = json.integer(1, kMaxFileBytes); }},
  });
  return entry;
}

inline bool check_lowered(Json& json) {
  json.object({
      {"delegates", [&] { json.integer(0, kAnyCount); }},
      {"outside", [&] { json.map([&] { return json.integer(0, kAnyCount); }); }},
  });
  return true;
}

inline bool check_proof(Json& json) {
  const auto share = [&] { return read_share(json); };
  json.object({
      {"images", [&] { json.integer(1, kAnyCount); }},
      {"max_abs_difference", [&] { share(); }},
      {"top1_agreement", [&] { share(); }},
      {"top1", [&] { json.nullable(share); }, false},
      {"reference_top1", [&] { json.nullable(share); }, false},
  });
  return true;
}

// Reads a manifest, or with `embedded` the part of it that the model file carries.
inline Manifest read_manifest(Json& json, bool embedded) {
  Manifest read;
  const auto whole_only = [&](std::function<void()> take) {
    return [&json, embedded, take = std::move(take)] {
      if (embedded) json.fail("an unknown key");
      take();
    };
  };
  json.object({
      {"format", [&] { json.one_of({kFormat}); }},
      {"name", [&] { read.name = read_label(json); }},
      {"created", [&] { read.created = json.string(); }},
      {"target", [&] { read.target = json.one_of({"onnx", "openvino", "executorch", "coreml"}); }},
      {"backend", [&] { read.backend = json.nullable([&] { return json.one_of({"xnnpack", "vulkan", "coreml"}); }); },
       false},
      {"precision", [&] { read.precision = json.one_of({"fp32", "fp16", "int8"}); }},
      {"labels", [&] { read.labels = json.array([&] { return read_label(json); }); }},
      {"input", [&] { read.input = read_input(json); }},
      {"output", [&] { read.temperature = read_temperature(json); }},
      {"model", [&] { read.model = read_model(json); }},
      {"quantized", [&] { read.quantized = json.nullable([&] { return read_quantized(json); }); }, false},
      {"versions", [&] { read.versions = json.map([&] { return json.string(); }); }},
      {"files", whole_only([&] { read.files = json.map([&] { return read_entry(json); }); }), !embedded},
      {"lowered", whole_only([&] { json.nullable([&] { return check_lowered(json); }); }), false},
      {"proof", whole_only([&] { json.nullable([&] { return check_proof(json); }); }), !embedded},
  });
  if (read.labels.size() < 2) json.fail("two labels or more");
  if (read.backend && read.target != "executorch") json.fail("this engine has no backends");
  return read;
}

}  // namespace detail

// Returns the `input` of a manifest, given as JSON. Throws kUsage.
inline Input parse_input(const std::string& text) {
  try {
    return detail::from_json(text, detail::read_input);
  } catch (const detail::Malformed& fault) {
    throw Error(code::kUsage, text + ": no input of a " + kManifest + " (" + fault.what() + ")");
  }
}

// ------------------------------------------------------------------------------------------------------------- SHA-256

namespace detail {

// Returns the SHA-256 of some bytes in hexadecimal (FIPS 180-4).
inline std::string sha256(const Bytes& content) {
  static constexpr std::array<std::uint32_t, 64> kRounds = {
      0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
      0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
      0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
      0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
      0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
      0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
      0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
      0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};
  std::array<std::uint32_t, 8> state = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                        0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  const auto turn = [](std::uint32_t word, int bits) { return word >> bits | word << (32 - bits); };
  const auto take = [&](const std::uint8_t* block) {
    std::array<std::uint32_t, 64> words;
    for (std::size_t i = 0; i < 16; ++i) {
      words[i] = std::uint32_t{block[4 * i]} << 24 | std::uint32_t{block[4 * i + 1]} << 16 |
                 std::uint32_t{block[4 * i + 2]} << 8 | block[4 * i + 3];
    }
    for (std::size_t i = 16; i < 64; ++i) {
      const std::uint32_t a = words[i - 15], b = words[i - 2];
      words[i] =
          words[i - 16] + (turn(a, 7) ^ turn(a, 18) ^ a >> 3) + words[i - 7] + (turn(b, 17) ^ turn(b, 19) ^ b >> 10);
    }
    auto [a, b, c, d, e, f, g, h] = state;
    for (std::size_t i = 0; i < 64; ++i) {
      const std::uint32_t one =
          h + (turn(e, 6) ^ turn(e, 11) ^ turn(e, 25)) + ((e & f) ^ (~e & g)) + kRounds[i] + words[i];
      const std::uint32_t two = (turn(a, 2) ^ turn(a, 13) ^ turn(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
      h = g, g = f, f = e, e = d + one, d = c, c = b, b = a, a = one + two;
    }
    const std::array<std::uint32_t, 8> added = {a, b, c, d, e, f, g, h};
    for (std::size_t i = 0; i < 8; ++i) state[i] += added[i];
  };
  const std::size_t whole = content.size() / 64 * 64;
  for (std::size_t at = 0; at < whole; at += 64) take(content.data() + at);
  Bytes rest(content.begin() + static_cast<std::ptrdiff_t>(whole), content.end());
  rest.push_back(0x80);
  rest.resize(rest.size() <= 56 ? 64 : 128);
  const std::uint64_t bits = std::uint64_t{content.size()} * 8;
  for (std::size_t i = 0; i < 8; ++i) rest[rest.size() - 1 - i] = static_cast<std::uint8_t>(bits >> 8 * i);
  for (std::size_t at = 0; at < rest.size(); at += 64) take(rest.data() + at);
  std::string text;
  for (const std::uint32_t word : state)
    for (int shift = 28; shift >= 0; shift -= 4) text += "0123456789abcdef"[word >> shift & 15];
  return text;
}

// --------------------------------------------------------------------------------------------------------------- files

// A descriptor that is closed with its scope.
class Descriptor {
 public:
  explicit Descriptor(int number) : number_(number) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (number_ >= 0) ::close(number_);
  }
  int get() const { return number_; }

 private:
  int number_;
};

enum class Reading { kDone, kMissing, kLink, kNoFile, kTooLarge, kFailed };

struct FileContent {
  Reading result;
  Bytes bytes;
  std::string reason;  // of kFailed
};

// Reads a regular file once. A link is followed only if `folder` is AT_FDCWD; pipes and devices are left alone.
inline FileContent read_file(int folder, const std::string& name, std::size_t limit) {
  const int links = folder == AT_FDCWD ? 0 : O_NOFOLLOW;
  if (name.find('\0') != std::string::npos) return {Reading::kMissing, {}, ""};
  const Descriptor file(::openat(folder, name.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC | links));
  const auto failed = [] { return FileContent{Reading::kFailed, {}, std::strerror(errno)}; };
  if (file.get() < 0) {
    if (errno == ENOENT || errno == ENOTDIR) return {Reading::kMissing, {}, ""};
    if (errno == ELOOP) return {Reading::kLink, {}, ""};
    if (errno == ENXIO) return {Reading::kNoFile, {}, ""};
    return failed();
  }
  struct stat about;
  if (::fstat(file.get(), &about) != 0) return failed();
  if (!S_ISREG(about.st_mode)) return {Reading::kNoFile, {}, ""};
  if (static_cast<std::uintmax_t>(about.st_size) > limit) return {Reading::kTooLarge, {}, ""};
  Bytes content(static_cast<std::size_t>(about.st_size));
  std::size_t filled = 0;
  while (filled < content.size()) {
    const ssize_t count = ::read(file.get(), content.data() + filled, content.size() - filled);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return failed();
    if (count == 0) break;
    filled += static_cast<std::size_t>(count);
  }
  content.resize(filled);
  return {Reading::kDone, std::move(content), ""};
}

// Returns the names of everything in an open folder.
inline std::vector<std::string> names_in(int folder, const std::string& path) {
  const auto failed = [&]() -> Error {
    return {code::kBundle, path + ": can't be read (" + std::strerror(errno) + "); check its permissions"};
  };
  const int copy = ::openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (copy < 0) throw failed();
  const std::unique_ptr<DIR, int (*)(DIR*)> opened(::fdopendir(copy), ::closedir);
  if (!opened) {
    ::close(copy);
    throw failed();
  }
  std::vector<std::string> names;
  while (const dirent* entry = ::readdir(opened.get())) {
    const std::string name = entry->d_name;
    if (name != "." && name != "..") names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace detail

// ---------------------------------------------------------------------------------------------------------- the bundle

// What is known about an engine without its library.
struct EngineFacts {
  const char* title;
  std::vector<const char*> files;  // the first is the model file
  std::size_t magic_at;            // where the model file has `magic`
  const char* magic;
};

inline const EngineFacts& facts_of(const std::string& target) {
  static const std::map<std::string, EngineFacts> facts = {
      {"onnx", {"ONNX Runtime", {"model.onnx"}, 0, "\x08"}},
      {"openvino", {"OpenVINO", {"model.xml", "model.bin"}, 0, "<?xml"}},
      {"executorch", {"ExecuTorch", {"model.pte"}, 4, "ET12"}},
      {"coreml", {"Core ML", {"model.mlpackage.zip"}, 0, "PK\x03\x04"}},
  };
  return facts.at(target);
}

using Files = std::map<std::string, std::shared_ptr<const Bytes>>;

// A folder with a valid manifest, whose files have exactly the content that the manifest lists. Every file was read
// once: the bytes that were hashed are those that the engine gets. A signature is not checked.
struct Bundle {
  std::string path;
  Manifest manifest;
  Files files;

  // Reads a folder. Throws kBundle if it is missing, damaged, foreign, or written by a newer version.
  static Bundle open(const std::string& path);
};

namespace detail {

inline Manifest parse_manifest(const std::string& place, const Bytes& content) {
  const std::string_view text(reinterpret_cast<const char*>(content.data()), content.size());
  try {
    const std::string format = from_json(text, [](Json& json) { return json.text_of("format"); });
    if (format != kFormat && format.rfind("libkd-bundle/", 0) == 0) {
      throw Error(code::kBundle,
                  place + ": written in format " + format + ", this version reads " + kFormat + "; upgrade the reader");
    }
    return from_json(text, [](Json& json) { return read_manifest(json, false); });
  } catch (const Malformed& fault) {
    throw Error(code::kBundle, place + ": not understood (" + fault.what() + "); copy or export the bundle again");
  }
}

inline bool is_plain_name(const std::string& name) {
  if (name.empty() || name[0] == '.' || name == kManifest || name == kSignature) return false;
  return name.find_first_of(std::string("/\\\0", 3)) == std::string::npos && one_line(name) == name;
}

inline void check_names(const std::string& path, const Manifest& manifest, const std::vector<std::string>& found) {
  for (const char* name : facts_of(manifest.target).files)
    if (manifest.files.count(name) == 0)
      throw Error(code::kBundle, path + ": " + kManifest + " does not list " + name + "; export again");
  for (const auto& [name, entry] : manifest.files) {
    if (!is_plain_name(name)) {
      throw Error(code::kBundle,
                  path + ": " + kManifest + " lists '" + name + "', which is not a valid name for a file in a bundle");
    }
  }
  for (const std::string& name : found)
    if (name != kManifest && name != kSignature && manifest.files.count(name) == 0)
      throw Error(code::kBundle, path + ": holds '" + name + "', which " + kManifest + " does not list; remove it");
}

// Returns the content of a file in a bundle.
inline Bytes read_listed(int folder, const std::string& path, const std::string& name, std::size_t limit) {
  FileContent file = read_file(folder, name, limit);
  switch (file.result) {
    case Reading::kDone: return std::move(file.bytes);
    case Reading::kMissing:
      throw Error(code::kBundle, path + ": " + name + " is missing; copy or export the bundle again");
    case Reading::kLink: throw Error(code::kBundle, path + ": " + name + " is a link; copy the file itself");
    case Reading::kNoFile:
      throw Error(code::kBundle, path + ": " + name + " is not a file; copy or export the bundle again");
    case Reading::kTooLarge:
      throw Error(code::kBundle, path + ": " + name + " has more than " + std::to_string(limit) +
                                     " bytes; copy or export the bundle again");
    default:
      throw Error(code::kBundle, path + ": " + name + " is unreadable (" + file.reason + "); check its permissions");
  }
}

inline Bytes read_hashed(int folder, const std::string& path, const std::string& name, const FileEntry& entry) {
  const auto size = static_cast<std::size_t>(entry.bytes);
  Bytes content = read_listed(folder, path, name, size);
  if (content.size() != size) {
    throw Error(code::kBundle, path + ": " + name + " has " + std::to_string(content.size()) + " bytes, not " +
                                   std::to_string(size) + "; copy or export the bundle again");
  }
  if (sha256(content) != entry.sha256) {
    throw Error(code::kBundle,
                path + ": " + name + " was changed since its export (SHA-256 differs); copy or export it again");
  }
  return content;
}

inline void check_magic(const std::string& path, const EngineFacts& facts, const Bytes& model) {
  const std::size_t length = std::strlen(facts.magic);
  if (model.size() < facts.magic_at + length || std::memcmp(model.data() + facts.magic_at, facts.magic, length) != 0) {
    throw Error(code::kBundle, path + ": " + facts.files[0] + " is not a file of " + facts.title +
                                   "; copy or export the bundle again");
  }
}

}  // namespace detail

inline Bundle Bundle::open(const std::string& path) {
  const detail::Descriptor folder(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (folder.get() < 0) {
    throw Error(code::kBundle,
                path + ": not a bundle (" + std::strerror(errno) + "); give the folder that export wrote");
  }
  Bundle bundle;
  bundle.path = path;
  const Bytes text = detail::read_listed(folder.get(), path, kManifest, kMaxManifestBytes);
  bundle.manifest = detail::parse_manifest(path + "/" + kManifest, text);
  const std::vector<std::string> found = detail::names_in(folder.get(), path);
  detail::check_names(path, bundle.manifest, found);
  if (std::binary_search(found.begin(), found.end(), kSignature))
    detail::read_listed(folder.get(), path, kSignature, kMaxSignatureBytes);
  for (const auto& [name, entry] : bundle.manifest.files)
    bundle.files[name] = std::make_shared<const Bytes>(detail::read_hashed(folder.get(), path, name, entry));
  const EngineFacts& facts = facts_of(bundle.manifest.target);
  detail::check_magic(path, facts, *bundle.files.at(facts.files[0]));
  return bundle;
}

// ------------------------------------------------------------------------------------------------------- golden images

// Images as pixels [n, height, width, 3], and the probabilities [n, classes] that they should get.
struct Golden {
  std::size_t count = 0;
  const std::uint8_t* pixels = nullptr;
  std::vector<float> probabilities;
};

namespace detail {

struct Tensor {
  std::string dtype;
  std::vector<std::int64_t> shape;
  std::vector<std::int64_t> offsets;
};

inline Tensor read_tensor(Json& json) {
  const auto lengths = [&] { return json.array([&] { return json.integer(0, kMaxFileBytes); }); };
  Tensor tensor;
  json.object({
      {"dtype", [&] { tensor.dtype = json.string(); }},
      {"shape", [&] { tensor.shape = lengths(); }},
      {"data_offsets", [&] { tensor.offsets = lengths(); }},
  });
  return tensor;
}

// Returns where the data of a tensor begins, if it is [n, lengths] of elements of `size` bytes and lies inside the
// data.
inline std::optional<std::size_t> start_of(const Tensor& tensor, const std::string& dtype, std::int64_t size,
                                           std::vector<std::int64_t> lengths, std::size_t available) {
  if (tensor.dtype != dtype || tensor.offsets.size() != 2 || tensor.shape.empty()) return std::nullopt;
  const std::int64_t count = tensor.shape[0], begin = tensor.offsets[0], end = tensor.offsets[1];
  const std::int64_t each = std::accumulate(lengths.begin(), lengths.end(), size, std::multiplies<>());
  lengths.insert(lengths.begin(), count);
  if (tensor.shape != lengths || count < 1 || begin > end || static_cast<std::size_t>(end) > available)
    return std::nullopt;
  if ((end - begin) % each != 0 || (end - begin) / each != count) return std::nullopt;
  return static_cast<std::size_t>(begin);
}

}  // namespace detail

// Returns the golden images in the bytes of a safetensors file, which have to live as long. Throws kBundle if it holds
// something else.
inline Golden read_golden(const Bytes& content, const std::string& path, const Manifest& manifest) {
  const auto refused = [&](const std::string& why) {
    return Error(code::kBundle, path + ": " + kGolden + " can't be read (" + why + "); export again");
  };
  std::uint64_t header = 0;
  if (content.size() < 8) throw refused("it ends too early");
  for (int i = 7; i >= 0; --i) header = header << 8 | content[static_cast<std::size_t>(i)];
  if (header > content.size() - 8) throw refused("it ends too early");
  const std::uint8_t* const data = content.data() + 8 + header;
  const std::size_t available = content.size() - 8 - static_cast<std::size_t>(header);
  detail::Tensor pixels, probabilities;
  try {
    const std::string_view text(reinterpret_cast<const char*>(content.data()) + 8, static_cast<std::size_t>(header));
    detail::from_json(text, [&](detail::Json& json) {
      json.object({
          {"__metadata__", [&] { json.map([&] { return json.string(); }); }, false},
          {"pixels", [&] { pixels = detail::read_tensor(json); }},
          {"probabilities", [&] { probabilities = detail::read_tensor(json); }},
      });
      return true;
    });
  } catch (const detail::Malformed& fault) {
    throw refused(fault.what());
  }
  const auto classes = static_cast<std::int64_t>(manifest.labels.size());
  const auto images_at = detail::start_of(pixels, "U8", 1, {manifest.input.height, manifest.input.width, 3}, available);
  const auto rows_at = detail::start_of(probabilities, "F32", 4, {classes}, available);
  if (!images_at || !rows_at || pixels.shape[0] != probabilities.shape[0])
    throw refused("it does not fit the manifest");
  Golden golden;
  golden.count = static_cast<std::size_t>(pixels.shape[0]);
  golden.pixels = data + *images_at;
  golden.probabilities.resize(golden.count * manifest.labels.size());
  for (std::size_t i = 0; i < golden.probabilities.size(); ++i) {
    const std::uint8_t* at = data + *rows_at + 4 * i;  // little endian, and at any address
    const std::uint32_t bits =
        std::uint32_t{at[0]} | std::uint32_t{at[1]} << 8 | std::uint32_t{at[2]} << 16 | std::uint32_t{at[3]} << 24;
    std::memcpy(&golden.probabilities[i], &bits, sizeof bits);
  }
  return golden;
}

// ------------------------------------------------------------------------------------------- from an image to pixels

// A decoded image, as its file stores it: 8 bits in each channel, RGB or RGBA, row after row.
struct Image {
  Image() = default;
  Image(int columns, int rows, int channels_of_each)
      : width(columns),
        height(rows),
        channels(channels_of_each),
        extent_width(columns),
        extent_height(rows),
        pixels(static_cast<std::size_t>(columns) * static_cast<std::size_t>(rows) *
               static_cast<std::size_t>(channels_of_each)) {}

  int width = 0;
  int height = 0;
  int channels = 3;
  double extent_width = 0;  // a JPEG that was decoded at 1/2 has half a pixel less if its width is odd
  double extent_height = 0;
  int orientation = 1;  // EXIF's
  Bytes pixels;
};

namespace detail {

struct Filter {
  double support;
  double (*kernel)(double);
};

inline Filter filter_of(const std::string& name) {
  static constexpr double kPi = 3.14159265358979323846;
  static constexpr auto sinc = [](double x) { return x == 0 ? 1.0 : std::sin(x * kPi) / (x * kPi); };
  if (name == "box") return {0.5, [](double x) { return x > -0.5 && x <= 0.5 ? 1.0 : 0.0; }};
  if (name == "bilinear") return {1, [](double x) { return std::max(0.0, 1 - std::abs(x)); }};
  if (name == "lanczos") return {3, [](double x) { return x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0.0; }};
  return {2, [](double x) {
            x = std::abs(x);
            if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
            return x < 2 ? (((x - 5) * x + 8) * x - 4) * -0.5 : 0.0;
          }};
}

// Places of an axis: from the first one to the one behind the last.
struct Span {
  int from;
  int to;
  int count() const { return to - from; }
};

constexpr int kWeightBits = 22;

// The weighted sum that becomes one place of a new axis: its first place on the old axis, and integer weights.
struct Taps {
  int first;
  std::vector<std::int32_t> weights;
};

// Returns the taps of the places `wanted` of an axis that is scaled to `size` places.
//
// The old axis has `pixels` places, and the length `extent`, which is less if its last place is not whole.
inline std::vector<Taps> axis_taps(int pixels, double extent, int size, Span wanted, const std::string& filter_name) {
  std::vector<Taps> axis;
  axis.reserve(static_cast<std::size_t>(wanted.count()));
  const double scale = extent / size;
  if (pixels == size && extent == size) {
    for (int place = wanted.from; place < wanted.to; ++place) axis.push_back({place, {1 << kWeightBits}});
    return axis;
  }
  if (filter_name == "nearest") {
    double at = scale * 0.5;
    for (int place = 0; place < wanted.to; ++place, at += scale)
      if (place >= wanted.from) axis.push_back({std::min(static_cast<int>(at), pixels - 1), {1 << kWeightBits}});
    return axis;
  }
  const Filter filter = filter_of(filter_name);
  const double stretch = std::max(scale, 1.0);
  std::vector<double> raw;
  for (int place = wanted.from; place < wanted.to; ++place) {
    const double centre = (place + 0.5) * scale;
    const int first = std::max(0, static_cast<int>(centre - filter.support * stretch + 0.5));
    const int last = std::min(pixels, static_cast<int>(centre + filter.support * stretch + 0.5));
    double sum = 0;
    raw.clear();
    for (int x = first; x < last; ++x) {
      raw.push_back(filter.kernel((x - centre + 0.5) * (1 / stretch)));
      sum += raw.back();
    }
    Taps taps{first, {}};
    for (const double weight : raw) {
      const double share = sum == 0 ? weight : weight / sum;
      taps.weights.push_back(static_cast<std::int32_t>(share * (1 << kWeightBits) + (share < 0 ? -0.5 : 0.5)));
    }
    axis.push_back(std::move(taps));
  }
  return axis;
}

// Returns the places of the old axis that some taps read.
inline Span places_read(const std::vector<Taps>& axis) {
  Span span{std::numeric_limits<int>::max(), 0};
  for (const Taps& taps : axis) {
    span.from = std::min(span.from, taps.first);
    span.to = std::max(span.to, taps.first + static_cast<int>(taps.weights.size()));
  }
  return span;
}

constexpr std::int32_t kHalf = 1 << (kWeightBits - 1);

inline std::uint8_t rounded(std::int32_t sum) {
  return static_cast<std::uint8_t>(std::clamp(sum >> kWeightBits, 0, 255));
}

// A part of an RGB image: its pixels row after row, and where in the whole image it begins.
struct Part {
  int left;
  int top;
  int width;
  int height;
  const std::uint8_t* pixels;
  std::size_t stride;

  const std::uint8_t* at(int x, int y) const {
    return pixels + static_cast<std::size_t>(y - top) * stride + static_cast<std::size_t>(x - left) * 3;
  }
};

// Scales the rows `rows` of an image in their width.
inline Bytes scale_width(const Part& image, Span rows, const std::vector<Taps>& axis) {
  Bytes scaled;
  scaled.reserve(static_cast<std::size_t>(rows.count()) * axis.size() * 3);
  for (int y = rows.from; y < rows.to; ++y) {
    for (const Taps& taps : axis) {
      std::int32_t red = kHalf, green = kHalf, blue = kHalf;
      const std::uint8_t* pixel = image.at(taps.first, y);
      for (const std::int32_t weight : taps.weights) {
        red += weight * pixel[0];
        green += weight * pixel[1];
        blue += weight * pixel[2];
        pixel += 3;
      }
      scaled.insert(scaled.end(), {rounded(red), rounded(green), rounded(blue)});
    }
  }
  return scaled;
}

// Scales the columns `columns` of an image in their height.
inline Bytes scale_height(const Part& image, Span columns, const std::vector<Taps>& axis) {
  const std::size_t values = static_cast<std::size_t>(columns.count()) * 3;
  Bytes scaled(values * axis.size());
  std::vector<std::int32_t> sums(values);
  std::uint8_t* row = scaled.data();
  for (const Taps& taps : axis) {
    std::fill(sums.begin(), sums.end(), kHalf);
    for (std::size_t i = 0; i < taps.weights.size(); ++i) {
      const std::uint8_t* old = image.at(columns.from, taps.first + static_cast<int>(i));
      const std::int32_t weight = taps.weights[i];
      for (std::size_t x = 0; x < values; ++x) sums[x] += weight * old[x];
    }
    for (std::size_t x = 0; x < values; ++x) row[x] = rounded(sums[x]);
    row += values;
  }
  return scaled;
}

// Puts the transparency of an RGBA image on white.
inline void put_on_white(Image& image) {
  if (image.channels == 3) return;
  std::uint8_t* out = image.pixels.data();
  for (const std::uint8_t* in = image.pixels.data(), *end = in + image.pixels.size(); in != end; in += 4) {
    const int alpha = in[3];
    for (int channel = 0; channel < 3; ++channel) {
      const int mixed = 128 * (in[channel] * alpha + 255 * (255 - alpha)) + 16384;
      *out++ = static_cast<std::uint8_t>((((mixed >> 8) + mixed) >> 8) >> 7);
    }
  }
  image.pixels.resize(image.pixels.size() / 4 * 3);
  image.channels = 3;
}

// Returns the middle `kept` places of an axis; a half is rounded to the even number.
inline Span middle(int size, int kept) {
  const int spare = size - kept;
  const int from = spare / 2 + (spare % 2 == 1 && spare / 2 % 2 == 1 ? 1 : 0);
  return {from, from + kept};
}

}  // namespace detail

// Returns the pixels [height, width, 3] that a model takes from a decoded image.
//
// Only what the crop keeps is computed, so a very long image takes no more memory than itself.
inline Bytes to_pixels(Image image, const Input& input) {
  using detail::Span;
  detail::put_on_white(image);
  const int orientation = image.orientation;
  const bool sideways = orientation >= 5 && orientation <= 8;
  const bool mirrored = orientation == 2 || orientation == 3 || orientation == 6 || orientation == 7;
  const bool upside_down = orientation == 3 || orientation == 4 || orientation == 7 || orientation == 8;

  int width = input.resize.width, height = input.resize.height;  // of the whole scaled image, upright
  if (input.resize.mode == "cover") {
    const double across = sideways ? image.extent_height : image.extent_width;
    const double down = sideways ? image.extent_width : image.extent_height;
    if (width * down >= height * across) height = static_cast<int>(width * down / across);
    else width = static_cast<int>(height * across / down);
  }
  Span columns = detail::middle(width, input.width), rows = detail::middle(height, input.height);
  if (mirrored) columns = {width - columns.to, width - columns.from};
  if (upside_down) rows = {height - rows.to, height - rows.from};
  if (sideways) {  // from here on all is as the image is stored
    std::swap(width, height);
    std::swap(columns, rows);
  }

  const auto across = detail::axis_taps(image.width, image.extent_width, width, columns, input.resize.filter);
  const auto down = detail::axis_taps(image.height, image.extent_height, height, rows, input.resize.filter);
  const detail::Part whole{
      0, 0, image.width, image.height, image.pixels.data(), static_cast<std::size_t>(image.width) * 3};
  Bytes scaled;
  if (image.height > height && image.height - height > 2 * (image.width - width)) {
    const Span read = detail::places_read(across);
    scaled = detail::scale_height(whole, read, down);
    const detail::Part half{
        read.from, 0, read.count(), rows.count(), scaled.data(), static_cast<std::size_t>(read.count()) * 3};
    scaled = detail::scale_width(half, {0, rows.count()}, across);
  } else {
    const Span read = detail::places_read(down);
    scaled = detail::scale_width(whole, read, across);
    const detail::Part half{
        0, read.from, columns.count(), read.count(), scaled.data(), static_cast<std::size_t>(columns.count()) * 3};
    scaled = detail::scale_height(half, {0, columns.count()}, down);
  }
  if (orientation < 2 || orientation > 8) return scaled;

  Bytes upright;
  upright.reserve(scaled.size());
  for (int y = 0; y < input.height; ++y) {
    for (int x = 0; x < input.width; ++x) {
      const int column = mirrored ? input.width - 1 - x : x, row = upside_down ? input.height - 1 - y : y;
      const int at = sideways ? column * input.height + row : row * input.width + column;
      const std::uint8_t* pixel = scaled.data() + static_cast<std::size_t>(at) * 3;
      upright.insert(upright.end(), pixel, pixel + 3);
    }
  }
  return upright;
}

// ---------------------------------------------------------------------------------------------------------- predicting

// An input or output of a loaded graph.
struct Port {
  std::string name;                 // "" if the engine has no names
  std::string dtype;                // "uint8", "float32", or what the engine calls it
  std::vector<std::int64_t> shape;  // -1 for a length that may change
};

struct Graph {
  std::vector<Port> inputs;
  std::vector<Port> outputs;
  std::string manifest;  // the JSON that the model file carries, or ""
};

// A model that was loaded into its engine. One thread uses it at a time.
class Session {
 public:
  virtual ~Session() = default;

  virtual Graph graph() const = 0;

  // Writes the probabilities [classes] of an image [height, width, 3]. Throws kEngine.
  virtual void run(const std::uint8_t* pixels, float* probabilities, std::size_t classes) = 0;
};

struct Score {
  std::string label;
  float score;
};

namespace detail {

// Returns a text as Python's `json.dumps` writes it; a byte that is no UTF-8 becomes half a character, as in Python.
inline std::string quoted(std::string_view text) {
  std::string json = "\"";
  const auto escape = [&](unsigned point) {
    static constexpr char kDigits[] = "0123456789abcdef";
    json += "\\u";
    for (int shift = 12; shift >= 0; shift -= 4) json += kDigits[point >> shift & 15];
  };
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t length = utf8_length(text, at);
    const std::string_view character = text.substr(at, std::max<std::size_t>(length, 1));
    const auto first = static_cast<unsigned char>(character[0]);
    at += character.size();
    if (length == 0) escape(0xDC00 + first);
    else if (first == '"' || first == '\\') (json += '\\') += character;
    else if (first == '\b') json += "\\b";
    else if (first == '\f') json += "\\f";
    else if (first == '\n') json += "\\n";
    else if (first == '\r') json += "\\r";
    else if (first == '\t') json += "\\t";
    else if (!is_control(character)) json += character;
    else if (length == 3) escape(character == "\u2028" ? 0x2028 : 0x2029);
    else escape(length == 1 ? first : static_cast<unsigned char>(character[1]));
  }
  return json + '"';
}

// Returns the shortest text that is this number again, as Python writes it.
inline std::string shortest(double value) {
  std::string text;
  for (int digits = 1; digits <= 17; ++digits) {
    std::ostringstream written;
    written.imbue(std::locale::classic());
    written.precision(digits);
    written << value;
    text = written.str();
    std::istringstream read(text);
    read.imbue(std::locale::classic());
    double again = 0;
    if (read >> again && again == value) break;
  }
  return text.find_first_of(".e") == std::string::npos ? text + ".0" : text;
}

}  // namespace detail

// The answer for one image: the best labels, and the probabilities [classes] in the order of the labels.
struct Prediction {
  std::string source;
  std::vector<Score> top;
  std::vector<float> probabilities;

  // Returns the JSON that `libkd-sdk predict --json` prints.
  std::string json() const {
    const auto named = [](const Score& each) {
      return "\"label\": " + detail::quoted(each.label) +
             ", \"score\": " + detail::shortest(static_cast<double>(each.score));
    };
    std::string list;
    for (const Score& each : top) list += (list.empty() ? "{" : ", {") + named(each) + "}";
    return "{\"source\": " + detail::quoted(source) + ", " + named(top.at(0)) + ", \"top\": [" + list + "]}";
  }
};

// Returns what `libkd-sdk predict --json` prints for an image that can't be read.
inline std::string error_json(const std::string& source, const Error& error) {
  return "{\"source\": " + detail::quoted(source) + ", \"error\": " + detail::quoted(error.what()) +
         ", \"code\": " + detail::quoted(error.code()) + "}";
}

namespace detail {

inline std::string described(const std::vector<Port>& ports) {
  std::string text;
  for (const Port& port : ports) {
    text += (text.empty() ? "" : "; ") + (port.name.empty() ? "a tensor" : port.name) + ": " + port.dtype + " [";
    for (std::size_t i = 0; i < port.shape.size(); ++i)
      text += (i ? ", " : "") + (port.shape[i] < 0 ? "n" : std::to_string(port.shape[i]));
    text += "]";
  }
  return text.empty() ? "nothing" : text;
}

inline void check_port(const std::string& path, const char* kind, const std::vector<Port>& found, const Port& wanted) {
  const auto fits = [&](const Port& port) {
    const std::vector<std::int64_t>& shape = port.shape;
    return (port.name.empty() || port.name == wanted.name) && port.dtype == wanted.dtype &&
           shape.size() == wanted.shape.size() && (shape[0] == -1 || shape[0] == 1) &&
           std::equal(shape.begin() + 1, shape.end(), wanted.shape.begin() + 1);
  };
  if (found.size() != 1 || !fits(found[0])) {
    throw Error(code::kBundle, path + ": the model's " + kind + " is " + described(found) + ", and not " +
                                   described({wanted}) + "; copy or export the bundle again");
  }
}

inline void check_carried(const std::string& path, const Manifest& manifest, const std::string& carried) {
  bool same = false;
  try {
    same = from_json(carried, [](Json& json) { return read_manifest(json, true); }) ==
           static_cast<const Description&>(manifest);
  } catch (const Malformed&) {
    // Then the model file carries something else.
  }
  if (!same) {
    throw Error(code::kBundle, path + ": " + facts_of(manifest.target).files[0] + " was made for another " + kManifest +
                                   "; copy the whole folder, or export again");
  }
}

}  // namespace detail

// A loaded bundle. Several threads may share it.
class Classifier {
 public:
  // Throws kBundle if the graph has another input or output, or if the model file carries another manifest.
  Classifier(const Bundle& bundle, std::unique_ptr<Session> session)
      : path_(bundle.path), manifest_(bundle.manifest), session_(std::move(session)) {
    const auto found = bundle.files.find(kGolden);
    if (found != bundle.files.end()) golden_ = found->second;
    const Graph graph = session_->graph();
    const auto classes = static_cast<std::int64_t>(manifest_.labels.size());
    detail::check_port(path_, "input", graph.inputs,
                       {"pixels", "uint8", {-1, manifest_.input.height, manifest_.input.width, 3}});
    detail::check_port(path_, "output", graph.outputs, {"probabilities", "float32", {-1, classes}});
    detail::check_carried(path_, manifest_, graph.manifest);
  }

  const std::vector<std::string>& labels() const { return manifest_.labels; }
  const Input& input() const { return manifest_.input; }

  // Returns the probabilities [classes] of the pixels [height, width, 3] that `to_pixels` returned. Throws kEngine.
  std::vector<float> probabilities(const Bytes& pixels) const {
    if (pixels.size() != image_bytes()) {
      throw Error(code::kUsage, path_ + ": takes the pixels of one image, " + std::to_string(image_bytes()) +
                                    " bytes, and not " + std::to_string(pixels.size()));
    }
    return run(pixels.data());
  }

  // Returns the answer for an image, with the `top` best labels.
  Prediction predict(Image image, std::string source, std::size_t top) const {
    if (top < 1) throw Error(code::kUsage, "top: at least 1");
    Prediction prediction{std::move(source), {}, probabilities(to_pixels(std::move(image), input()))};
    const std::vector<float>& scores = prediction.probabilities;
    std::vector<std::size_t> order(scores.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(),
                     [&](std::size_t one, std::size_t other) { return scores[one] > scores[other]; });
    order.resize(std::min(top, order.size()));
    for (const std::size_t index : order) prediction.top.push_back({labels()[index], scores[index]});
    return prediction;
  }

  // Returns the largest difference from the golden answers on this device. Throws kProof if it is beyond what the
  // precision allows, and kUsage if the bundle has no golden images.
  float self_test() const {
    if (!golden_)
      throw Error(code::kUsage, path_ + ": has no golden images for a self-test; export again and include some");
    const Golden golden = read_golden(*golden_, path_, manifest_);
    const float tolerance = manifest_.precision == "fp32" ? 1e-4f : manifest_.precision == "fp16" ? 0.05f : 0.1f;
    float difference = 0;
    for (std::size_t image = 0; image < golden.count; ++image) {
      const std::vector<float> answer = run(golden.pixels + image * image_bytes());
      for (std::size_t label = 0; label < answer.size(); ++label) {
        const float distance = std::abs(answer[label] - golden.probabilities[image * answer.size() + label]);
        if (!(distance <= tolerance)) {
          throw Error(code::kProof,
                      path_ + ": golden answers are off by " + detail::shortest(static_cast<double>(distance)) +
                          " on this device; export again with this engine's version, or choose another target");
        }
        difference = std::max(difference, distance);
      }
    }
    return difference;
  }

 private:
  std::size_t image_bytes() const {
    return static_cast<std::size_t>(input().height) * static_cast<std::size_t>(input().width) * 3;
  }

  std::vector<float> run(const std::uint8_t* pixels) const {
    std::vector<float> answer(labels().size(), std::numeric_limits<float>::quiet_NaN());
    {
      const std::lock_guard<std::mutex> turn(*turn_);
      session_->run(pixels, answer.data(), answer.size());
    }
    double sum = 0;
    bool valid = true;
    for (const float probability : answer) {
      valid = valid && probability >= 0;  // false for NaN
      sum += static_cast<double>(probability);
    }
    if (!valid || !(std::abs(sum - 1) <= 0.02)) {
      throw Error(
          code::kEngine,
          path_ + ": the model answers with numbers that are no probabilities; export it again, if need be at fp32");
    }
    return answer;
  }

  std::string path_;
  Manifest manifest_;
  std::shared_ptr<const Bytes> golden_;
  std::unique_ptr<Session> session_;
  std::unique_ptr<std::mutex> turn_ = std::make_unique<std::mutex>();
};

}  // namespace libkd

#endif  // LIBKD_HPP
