/// Reads the values of an object by their keys. What is missing, of another kind, or was not asked for is an error.
final class Fields {
    private let path: String
    private let values: [String: Json]
    private var asked: Set<String> = []

    init(_ path: String, _ value: Json) throws {
        guard case .object(let values) = value else { throw JsonError.misfit(path, "an object") }
        self.path = path
        self.values = values
    }

    func has(_ key: String) -> Bool {
        values.keys.contains(key)
    }

    /// Returns the value of a key that has to be there.
    func value(_ key: String) throws -> Json {
        asked.insert(key)
        guard let value = values[key] else { throw JsonError("\(path).\(key) is missing") }
        return value
    }

    func isNull(_ key: String) throws -> Bool {
        if case .null = try value(key) { return true }
        return false
    }

    /// Returns the value of a key that may be absent, or null, which means the same.
    func optional<Value>(_ key: String, _ read: (String) throws -> Value) throws -> Value? {
        asked.insert(key)
        return try has(key) && !isNull(key) ? read(key) : nil
    }

    /// Returns the value of a key that may be absent.
    func value<Value>(_ key: String, default standard: Value, _ read: (String) throws -> Value) throws -> Value {
        asked.insert(key)
        return try has(key) ? read(key) : standard
    }

    func inner(_ key: String) throws -> Fields {
        try Fields("\(path).\(key)", value(key))
    }

    func text(_ key: String) throws -> String {
        guard case .string(let text) = try value(key) else { throw JsonError.misfit("\(path).\(key)", "a string") }
        return text
    }

    /// Returns one of the cases of an enumeration of strings.
    func oneOf<Case: CaseIterable & RawRepresentable>(_ key: String) throws -> Case where Case.RawValue == String {
        guard let found = Case(rawValue: try text(key)) else {
            throw JsonError.misfit("\(path).\(key)", "one of " + Case.allCases.map(\.rawValue).joined(separator: ", "))
        }
        return found
    }

    /// Fails unless the value is this one.
    func constant(_ key: String, _ wanted: String) throws {
        guard try text(key) == wanted else { throw JsonError.misfit("\(path).\(key)", wanted) }
    }

    func integer(_ key: String, in range: ClosedRange<Int>) throws -> Int {
        guard let found = integer(try value(key)), range.contains(found) else {
            throw JsonError.misfit("\(path).\(key)", "an integer from \(range.lowerBound) to \(range.upperBound)")
        }
        return found
    }

    func number(_ key: String, where allowed: (Double) -> Bool) throws -> Double {
        guard case .number(let text) = try value(key), let found = Double(text), found.isFinite, allowed(found) else {
            throw JsonError.misfit("\(path).\(key)", "a number in its range")
        }
        return found
    }

    func integers(_ key: String, in range: ClosedRange<Int>) throws -> [Int] {
        try array(key).map {
            guard let found = integer($0), range.contains(found) else {
                throw JsonError.misfit("\(path).\(key)", "integers in their range")
            }
            return found
        }
    }

    func texts(_ key: String) throws -> [String] {
        try array(key).map {
            guard case .string(let text) = $0 else { throw JsonError.misfit("\(path).\(key)", "strings") }
            return text
        }
    }

    /// Returns what `read` makes of each member of an object whose keys are free.
    func each<Value>(_ key: String, _ read: (Fields, String) throws -> Value) throws -> [String: Value] {
        let members = try inner(key)
        return try Dictionary(uniqueKeysWithValues: members.values.keys.map { ($0, try read(members, $0)) })
    }

    /// Fails if the object has a key that was not asked for.
    func finish() throws {
        if let unknown = values.keys.first(where: { !asked.contains($0) }) {
            throw JsonError("\(path) has the unknown key '\(unknown)'")
        }
    }

    private func array(_ key: String) throws -> [Json] {
        guard case .array(let items) = try value(key) else { throw JsonError.misfit("\(path).\(key)", "an array") }
        return items
    }

    private func integer(_ value: Json) -> Int? {
        guard case .number(let text) = value else { return nil }
        return Int(text)
    }
}
