import ExecuTorch
import Foundation
import LibkdCore

private let metadata = "libkd_bundle"

/// A model that ExecuTorch has loaded.
final class ExecuTorchSession: Session {
    let manifest: String

    private let module: Module
    private let shape: [Int]

    /// - Parameter file: the checked bytes of `model.pte`, in a folder that only this app can write to.
    init(_ file: URL, _ description: LibkdCore.Description) throws {
        let module = Module(filePath: file.path)
        let (input, classes) = (description.input, description.labels.count)
        shape = [1, input.height, input.width, 3]
        manifest = try engine("loading the model") {
            try module.load("forward")
            guard try module.methodNames().contains(metadata) else { return "" }
            let values: [Value] = try module.execute(metadata)
            return values.first?.string ?? ""
        }
        self.module = module
        try checkPorts(classes)
    }

    func run(_ pixels: [UInt8]) throws -> [Float] {
        let values: [Value] = try engine("the model") {
            try module.forward([Tensor<UInt8>(pixels, shape: shape)])
        }
        guard values.count == 1, let answer: Tensor<Float> = values[0].tensor() else {
            throw LibkdError(.engineFailed, "the model answers with no tensor of float32; export it again")
        }
        return answer.scalars()
    }

    /// Fails unless the model takes and gives exactly one tensor of the types and shapes that the manifest says.
    private func checkPorts(_ classes: Int) throws {
        let ports = try engine("reading the model's shapes") { try module.methodMetadata("forward") }
        let (inputs, outputs) = (ports.inputTensorMetadata, ports.outputTensorMetadata)
        guard ports.inputValueTags.count == 1, inputs[0]?.dataType == .byte, inputs[0]?.shape == shape,
            ports.outputValueTags.count == 1, outputs[0]?.dataType == .float, outputs[0]?.shape == [1, classes]
        else {
            let fault = "the model's input or output is not that of bundle.json"
            throw LibkdError(.bundleInvalid, "\(fault); copy or export the bundle again")
        }
    }
}

/// Turns what ExecuTorch throws into errors of one line.
private func engine<Value>(_ task: String, _ work: () throws -> Value) throws -> Value {
    do {
        return try work()
    } catch {
        let versions = "compare the versions of ExecuTorch here and at export"
        throw LibkdError(.engineFailed, "\(task) failed: \(error.localizedDescription); \(versions)")
    }
}
