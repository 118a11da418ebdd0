/// A value of JSON. A number stays as it was written, because only its reader knows whether it has to be an integer.
enum Json {
    case object([String: Json])
    case array([Json])
    case string(String)
    case number(String)
    case bool(Bool)
    case null

    /// Reads UTF-8 bytes. It takes exactly the JSON of RFC 8259: no comments, no trailing commas, no NaN. Of a repeated
    /// key, the last value counts.
    static func parse(_ bytes: [UInt8]) throws -> Json {
        guard String(decoding: bytes, as: UTF8.self).utf8.elementsEqual(bytes) else {
            throw JsonError("it is not UTF-8")
        }
        var parser = JsonParser(bytes: bytes)
        return try parser.document()
    }
}

/// The text is no JSON, or its values are not those that belong there.
struct JsonError: Error {
    let message: String

    init(_ message: String) {
        self.message = message
    }

    static func misfit(_ path: String, _ wanted: String) -> JsonError {
        JsonError("\(path) has to be \(wanted)")
    }
}

private struct JsonParser {
    private static let deepest = 64  // a manifest nests four levels
    private static let escapes: [Character: UInt8] = [
        "\"": 0x22, "\\": 0x5c, "/": 0x2f, "b": 0x08, "f": 0x0c, "n": 0x0a, "r": 0x0d, "t": 0x09,
    ]

    private let bytes: [UInt8]
    private var at = 0

    init(bytes: [UInt8]) {
        self.bytes = bytes
    }

    mutating func document() throws -> Json {
        let value = try value(depth: 0)
        skipSpace()
        guard at == bytes.count else { throw wrong }
        return value
    }

    private mutating func value(depth: Int) throws -> Json {
        guard depth <= Self.deepest else { throw JsonError("it nests too deep") }
        skipSpace()
        switch try peek() {
        case "{": return .object(try members(depth: depth))
        case "[": return .array(try items(depth: depth))
        case "\"": return .string(try string())
        case "t": return try word("true", .bool(true))
        case "f": return try word("false", .bool(false))
        case "n": return try word("null", .null)
        default: return .number(try number())
        }
    }

    private mutating func members(depth: Int) throws -> [String: Json] {
        var members: [String: Json] = [:]
        at += 1
        skipSpace()
        if try taken("}") { return members }
        repeat {
            skipSpace()
            guard try peek() == "\"" else { throw wrong }
            let key = try string()
            skipSpace()
            guard try taken(":") else { throw wrong }
            members[key] = try value(depth: depth + 1)
            skipSpace()
        } while try taken(",")
        guard try taken("}") else { throw wrong }
        return members
    }

    private mutating func items(depth: Int) throws -> [Json] {
        var items: [Json] = []
        at += 1
        skipSpace()
        if try taken("]") { return items }
        repeat {
            items.append(try value(depth: depth + 1))
            skipSpace()
        } while try taken(",")
        guard try taken("]") else { throw wrong }
        return items
    }

    private mutating func string() throws -> String {
        var found: [UInt8] = []
        at += 1
        while try peek() != "\"" {
            let byte = bytes[at]
            guard byte >= 0x20 else { throw wrong }
            at += 1
            if byte == 0x5c {
                found += try escaped()
            } else {
                found.append(byte)
            }
        }
        at += 1
        return String(decoding: found, as: UTF8.self)
    }

    private mutating func escaped() throws -> [UInt8] {
        let kind = try peek()
        at += 1
        guard kind == "u" else {
            guard let byte = Self.escapes[kind] else { throw wrong }
            return [byte]
        }
        var value = try fourDigits()
        if (0xd800..<0xdc00).contains(value) {
            guard try taken("\\"), try taken("u") else { throw wrong }
            let low = try fourDigits()
            guard (0xdc00..<0xe000).contains(low) else { throw wrong }
            value = 0x10000 + (value - 0xd800) << 10 + (low - 0xdc00)
        }
        guard let scalar = Unicode.Scalar(value) else { throw wrong }
        return Array(String(Character(scalar)).utf8)
    }

    private mutating func fourDigits() throws -> UInt32 {
        let digits = bytes.dropFirst(at).prefix(4).compactMap { Character(Unicode.Scalar($0)).hexDigitValue }
        guard digits.count == 4 else { throw wrong }
        at += 4
        return digits.reduce(0) { $0 << 4 | UInt32($1) }
    }

    private mutating func number() throws -> String {
        let start = at
        if try peek() == "-" { at += 1 }
        let first = at
        try digits()
        guard bytes[first] != 0x30 || at == first + 1 else { throw wrong }
        if at < bytes.count, bytes[at] == 0x2e {
            at += 1
            try digits()
        }
        if at < bytes.count, bytes[at] | 0x20 == 0x65 {
            at += 1
            if try peek() == "+" || peek() == "-" { at += 1 }
            try digits()
        }
        return String(decoding: bytes[start..<at], as: UTF8.self)
    }

    private mutating func digits() throws {
        let start = at
        while at < bytes.count, (0x30...0x39).contains(bytes[at]) { at += 1 }
        guard at > start else { throw wrong }
    }

    private mutating func word(_ word: String, _ value: Json) throws -> Json {
        guard bytes.dropFirst(at).starts(with: word.utf8) else { throw wrong }
        at += word.utf8.count
        return value
    }

    private func peek() throws -> Character {
        guard at < bytes.count else { throw JsonError("it ends too early") }
        return Character(Unicode.Scalar(bytes[at]))
    }

    private mutating func taken(_ wanted: Character) throws -> Bool {
        guard try peek() == wanted else { return false }
        at += 1
        return true
    }

    private mutating func skipSpace() {
        while at < bytes.count, [0x20, 0x09, 0x0a, 0x0d].contains(bytes[at]) { at += 1 }
    }

    private var wrong: JsonError { JsonError("it is malformed at byte \(at)") }
}
