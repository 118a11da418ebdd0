let manifestName = "bundle.json"
let goldenName = "golden.safetensors"
private let modelName = "model.pte"
private let signatureName = "bundle.sig"
private let maxManifestBytes = 16 << 20
private let maxSignatureBytes = 4096
private let magic = Array("ET12".utf8)
private let magicOffset = 4

/// The folder of a bundle, wherever the platform keeps it.
public protocol Folder {
    /// Returns the names of all that lies in the folder.
    func names() throws -> Set<String>

    /// Returns the content of a file, or its first `limit` + 1 bytes if it is longer; nil if there is no such file.
    func read(_ name: String, limit: Int) throws -> [UInt8]?
}

/// A bundle for ExecuTorch whose files have exactly the content that its manifest lists.
///
/// Every file was read once: what the engine gets are the bytes that were hashed. Signatures are not checked.
public struct ModelBundle {
    public let description: Description
    private let contents: [String: [UInt8]]

    /// Reads and checks a bundle, in the order of spec/bundle.md. The engine has seen nothing yet.
    public init(_ folder: Folder) throws {
        guard let text = try folder.read(manifestName, limit: maxManifestBytes) else {
            throw LibkdError(.bundleInvalid, "there is no \(manifestName); copy the folder that export wrote")
        }
        guard text.count <= maxManifestBytes else {
            throw LibkdError(.bundleInvalid, "\(manifestName) is larger than 16 MB; it is no manifest")
        }
        let manifest = try Manifest(json: text)
        try checkNames(folder, manifest)
        description = manifest.description
        contents = try Dictionary(
            uniqueKeysWithValues: manifest.files.map { ($0, try readFile(folder, $0, $1)) })
        guard model.dropFirst(magicOffset).starts(with: magic) else {
            throw LibkdError(
                .bundleInvalid, "\(modelName) is not a file of ExecuTorch; copy or export the bundle again")
        }
    }

    public var model: [UInt8] { contents[modelName] ?? [] }

    /// Returns the golden images, or nil if the bundle was made without.
    public func golden() throws -> Golden? {
        try contents[goldenName].map { try Golden($0, description) }
    }

    /// Fails unless the model file was made for this manifest.
    ///
    /// - Parameter carried: the JSON that its method `libkd_bundle` returns.
    func checkCarried(_ carried: String) throws {
        guard let own = try? Description(json: Array(carried.utf8)), own == description else {
            throw LibkdError(
                .bundleInvalid,
                "\(modelName) was made for another \(manifestName); copy the whole folder, or export again")
        }
    }
}

private func checkNames(_ folder: Folder, _ manifest: Manifest) throws {
    let target = manifest.description.target
    guard target == .executorch else {
        throw LibkdError(.engineMissing, "this app has no \(target); export the model with --target executorch")
    }
    guard manifest.files.keys.contains(modelName) else {
        throw LibkdError(.bundleInvalid, "\(manifestName) does not list \(modelName); export again")
    }
    if let name = manifest.files.keys.first(where: { !isFileName($0) }) {
        let fault = "lists '\(name)', which is not a valid name for a file in a bundle"
        throw LibkdError(.bundleInvalid, "\(manifestName) \(fault); export again")
    }
    let listed = Set(manifest.files.keys).union([manifestName, signatureName])
    if let stranger = try folder.names().subtracting(listed).sorted().first {
        let fault = "holds '\(stranger)', which \(manifestName) does not list"
        throw LibkdError(.bundleInvalid, "the folder \(fault); remove it")
    }
    if let signature = try folder.read(signatureName, limit: maxSignatureBytes), signature.count > maxSignatureBytes {
        throw LibkdError(.bundleInvalid, "\(signatureName) is larger than a signature; remove it, or sign again")
    }
}

private func readFile(_ folder: Folder, _ name: String, _ entry: FileEntry) throws -> [UInt8] {
    guard let content = try folder.read(name, limit: entry.bytes) else {
        throw LibkdError(.bundleInvalid, "\(name) is missing; copy or export the bundle again")
    }
    guard content.count == entry.bytes else {
        throw LibkdError(
            .bundleInvalid, "\(name) does not have \(entry.bytes) bytes; copy or export the bundle again")
    }
    guard sha256(content) == entry.sha256 else {
        let fault = "was changed since its export (SHA-256 differs)"
        throw LibkdError(.bundleInvalid, "\(name) \(fault); copy or export it again")
    }
    return content
}

private func isFileName(_ name: String) -> Bool {
    !name.isEmpty && !name.hasPrefix(".") && name != manifestName && name != signatureName
        && name.unicodeScalars.allSatisfy { $0 != "/" && $0 != "\\" && isPrintable($0) }
}

private func isPrintable(_ scalar: Unicode.Scalar) -> Bool {
    switch scalar.properties.generalCategory {
    case .control, .format, .surrogate, .privateUse, .unassigned, .lineSeparator, .paragraphSeparator: return false
    case .spaceSeparator: return scalar == " "
    default: return true
    }
}
