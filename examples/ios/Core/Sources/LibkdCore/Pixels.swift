#if canImport(Darwin)
import Darwin
#else
import Glibc
#endif

private let weightBits = 22
private let maxPixels = 80_000_000

/// An image of RGB bytes, `height` rows of `width` pixels.
public struct RgbImage {
    public let width: Int
    public let height: Int
    public let rgb: [UInt8]

    public init(width: Int, height: Int, rgb: [UInt8]) throws {
        guard width > 0, height > 0, rgb.count == width * height * 3 else {
            let fault = "an image of \(width) x \(height) pixels has not \(rgb.count) bytes"
            throw LibkdError(.imageUnreadable, "\(fault); give RGB")
        }
        self.init(checked: rgb, width: width, height: height)
    }

    /// Makes an image of pixels of four bytes, put on white.
    ///
    /// - Parameters:
    ///   - stride: the number of bytes from the start of a row to that of the next one.
    ///   - order: the places of red, green, blue and alpha among the four bytes.
    public init(
        width: Int, height: Int, rgba: UnsafeBufferPointer<UInt8>, stride: Int, order: [Int] = [0, 1, 2, 3]
    ) throws {
        guard width > 0, height > 0, stride >= width * 4, rgba.count >= (height - 1) * stride + width * 4 else {
            let fault = "an image of \(width) x \(height) pixels has not \(rgba.count) bytes"
            throw LibkdError(.imageUnreadable, "\(fault); give RGBA")
        }
        var rgb = [UInt8](repeating: 255, count: width * height * 3)
        var to = 0
        for row in 0..<height {
            for from in Swift.stride(from: row * stride, to: row * stride + width * 4, by: 4) {
                let alpha = Int(rgba[from + order[3]])
                for channel in 0..<3 {
                    rgb[to] = onWhite(Int(rgba[from + order[channel]]), alpha)
                    to += 1
                }
            }
        }
        self.init(checked: rgb, width: width, height: height)
    }

    fileprivate init(checked rgb: [UInt8], width: Int, height: Int) {
        (self.width, self.height, self.rgb) = (width, height, rgb)
    }
}

private func onWhite(_ value: Int, _ alpha: Int) -> UInt8 {
    let mixed = 128 * (value * alpha + 255 * (255 - alpha)) + 16384
    let whole = (mixed >> 8) + mixed
    return UInt8(whole >> 15)
}

/// A filter of Pillow: how far a pixel sees, and how much it takes from there.
public enum Filter: String, CaseIterable {
    case nearest, box, bilinear, bicubic, lanczos

    var support: Double {
        switch self {
        case .nearest: return 0
        case .box: return 0.5
        case .bilinear: return 1
        case .bicubic: return 2
        case .lanczos: return 3
        }
    }

    func weight(_ x: Double) -> Double {
        let far = abs(x)
        switch self {
        case .nearest: return 0
        case .box: return x > -0.5 && x <= 0.5 ? 1 : 0
        case .bilinear: return max(0, 1 - far)
        case .bicubic:
            if far < 1 { return (1.5 * far - 2.5) * far * far + 1 }
            return far < 2 ? (((far - 5) * far + 8) * far - 4) * -0.5 : 0
        case .lanczos: return x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0
        }
    }
}

private func sinc(_ x: Double) -> Double {
    x == 0 ? 1 : sin(x * .pi) / (x * .pi)
}

/// Returns the pixels that a model takes, to the bit of spec/preprocessing.md.
///
/// - Parameters:
///   - image: as it is stored, before it is made upright.
///   - orientation: EXIF's: 1 is upright, 6 has to be turned by 90 degrees clockwise.
public func pixels(_ image: RgbImage, _ input: Input, orientation: Int = 1) throws -> [UInt8] {
    let sideways = (5...8).contains(orientation)
    let (height, width) =
        sideways
        ? scaledSize(image.width, image.height, input.resize)
        : scaledSize(image.height, image.width, input.resize)
    guard height * width <= maxPixels else {
        let fault = "the image is too long and narrow, \(image.width) x \(image.height) pixels"
        throw LibkdError(.imageUnreadable, "\(fault); crop it first")
    }
    let scaled =
        sideways
        ? scale(image, width, height, input.resize.filter)
        : scale(image, height, width, input.resize.filter)
    return crop(upright(scaled, orientation), input.height, input.width)
}

/// Returns height and width after scaling, of an upright image.
private func scaledSize(_ height: Int, _ width: Int, _ resize: Resize) -> (Int, Int) {
    if resize.mode == .squash { return (resize.height, resize.width) }
    if resize.width * height >= resize.height * width {
        return (Int(Double(resize.width * height) / Double(width)), resize.width)
    }
    return (resize.height, Int(Double(resize.height * width) / Double(height)))
}

private func scale(_ image: RgbImage, _ height: Int, _ width: Int, _ filter: Filter) -> RgbImage {
    let heightFirst = image.height > height && image.height - height > 2 * (image.width - width)
    return heightFirst
        ? scaleWidth(scaleHeight(image, height, filter), width, filter)
        : scaleHeight(scaleWidth(image, width, filter), height, filter)
}

private func scaleWidth(_ image: RgbImage, _ width: Int, _ filter: Filter) -> RgbImage {
    if image.width == width { return image }
    let places = taps(image.width, width, filter)
    var rgb = [UInt8](repeating: 0, count: width * image.height * 3)
    image.rgb.withUnsafeBufferPointer { values in
        for row in 0..<image.height {
            for column in 0..<width {
                for channel in 0..<3 {
                    rgb[(row * width + column) * 3 + channel] =
                        places[column].sum(values, row * image.width * 3 + channel, 3)
                }
            }
        }
    }
    return RgbImage(checked: rgb, width: width, height: image.height)
}

private func scaleHeight(_ image: RgbImage, _ height: Int, _ filter: Filter) -> RgbImage {
    if image.height == height { return image }
    let places = taps(image.height, height, filter)
    let stride = image.width * 3
    var rgb = [UInt8](repeating: 0, count: height * stride)
    image.rgb.withUnsafeBufferPointer { values in
        for row in 0..<height {
            for at in 0..<stride { rgb[row * stride + at] = places[row].sum(values, at, stride) }
        }
    }
    return RgbImage(checked: rgb, width: image.width, height: height)
}

/// The places of the old axis that make one place of the new one, from `first` on, and their weights.
private struct Taps {
    let first: Int
    let weights: [Int]

    func sum(_ values: UnsafeBufferPointer<UInt8>, _ start: Int, _ step: Int) -> UInt8 {
        var sum = 1 << (weightBits - 1)
        var at = start + first * step
        for weight in weights {
            sum += weight * Int(values[at])
            at += step
        }
        return UInt8(min(255, max(0, sum >> weightBits)))
    }
}

private func taps(_ length: Int, _ newLength: Int, _ filter: Filter) -> [Taps] {
    let scale = Double(length) / Double(newLength)
    if filter == .nearest {
        var at = scale * 0.5
        return (0..<newLength).map { _ in
            defer { at += scale }
            return Taps(first: Int(at), weights: [1 << weightBits])
        }
    }
    let stretch = max(scale, 1)
    let reach = filter.support * stretch
    return (0..<newLength).map { place in
        let centre = (Double(place) + 0.5) * scale
        let first = max(0, Int(centre - reach + 0.5))
        let last = min(length, Int(centre + reach + 0.5))
        let weights = (first..<last).map { filter.weight((Double($0) - centre + 0.5) * (1 / stretch)) }
        let whole = weights.reduce(0, +)
        return Taps(first: first, weights: weights.map { fixed($0 / whole) })
    }
}

private func fixed(_ weight: Double) -> Int {
    Int(weight * Double(1 << weightBits) + (weight < 0 ? -0.5 : 0.5))
}

private func upright(_ image: RgbImage, _ orientation: Int) -> RgbImage {
    let (right, bottom) = (image.width - 1, image.height - 1)
    let (width, height) = (image.width, image.height)
    switch orientation {
    case 2: return moved(image, width, height) { ($0, right - $1) }
    case 3: return moved(image, width, height) { (bottom - $0, right - $1) }
    case 4: return moved(image, width, height) { (bottom - $0, $1) }
    case 5: return moved(image, height, width) { ($1, $0) }
    case 6: return moved(image, height, width) { (bottom - $1, $0) }
    case 7: return moved(image, height, width) { (bottom - $1, right - $0) }
    case 8: return moved(image, height, width) { ($1, right - $0) }
    default: return image
    }
}

/// Returns an image of this size whose pixels come from where `source` says: it maps row and column to row and column.
private func moved(_ image: RgbImage, _ width: Int, _ height: Int, source: (Int, Int) -> (Int, Int)) -> RgbImage {
    var rgb: [UInt8] = []
    rgb.reserveCapacity(image.rgb.count)
    for row in 0..<height {
        for column in 0..<width {
            let (fromRow, fromColumn) = source(row, column)
            let from = (fromRow * image.width + fromColumn) * 3
            rgb += image.rgb[from..<from + 3]
        }
    }
    return RgbImage(checked: rgb, width: width, height: height)
}

private func crop(_ image: RgbImage, _ height: Int, _ width: Int) -> [UInt8] {
    let top = halfToEven(image.height - height)
    let left = halfToEven(image.width - width)
    var rgb: [UInt8] = []
    rgb.reserveCapacity(height * width * 3)
    for row in top..<top + height {
        let from = (row * image.width + left) * 3
        rgb += image.rgb[from..<from + width * 3]
    }
    return rgb
}

/// Returns half of a number that is not negative, rounded to the nearest integer, and a half to the even one.
private func halfToEven(_ number: Int) -> Int {
    number / 2 + (number % 4 == 3 ? 1 : 0)
}
