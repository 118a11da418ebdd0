let formatName = "libkd-bundle/1"
private let maxFileBytes = 1 << 31
private let maxLength = 8192

public enum Target: String, CaseIterable {
    case onnx, openvino, executorch, coreml

    var backends: [String] { self == .executorch ? ["xnnpack", "vulkan", "coreml"] : [] }
}

public enum Precision: String, CaseIterable {
    case fp32, fp16, int8

    /// The largest allowed distance of a probability from the golden one, on any device.
    public var tolerance: Double {
        switch self {
        case .fp32: return 1e-4
        case .fp16: return 0.05
        case .int8: return 0.1
        }
    }
}

/// The scaling of an image before the crop, to `height` and `width` by `mode`.
public struct Resize: Equatable {
    public enum Mode: String, CaseIterable {
        case squash, cover
    }

    public let mode: Mode
    public let height: Int
    public let width: Int
    public let filter: Filter
}

/// The pixels that a model takes, UInt8 RGB [1, height, width, 3], and how an image becomes these.
public struct Input: Equatable {
    enum Crop: String, CaseIterable {
        case center, none
    }

    public let height: Int
    public let width: Int
    public let resize: Resize
    let crop: Crop

    /// Reads the JSON of `input` in a manifest.
    public init(json: [UInt8]) throws {
        self = try understood("input") { try Input(Fields("$", Json.parse(json))) }
    }
}

public struct FileEntry: Equatable {
    public let sha256: String
    public let bytes: Int
}

public struct Model: Equatable {
    public let arch: String
    public let parameters: Int
    public let teachers: [String]
    public let trainedOn: String?
    public let calibratedOn: String?
}

public struct Quantized: Equatable {
    public let calibrationImages: Int
    public let floatLayers: [String]
}

/// The part of a manifest that the model file carries as well.
public struct Description: Equatable {
    public let name: String
    public let created: String
    public let target: Target
    public let backend: String?
    public let precision: Precision
    public let labels: [String]
    public let input: Input
    public let temperature: Double
    public let model: Model
    public let quantized: Quantized?
    public let versions: [String: String]

    /// Reads the JSON that a model file carries.
    public init(json: [UInt8]) throws {
        self = try understood("the manifest in the model file") {
            let fields = try Fields("$", Json.parse(json))
            let description = try Description(fields)
            try fields.finish()
            return description
        }
    }
}

/// The content of `bundle.json`. What only people read, `lowered` and `proof`, is checked and not kept.
public struct Manifest: Equatable {
    public let description: Description
    public let files: [String: FileEntry]

    public init(json: [UInt8]) throws {
        self = try understood(manifestName) {
            let fields = try Fields("$", Json.parse(json))
            let format = try fields.text("format")
            guard format == formatName || !format.hasPrefix("libkd-bundle/") else {
                let versions = "is written in format \(format), this app reads \(formatName)"
                throw LibkdError(.bundleInvalid, "\(manifestName) \(versions); update the app")
            }
            let files = try fields.each("files") { try FileEntry($0.inner($1)) }
            let manifest = Manifest(description: try Description(fields), files: files)
            _ = try fields.optional("lowered") { try checkLowered(fields.inner($0)) }
            if try !fields.isNull("proof") { try checkProof(fields.inner("proof")) }
            try fields.finish()
            return manifest
        }
    }

    private init(description: Description, files: [String: FileEntry]) {
        self.description = description
        self.files = files
    }
}

private func understood<Value>(_ what: String, _ read: () throws -> Value) throws -> Value {
    do {
        return try read()
    } catch let fault as JsonError {
        throw LibkdError(
            .bundleInvalid, "\(what) is not understood (\(fault.message)); copy or export the bundle again")
    }
}

extension Description {
    fileprivate init(_ fields: Fields) throws {
        try fields.constant("format", formatName)
        name = try fields.text("name")
        guard isLabel(name) else { throw JsonError.misfit("$.name", "a name") }
        created = try fields.text("created")
        let target: Target = try fields.oneOf("target")
        self.target = target
        backend = try fields.optional("backend", fields.text)
        if let backend, !target.backends.contains(backend) {
            throw JsonError.misfit("$.backend", "a backend of \(target)")
        }
        precision = try fields.oneOf("precision")
        labels = try fields.texts("labels")
        guard labels.count >= 2, labels.allSatisfy(isLabel) else {
            throw JsonError.misfit("$.labels", "two or more names of classes")
        }
        input = try Input(fields.inner("input"))
        let output = try fields.inner("output")
        if output.has("kind") { try output.constant("kind", "probabilities") }
        temperature = try output.value("temperature", default: 1) { try output.number($0) { $0 > 0 } }
        try output.finish()
        model = try Model(fields.inner("model"))
        quantized = try fields.optional("quantized") { try Quantized(fields.inner($0)) }
        versions = try fields.each("versions") { try $0.text($1) }
    }
}

extension Input {
    fileprivate init(_ fields: Fields) throws {
        for (key, only) in [("dtype", "uint8"), ("layout", "NHWC"), ("channels", "RGB")] where fields.has(key) {
            try fields.constant(key, only)
        }
        height = try fields.integer("height", in: 1...maxLength)
        width = try fields.integer("width", in: 1...maxLength)
        resize = try Resize(fields.inner("resize"))
        crop = try fields.value("crop", default: .center, fields.oneOf)
        try fields.finish()
        guard resize.height >= height, resize.width >= width else {
            throw JsonError("resize.size is smaller than the crop")
        }
        guard crop == .center || (resize.mode == .squash && resize.height == height && resize.width == width) else {
            throw JsonError("without a crop, resize has to squash to exactly height x width")
        }
    }
}

extension Resize {
    fileprivate init(_ fields: Fields) throws {
        mode = try fields.oneOf("mode")
        let size = try fields.integers("size", in: 1...maxLength)
        guard size.count == 2 else { throw JsonError.misfit("$.input.resize.size", "height and width") }
        (height, width) = (size[0], size[1])
        filter = try fields.value("filter", default: .bicubic, fields.oneOf)
        try fields.finish()
    }
}

extension FileEntry {
    fileprivate init(_ fields: Fields) throws {
        sha256 = try fields.text("sha256")
        guard sha256.utf8.count == 64, sha256.utf8.allSatisfy({ hexadecimal.contains($0) }) else {
            throw JsonError.misfit("sha256", "the hash of a file")
        }
        bytes = try fields.integer("bytes", in: 1...maxFileBytes)
        try fields.finish()
    }
}

extension Model {
    fileprivate init(_ fields: Fields) throws {
        arch = try fields.text("arch")
        parameters = try fields.integer("parameters", in: 0...Int.max)
        teachers = try fields.value("teachers", default: [], fields.texts)
        trainedOn = try fields.optional("trained_on", fields.text)
        calibratedOn = try fields.optional("calibrated_on", fields.text)
        try fields.finish()
    }
}

extension Quantized {
    fileprivate init(_ fields: Fields) throws {
        calibrationImages = try fields.integer("calibration_images", in: 1...Int.max)
        floatLayers = try fields.value("float_layers", default: [], fields.texts)
        try fields.finish()
    }
}

private func checkLowered(_ fields: Fields) throws {
    _ = try fields.integer("delegates", in: 0...Int.max)
    _ = try fields.each("outside") { try $0.integer($1, in: 0...Int.max) }
    try fields.finish()
}

private func checkProof(_ fields: Fields) throws {
    let share = { (key: String) in try fields.number(key) { (0...1).contains($0) } }
    _ = try fields.integer("images", in: 1...Int.max)
    for key in ["max_abs_difference", "top1_agreement"] { _ = try share(key) }
    for key in ["top1", "reference_top1"] { _ = try fields.optional(key, share) }
    try fields.finish()
}

private func isLabel(_ text: String) -> Bool {
    let scalars = text.unicodeScalars
    return !scalars.isEmpty && scalars.count <= 500
        && scalars.allSatisfy { $0.value >= 0x20 && !(0x7f...0x9f).contains($0.value) }
}
