// Runs the commands on standard input, one on a line, and answers each with one line.

import Glibc
import LibkdCore

private func run(_ command: String, _ words: [String]) throws -> String {
    switch command {
    case "pixels":
        let input = try Input(json: contents(words[0]))
        write(try pixels(image(words, 2), input, orientation: Int(words[6])!), to: words[1])
        return "ok"
    case "open":
        return "ok\t" + (try ModelBundle(Directory(path: words[0]))).description.labels.joined(separator: ",")
    case "tensors":
        let tensors = try readSafetensors(contents(words[0]), place: "the file").sorted { $0.key < $1.key }
        return "ok\t"
            + tensors.map { name, tensor in
                let shape = tensor.shape.map(String.init).joined(separator: "x")
                return "\(name) \(tensor.dtype) \(shape) \(sha256(Array(tensor.bytes)))"
            }.joined(separator: ",")
    case "self-test":
        return "ok\t" + (try classifier(words).selfTest().map { "\($0)" } ?? "null")
    case "classify":
        let answers = try classifier(words).classify(image(words, 2), orientation: Int(words[6])!)
        return "ok\t" + answers.map { "\($0.label)=\($0.score)" }.joined(separator: ",")
    default:
        fatalError(command)
    }
}

private func classifier(_ words: [String]) throws -> Classifier {
    try Classifier(ModelBundle(Directory(path: words[0])), Recorded(folder: words[1]))
}

/// Reads an image from four words: its file, its width, its height and its number of channels.
private func image(_ words: [String], _ at: Int) throws -> RgbImage {
    let (content, width, height) = (try contents(words[at]), Int(words[at + 1])!, Int(words[at + 2])!)
    guard words[at + 3] == "4" else { return try RgbImage(width: width, height: height, rgb: content) }
    return try content.withUnsafeBufferPointer {
        try RgbImage(width: width, height: height, rgba: $0, stride: width * 4)
    }
}

private struct Directory: Folder {
    let path: String

    func names() -> Set<String> {
        var names: Set<String> = []
        guard let opened = opendir(path) else { return names }
        while let entry = readdir(opened) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) {
                $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            names.insert(name)
        }
        closedir(opened)
        return names.subtracting([".", ".."])
    }

    func read(_ name: String, limit: Int) throws -> [UInt8]? {
        var status = stat()
        guard !name.utf8.contains(0), lstat("\(path)/\(name)", &status) == 0 else { return nil }
        if status.st_mode & S_IFMT == S_IFLNK {
            throw LibkdError(.bundleInvalid, "\(name) is a link; copy the file itself")
        }
        return status.st_mode & S_IFMT == S_IFREG ? try contents("\(path)/\(name)", limit: limit + 1) : nil
    }
}

/// A session with the answers that the real engine gave before, in files called after the hash of the pixels.
private struct Recorded: Session {
    let folder: String

    var manifest: String { String(decoding: (try? contents("\(folder)/manifest.json")) ?? [], as: UTF8.self) }

    func run(_ pixels: [UInt8]) throws -> [Float] {
        let bytes = try contents("\(folder)/\(sha256(pixels))")
        return bytes.withUnsafeBytes { Array($0.bindMemory(to: Float.self)) }
    }
}

private func contents(_ path: String, limit: Int = .max) throws -> [UInt8] {
    guard let file = fopen(path, "rb") else { throw LibkdError(.bundleInvalid, "\(path) can't be opened") }
    defer { fclose(file) }
    fseek(file, 0, SEEK_END)
    let size = min(ftell(file), limit)
    rewind(file)
    return [UInt8](unsafeUninitializedCapacity: size) { $1 = fread($0.baseAddress, 1, size, file) }
}

private func write(_ bytes: [UInt8], to path: String) {
    let file = fopen(path, "wb")!
    fwrite(bytes, 1, bytes.count, file)
    fclose(file)
}

while let line = readLine() {
    let words = line.split(separator: "\t", omittingEmptySubsequences: false).map(String.init)
    do {
        print(try run(words[0], Array(words.dropFirst())))
    } catch let fault as LibkdError {
        print("\(fault.code.rawValue)\t\(fault.message)")
    }
}
