// Decode JPEG and PNG files with libjpeg and libpng. A product that has another decoder, such as that of its phone,
// needs only `libkd::Image` from libkd.hpp.
//
// Both libraries leave a failed call by longjmp. So each call stands in `step`, which owns nothing, and everything that
// has to be freed is owned by the function that called it.

#ifndef LIBKD_DECODING_HPP
#define LIBKD_DECODING_HPP

#include <csetjmp>
#include <cstdio>  // before jpeglib.h, which needs it

#include <jerror.h>
#include <jpeglib.h>
#include <png.h>

#include <new>
#include <type_traits>

#include "libkd.hpp"

namespace libkd {

constexpr std::size_t kMaxImageBytes = std::size_t{256} << 20;
constexpr std::int64_t kMaxPixels = 80'000'000;
constexpr std::uint32_t kMaxSide = 65'535;
constexpr int kMaxScans = 200;  // encoders write about 10, and each takes time

namespace detail {

// Why a file can't be decoded.
struct Undecodable : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// The place to which a library's error jumps, and what it said.
struct Landing {
  std::jmp_buf place;
  char message[256] = "";

  [[noreturn]] void jump(const char* why) {
    std::snprintf(message, sizeof message, "%s", why);
    std::longjmp(place, 1);
  }
};

// Runs calls of a library. They may create nothing that has to be destroyed. Throws Undecodable if the library fails.
template <typename Calls>
void step(Landing& landing, Calls calls) {
  static_assert(std::is_trivially_destructible_v<Calls>);
  if (setjmp(landing.place) != 0) throw Undecodable(landing.message);
  calls();
}

inline void check_size(std::uint32_t width, std::uint32_t height) {
  const std::string size = std::to_string(width) + "x" + std::to_string(height) + " pixels";
  if (width == 0 || height == 0) throw Undecodable(size + ", so there is nothing to see");
  if (std::int64_t{width} * height > kMaxPixels)
    throw Undecodable(size + ", " + std::to_string(kMaxPixels) + " are allowed");
  if (std::max(width, height) > kMaxSide) throw Undecodable(size + ", a side may have " + std::to_string(kMaxSide));
}

// Returns the orientation in a block of EXIF; 1 if it says nothing, or is damaged.
inline int orientation_of(const std::uint8_t* exif, std::size_t size) {
  if (size >= 6 && std::memcmp(exif, "Exif\0\0", 6) == 0) {
    exif += 6;
    size -= 6;
  }
  const bool little = size >= 4 && std::memcmp(exif, "II*\0", 4) == 0;
  if (!little && !(size >= 4 && std::memcmp(exif, "MM\0*", 4) == 0)) return 1;
  const auto number = [&](std::size_t at, std::size_t bytes) {
    std::size_t value = 0;
    for (std::size_t i = 0; i < bytes; ++i) value = value << 8 | exif[little ? at + bytes - 1 - i : at + i];
    return value;
  };
  if (size < 8) return 1;
  const std::size_t start = number(4, 4);
  if (start > size || size - start < 2) return 1;
  const std::size_t tags = std::min(number(start, 2), (size - start - 2) / 12);
  for (std::size_t tag = 0; tag < tags; ++tag) {
    const std::size_t at = start + 2 + 12 * tag;
    if (number(at, 2) != 0x0112) continue;
    const std::size_t kind = number(at + 2, 2), value = number(at + 8, kind == 3 ? 2 : 4);
    return (kind == 3 || kind == 4) && value >= 1 && value <= 8 ? static_cast<int>(value) : 1;
  }
  return 1;
}

// ---------------------------------------------------------------------------------------------------------------- JPEG

// Returns the orientation of a JPEG, whose segments stand before its pixels: FF, a marker, and a length with what
// follows.
inline int jpeg_orientation(const Bytes& file) {
  for (std::size_t at = 2; at + 4 <= file.size();) {
    if (file[at] != 0xFF) return 1;
    const std::uint8_t marker = file[at + 1];
    if (marker == 0xFF) {  // a byte that fills
      ++at;
      continue;
    }
    if (marker == 0xDA || marker == 0xD9) return 1;
    const std::size_t length = std::size_t{file[at + 2]} << 8 | file[at + 3];
    if (length < 2 || length > file.size() - at - 2) return 1;
    if (marker == 0xE1 && length >= 8 && std::memcmp(&file[at + 4], "Exif\0\0", 6) == 0)
      return orientation_of(&file[at + 4], length - 2);
    at += 2 + length;
  }
  return 1;
}

class JpegReader {
 public:
  explicit JpegReader(const Bytes& file) : file_(file) {
    info_.err = jpeg_std_error(&errors_);
    info_.client_data = this;
    errors_.error_exit = [](j_common_ptr info) {
      char text[JMSG_LENGTH_MAX];
      info->err->format_message(info, text);
      of(info).landing_.jump(text);
    };
    errors_.emit_message = [](j_common_ptr info, int level) {
      const jpeg_decompress_struct& image = of(info).info_;  // what is missing behind the last row is no loss
      const bool is_cut_off = level < 0 && info->err->msg_code == JWRN_JPEG_EOF;
      if (is_cut_off && image.output_scanline < image.output_height) of(info).landing_.jump("it ends too early");
    };
    errors_.output_message = [](j_common_ptr) {};
    progress_.progress_monitor = [](j_common_ptr info) {
      if (of(info).info_.input_scan_number > kMaxScans) of(info).landing_.jump("a JPEG of too many scans");
    };
  }
  JpegReader(const JpegReader&) = delete;
  JpegReader& operator=(const JpegReader&) = delete;
  ~JpegReader() { jpeg_destroy_decompress(&info_); }

  // Decodes at a fraction of the size at which both sides have at least `at_least` pixels; 0 means at the whole size.
  Image decode(unsigned at_least) {
    step(landing_, [&] {
      jpeg_create_decompress(&info_);
      info_.progress = &progress_;
      jpeg_mem_src(&info_, file_.data(), static_cast<unsigned long>(file_.size()));
      jpeg_read_header(&info_, TRUE);
    });
    check_size(info_.image_width, info_.image_height);
    if (info_.num_components == 2 || info_.num_components > 4) throw Undecodable("a JPEG of unknown colours");
    unsigned fraction = 1;
    for (const unsigned smaller : {2u, 4u, 8u})
      if (at_least > 0 && std::min(info_.image_width, info_.image_height) / smaller >= at_least) fraction = smaller;
    info_.scale_num = 1;
    info_.scale_denom = fraction;
    const bool is_cmyk = info_.num_components == 4;
    info_.out_color_space = is_cmyk ? JCS_CMYK : JCS_RGB;
    step(landing_, [&] { jpeg_start_decompress(&info_); });
    Image image(static_cast<int>(info_.output_width), static_cast<int>(info_.output_height), 3);
    image.extent_width = static_cast<double>(info_.image_width) / fraction;
    image.extent_height = static_cast<double>(info_.image_height) / fraction;
    Bytes cmyk(is_cmyk ? std::size_t{info_.output_width} * 4 : 0);
    std::uint8_t* row = image.pixels.data();
    step(landing_, [&] {
      for (; info_.output_scanline < info_.output_height; row += std::size_t{info_.output_width} * 3) {
        JSAMPROW target = is_cmyk ? cmyk.data() : row;
        jpeg_read_scanlines(&info_, &target, 1);
        if (is_cmyk) to_rgb(target, row, info_.output_width);
      }
      jpeg_finish_decompress(&info_);  // what follows may show that the pixels were damaged
    });
    return image;
  }

 private:
  static JpegReader& of(j_common_ptr info) { return *static_cast<JpegReader*>(info->client_data); }

  // Turns a row of inverted CMYK, as Adobe stores it, into RGB.
  static void to_rgb(const std::uint8_t* cmyk, std::uint8_t* rgb, std::size_t count) {
    for (std::size_t pixel = 0; pixel < count; ++pixel, cmyk += 4, rgb += 3) {
      const int black = cmyk[3];
      for (int channel = 0; channel < 3; ++channel) {
        const int x = (255 - cmyk[channel]) * black + 128;
        rgb[channel] = static_cast<std::uint8_t>(black - ((x + (x >> 8)) >> 8));
      }
    }
  }

  const Bytes& file_;
  jpeg_decompress_struct info_{};
  jpeg_error_mgr errors_{};
  jpeg_progress_mgr progress_{};
  Landing landing_;
};

// ----------------------------------------------------------------------------------------------------------------- PNG

class PngReader {
 public:
  explicit PngReader(const Bytes& file) : file_(file) {
    png_ = png_create_read_struct(PNG_LIBPNG_VER_STRING, this, on_error, [](png_structp, png_const_charp) {});
    info_ = png_ ? png_create_info_struct(png_) : nullptr;
    if (!info_) {
      png_destroy_read_struct(&png_, nullptr, nullptr);
      throw std::bad_alloc();
    }
  }
  PngReader(const PngReader&) = delete;
  PngReader& operator=(const PngReader&) = delete;
  ~PngReader() { png_destroy_read_struct(&png_, &info_, nullptr); }

  Image decode() {
    step(landing_, [&] {
      png_set_read_fn(png_, this, on_read);
      png_set_user_limits(png_, PNG_UINT_31_MAX, PNG_UINT_31_MAX);             // check_size has better words
      png_set_keep_unknown_chunks(png_, PNG_HANDLE_CHUNK_NEVER, nullptr, -1);  // no texts, no profiles
      png_set_keep_unknown_chunks(png_, PNG_HANDLE_CHUNK_AS_DEFAULT, reinterpret_cast<png_const_bytep>("eXIf"), 1);
      png_set_crc_action(png_, PNG_CRC_DEFAULT, PNG_CRC_ERROR_QUIT);  // transparency is no detail
      png_read_info(png_, info_);
    });
    check_size(png_get_image_width(png_, info_), png_get_image_height(png_, info_));
    int passes = 1;
    step(landing_, [&] {
      png_set_expand(png_);    // palettes, 1 to 4 bits, and a transparent colour, which is compared in all its bits
      png_set_strip_16(png_);  // the upper byte
      png_set_gray_to_rgb(png_);
      passes = png_set_interlace_handling(png_);
      png_read_update_info(png_, info_);
    });
    Image image(static_cast<int>(png_get_image_width(png_, info_)), static_cast<int>(png_get_image_height(png_, info_)),
                png_get_channels(png_, info_));
    const std::size_t stride = image.pixels.size() / static_cast<std::size_t>(image.height);
    if (png_get_rowbytes(png_, info_) != stride) throw Undecodable("a PNG of unknown colours");
    step(landing_, [&] {
      for (int pass = 0; pass < passes; ++pass)
        for (int y = 0; y < image.height; ++y)
          png_read_row(png_, &image.pixels[static_cast<std::size_t>(y) * stride], nullptr);
      png_read_end(png_, info_);
    });
    png_uint_32 size = 0;
    png_bytep exif = nullptr;
    if (png_get_eXIf_1(png_, info_, &size, &exif) != 0) image.orientation = orientation_of(exif, size);
    return image;
  }

 private:
  static void on_error(png_structp png, png_const_charp message) {
    static_cast<PngReader*>(png_get_error_ptr(png))->landing_.jump(message);
  }

  static void on_read(png_structp png, png_bytep target, std::size_t count) {
    PngReader& reader = *static_cast<PngReader*>(png_get_io_ptr(png));
    if (count > reader.file_.size() - reader.at_) reader.landing_.jump("it ends too early");
    std::memcpy(target, reader.file_.data() + reader.at_, count);
    reader.at_ += count;
  }

  const Bytes& file_;
  std::size_t at_ = 0;
  png_structp png_ = nullptr;
  png_infop info_ = nullptr;
  Landing landing_;
};

inline Image decoded(const Bytes& file, unsigned at_least) {
  if (file.size() >= 3 && std::memcmp(file.data(), "\xFF\xD8\xFF", 3) == 0) {
    Image image = JpegReader(file).decode(at_least);
    image.orientation = jpeg_orientation(file);
    return image;
  }
  if (file.size() >= 8 && std::memcmp(file.data(), "\x89PNG\r\n\x1a\n", 8) == 0) return PngReader(file).decode();
  throw Undecodable("its content is neither JPEG nor PNG");
}

}  // namespace detail

// Returns an image that is at least twice as large as a model with this input needs: a large JPEG is decoded at 1/2,
// 1/4 or 1/8. Throws kImage.
inline Image decode(const Bytes& file, const std::string& name, const Input& input) {
  const int larger = std::max(input.resize.height, input.resize.width);
  const unsigned at_least = input.resize.filter == "nearest" ? 0 : 2 * static_cast<unsigned>(larger);
  if (file.empty()) throw Error(code::kImage, name + ": empty; check or remove the file");
  if (file.size() > kMaxImageBytes) throw Error(code::kImage, name + ": larger than 256 MB; scale it down");
  try {
    return detail::decoded(file, at_least);
  } catch (const detail::Undecodable& fault) {
    throw Error(code::kImage, name + ": not a readable image (" + fault.what() + "); check or remove the file");
  } catch (const std::bad_alloc&) {
    throw Error(code::kImage, name + ": needs more memory than there is; scale it down");
  }
}

// Reads and decodes a file. Throws kImage.
inline Image read_image(const std::string& path, const Input& input) {
  detail::FileContent file = detail::read_file(AT_FDCWD, path, kMaxImageBytes);
  switch (file.result) {
    case detail::Reading::kDone: return decode(file.bytes, path, input);
    case detail::Reading::kMissing: throw Error(code::kImage, path + ": no such file; check the path");
    case detail::Reading::kNoFile: throw Error(code::kImage, path + ": a folder, a pipe or a device; name an image");
    case detail::Reading::kTooLarge: throw Error(code::kImage, path + ": larger than 256 MB; scale it down");
    default:
      throw Error(code::kImage, path + ": can't be read (" + file.reason + "); check the path and its permissions");
  }
}

}  // namespace libkd

#endif  // LIBKD_DECODING_HPP
