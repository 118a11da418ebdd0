import Foundation
import LibkdCore

/// Reads the bundle in the resources of this app, and loads its model.
func loadClassifier() throws -> Classifier {
    guard let folder = Bundle.main.url(forResource: "bundle", withExtension: nil) else {
        throw LibkdError(.bundleInvalid, "this app has no folder 'bundle'; copy the one that export wrote")
    }
    let bundle = try ModelBundle(DiskFolder(url: folder))
    let file = try written(bundle.model)
    return try Classifier(bundle, ExecuTorchSession(file, bundle.description))
}

/// Returns what `work` returns, or its error, which is one of ours.
func caught<Value>(_ work: () throws -> Value) -> Result<Value, LibkdError> {
    do {
        return .success(try work())
    } catch let fault as LibkdError {
        return .failure(fault)
    } catch {
        return .failure(LibkdError(.engineFailed, "\(error.localizedDescription); restart the app"))
    }
}

/// ExecuTorch reads a model only from a file, so the bytes that were checked become one that belongs to this app.
private func written(_ model: [UInt8]) throws -> URL {
    do {
        let folder = try FileManager.default.url(
            for: .cachesDirectory, in: .userDomainMask, appropriateFor: nil, create: true)
        let file = folder.appendingPathComponent("model.pte")
        try Data(model).write(to: file, options: .atomic)
        return file
    } catch {
        throw LibkdError(
            .fileUnwritable, "model.pte can't be written (\(error.localizedDescription)); free some storage")
    }
}

/// A folder on the disk.
private struct DiskFolder: Folder {
    let url: URL

    func names() throws -> Set<String> {
        try unreadable("the folder") { Set(try FileManager.default.contentsOfDirectory(atPath: url.path)) }
    }

    func read(_ name: String, limit: Int) throws -> [UInt8]? {
        let file = url.appendingPathComponent(name)
        let attributes = try? FileManager.default.attributesOfItem(atPath: file.path)
        guard let kind = attributes?[.type] as? FileAttributeType else { return nil }
        guard kind == .typeRegular else { throw LibkdError(.bundleInvalid, "\(name) is no file; copy the file itself") }
        return try unreadable(name) {
            let handle = try FileHandle(forReadingFrom: file)
            defer { try? handle.close() }
            return Array(try handle.read(upToCount: limit + 1) ?? Data())
        }
    }

    private func unreadable<Value>(_ what: String, _ work: () throws -> Value) throws -> Value {
        do {
            return try work()
        } catch {
            throw LibkdError(
                .bundleInvalid, "\(what) can't be read (\(error.localizedDescription)); copy the bundle again")
        }
    }
}
