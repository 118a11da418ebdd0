private let sumTolerance = 0.02

/// A model that an engine has loaded. It is used by one thread at a time.
public protocol Session {
    /// The JSON that the model file carries.
    var manifest: String { get }

    /// Returns the probabilities of an image, UInt8 RGB [1, height, width, 3].
    func run(_ pixels: [UInt8]) throws -> [Float]
}

/// A label with its probability.
public struct Answer: Equatable {
    public let label: String
    public let score: Float
}

/// A bundle and the session of its model: images in, labels out.
public final class Classifier {
    private let bundle: ModelBundle
    private let session: Session

    public init(_ bundle: ModelBundle, _ session: Session) throws {
        try bundle.checkCarried(session.manifest)
        self.bundle = bundle
        self.session = session
    }

    /// Returns the best labels of an image, best first; see `pixels` for the orientation.
    public func classify(_ image: RgbImage, orientation: Int = 1, count: Int = 5) throws -> [Answer] {
        let taken = try pixels(image, bundle.description.input, orientation: orientation)
        return top(try probabilities(taken), bundle.description.labels, count)
    }

    /// Returns the largest difference from the golden probabilities on this device; nil without golden images.
    ///
    /// A difference that the precision does not allow is an error with the code `proof-failed`.
    public func selfTest() throws -> Double? {
        guard let golden = try bundle.golden() else { return nil }
        let difference = try golden.maxAbsDifference(probabilities)
        let tolerance = bundle.description.precision.tolerance
        guard difference <= tolerance else {
            let fault = "golden answers are off by \(difference) on this device, more than \(tolerance)"
            throw LibkdError(.proofFailed, "\(fault); export again with this engine's version, or at fp32")
        }
        return difference
    }

    private func probabilities(_ pixels: [UInt8]) throws -> [Float] {
        let answer = try session.run(pixels)
        try checkProbabilities(answer, classes: bundle.description.labels.count)
        return answer
    }
}

/// Fails unless an answer has a probability for each class.
func checkProbabilities(_ answer: [Float], classes: Int) throws {
    let sum = answer.reduce(0.0) { $0 + Double($1) }
    let fault: String
    if answer.count != classes {
        fault = "\(answer.count) numbers instead of \(classes)"
    } else if !answer.allSatisfy(\.isFinite) {
        fault = "NaN or infinity"
    } else if answer.contains(where: { $0 < 0 }) || abs(sum - 1) > sumTolerance {
        fault = "numbers that are no probabilities"
    } else {
        return
    }
    throw LibkdError(.engineFailed, "the model answers with \(fault); export it again, if need be at fp32")
}

/// Returns the `count` best labels, best first; of equal ones the first.
func top(_ probabilities: [Float], _ labels: [String], _ count: Int) -> [Answer] {
    let best = probabilities.indices.sorted {
        (probabilities[$1], $0) < (probabilities[$0], $1)
    }
    return best.prefix(count).map { Answer(label: labels[$0], score: probabilities[$0]) }
}
