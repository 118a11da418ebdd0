/// A few images as the pixels that the model takes, with the probabilities that they should get.
public struct Golden {
    public let pixels: [[UInt8]]
    public let probabilities: [[Float]]

    /// Reads the golden images that a file holds, and fails if it holds something else.
    init(_ content: [UInt8], _ description: Description) throws {
        let tensors = try readSafetensors(content, place: goldenName)
        let (input, classes) = (description.input, description.labels.count)
        guard let images = tensors["pixels"], let answers = tensors["probabilities"],
            images.dtype == "U8", answers.dtype == "F32", let count = images.shape.first, count > 0,
            images.shape == [count, input.height, input.width, 3], answers.shape == [count, classes]
        else {
            throw LibkdError(.bundleInvalid, "\(goldenName) does not fit \(manifestName); export again")
        }
        let (bytes, floats) = (Array(images.bytes), answers.floats)
        let size = bytes.count / count
        pixels = (0..<count).map { Array(bytes[$0 * size..<($0 + 1) * size]) }
        probabilities = (0..<count).map { Array(floats[$0 * classes..<($0 + 1) * classes]) }
    }

    /// Returns the largest distance of the answers of `run` from these probabilities; NaN if it answers with NaN.
    func maxAbsDifference(_ run: ([UInt8]) throws -> [Float]) rethrows -> Double {
        var largest = 0.0
        for (image, expected) in zip(pixels, probabilities) {
            for (found, wanted) in zip(try run(image), expected) {
                let difference = abs(Double(found) - Double(wanted))
                if difference.isNaN { return difference }
                largest = max(largest, difference)
            }
        }
        return largest
    }
}
