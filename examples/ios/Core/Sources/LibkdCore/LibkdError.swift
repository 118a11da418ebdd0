/// An error that this code raises on purpose. Its message is one line: what is wrong, where, and how to fix it.
public struct LibkdError: Error, Equatable {
    /// The codes of the Python package; docs/errors.md explains each.
    public enum Code: String {
        case imageUnreadable = "image-unreadable"
        case fileUnwritable = "file-unwritable"
        case bundleInvalid = "bundle-invalid"
        case proofFailed = "proof-failed"
        case engineFailed = "engine-failed"
        case engineMissing = "engine-missing"
    }

    public let code: Code
    public let message: String

    public init(_ code: Code, _ message: String) {
        self.code = code
        self.message = String(String.UnicodeScalarView(message.unicodeScalars.map { isControl($0) ? " " : $0 }))
    }
}

/// Returns whether a character is a control character or ends a line.
func isControl(_ scalar: Unicode.Scalar) -> Bool {
    let value = scalar.value
    return value < 0x20 || (0x7f...0x9f).contains(value) || value == 0x2028 || value == 0x2029
}
