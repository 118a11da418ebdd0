// Predict what images show: one line of JSON for each, as `libkd-sdk predict --json` prints it.

#include <cstdlib>
#include <exception>
#include <iostream>

#include "decoding.hpp"
#include "engines.hpp"

namespace {

constexpr const char* kUsage =
    "usage: libkd BUNDLE IMAGE... [--top K] [--threads N] [--verify]\n"
    "       libkd --pixels INPUT IMAGE...\n"
    "\n"
    "  --top K      list the K best labels of each image (3)\n"
    "  --threads N  threads that the engine computes with (the cores of the device)\n"
    "  --verify     first check that the golden images of the bundle get their answers on this device\n"
    "  --pixels     print the pixels [height, width, 3] of each image instead, for the INPUT of a bundle.json\n"
    "\n"
    "The exit code is 2 if an image, the bundle or an argument is to blame, and 1 if the engine is.\n";

struct Arguments {
  std::string bundle;
  std::vector<std::string> images;
  int top = 3;
  int threads = 0;
  bool verify = false;
};

[[noreturn]] void refuse(const std::string& why) {
  throw libkd::Error(libkd::code::kUsage, why + "; see libkd --help");
}

int count(const std::string& option, const std::string& text) {
  char* end = nullptr;
  const long value = std::strtol(text.c_str(), &end, 10);
  if (text.empty() || *end != '\0' || value < 1 || value > 1'000'000)
    refuse(option + " " + text + ": a number from 1 on");
  return static_cast<int>(value);
}

Arguments parsed(const std::vector<std::string>& words) {
  Arguments arguments;
  std::vector<std::string> places;
  bool only_places = false;
  for (std::size_t i = 0; i < words.size(); ++i) {
    const std::string& word = words[i];
    if (only_places || word.rfind("--", 0) != 0) places.push_back(word);
    else if (word == "--") only_places = true;
    else if (word == "--verify") arguments.verify = true;
    else if (word != "--top" && word != "--threads") refuse(word + ": an unknown option");
    else if (i + 1 == words.size()) refuse(word + ": a number belongs to it");
    else (word == "--top" ? arguments.top : arguments.threads) = count(word, words[++i]);
  }
  if (places.empty() || (places.size() == 1 && !arguments.verify)) refuse("name a bundle and images");
  arguments.bundle = places[0];
  arguments.images.assign(places.begin() + 1, places.end());
  return arguments;
}

int predict(const Arguments& arguments) {
  const libkd::Classifier classifier = libkd::open_classifier(arguments.bundle, arguments.threads);
  if (arguments.verify) {
    const float difference = classifier.self_test();
    std::cerr << "golden images: the largest difference is " << difference << '\n';
  }
  int failed = 0;
  for (const std::string& name : arguments.images) {
    try {
      libkd::Image image = libkd::read_image(name, classifier.input());
      std::cout << classifier.predict(std::move(image), name, static_cast<std::size_t>(arguments.top)).json()
                << std::endl;
    } catch (const libkd::Error& fault) {
      if (fault.code() != std::string_view(libkd::code::kImage)) throw;
      std::cout << libkd::error_json(name, fault) << std::endl;
      ++failed;
    }
  }
  return failed == 0 ? 0 : 2;
}

// Writes what a model takes from images, byte after byte. Tests compare it with spec/vectors.
int print_pixels(const std::vector<std::string>& words) {
  if (words.size() < 3) refuse("name an input and images");
  const libkd::Input input = libkd::parse_input(words[1]);
  for (std::size_t i = 2; i < words.size(); ++i) {
    const libkd::Bytes pixels = libkd::to_pixels(libkd::read_image(words[i], input), input);
    std::cout.write(reinterpret_cast<const char*>(pixels.data()), static_cast<std::streamsize>(pixels.size()));
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  if (arguments == std::vector<std::string>{"--help"}) {
    std::cout << kUsage;
    return 0;
  }
  try {
    if (!arguments.empty() && arguments[0] == "--pixels") return print_pixels(arguments);
    return predict(parsed(arguments));
  } catch (const libkd::Error& fault) {
    std::cerr << "libkd: " << fault.what() << " [" << fault.code() << "]\n";
    return fault.exit_code();
  } catch (const std::bad_alloc&) {
    std::cerr << "libkd: there is not enough memory; close other programs [error]\n";
    return 2;
  }
}
