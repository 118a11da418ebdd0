private let prefix = 8  // bytes of the length of the header
private let sizes = [
    "BOOL": 1, "U8": 1, "I8": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8,
]

/// A tensor as it lies in a file: its dtype in the words of safetensors, its shape and its little-endian bytes.
public struct StoredTensor {
    public let dtype: String
    public let shape: [Int]
    public let bytes: ArraySlice<UInt8>

    /// The numbers of a tensor whose dtype is F32.
    public var floats: [Float] {
        precondition(dtype == "F32")
        return stride(from: bytes.startIndex, to: bytes.endIndex, by: 4).map {
            Float(bitPattern: UInt32(littleEndian(bytes[$0..<$0 + 4])))
        }
    }
}

private func littleEndian(_ bytes: ArraySlice<UInt8>) -> UInt64 {
    bytes.reversed().reduce(0) { $0 << 8 | UInt64($1) }
}

/// Returns the tensors of a safetensors file by name.
///
/// As in the format's own reader, the tensors fill the file without a gap.
public func readSafetensors(_ content: [UInt8], place: String) throws -> [String: StoredTensor] {
    do {
        return try tensors(content)
    } catch let fault as JsonError {
        throw LibkdError(.bundleInvalid, "\(place) can't be read (\(fault.message)); export again")
    }
}

private func tensors(_ content: [UInt8]) throws -> [String: StoredTensor] {
    guard content.count >= prefix else { throw JsonError("it is too short") }
    let length = littleEndian(content[..<prefix])
    guard (2...UInt64(content.count)).contains(length), Int(length) <= content.count - prefix else {
        throw JsonError("its header is longer than the file")
    }
    let start = prefix + Int(length)
    guard case .object(let header) = try Json.parse(Array(content[prefix..<start])) else {
        throw JsonError.misfit("the header", "an object")
    }
    let entries = try header.filter { $0.key != "__metadata__" }.map { try Entry($0, Fields($0, $1)) }
    var end = 0
    for entry in entries.sorted(by: { ($0.begin, $0.end) < ($1.begin, $1.end) }) {
        guard entry.begin == end else { throw JsonError("\(entry.name) does not follow the tensor before it") }
        end = entry.end
    }
    guard end == content.count - start else { throw JsonError("the tensors do not fill the file") }
    return Dictionary(
        uniqueKeysWithValues: entries.map {
            let bytes = content[(start + $0.begin)..<(start + $0.end)]
            return ($0.name, StoredTensor(dtype: $0.dtype, shape: $0.shape, bytes: bytes))
        })
}

private struct Entry {
    let name: String
    let dtype: String
    let shape: [Int]
    let begin: Int
    let end: Int

    init(_ name: String, _ fields: Fields) throws {
        self.name = name
        dtype = try fields.text("dtype")
        shape = try fields.integers("shape", in: 0...Int(Int32.max))
        let offsets = try fields.integers("data_offsets", in: 0...Int(Int32.max))
        guard var size = sizes[dtype] else { throw JsonError.misfit("\(name).dtype", "a known dtype") }
        guard offsets.count == 2 else { throw JsonError.misfit("\(name).data_offsets", "two numbers") }
        (begin, end) = (offsets[0], offsets[1])
        for length in shape {
            size *= length
            guard size <= Int(Int32.max) else { throw JsonError("\(name) is larger than 2 GB") }
        }
        guard end - begin == size else { throw JsonError("\(name) has another size than its shape") }
    }
}
