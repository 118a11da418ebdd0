import AVFoundation
import LibkdCore

/// Which of the camera's frames are classified.
enum Frames {
    case all, next, none
}

/// The camera and the model behind it. All work is done on one queue, which is the only one that uses the model.
final class Camera: NSObject {
    let session = AVCaptureSession()

    private let worker = DispatchQueue(label: "libkd.camera")
    private let device = AVCaptureDevice.default(.builtInWideAngleCamera, for: .video, position: .back)

    // These belong to the worker.
    private var classifier: Classifier?
    private var frames = Frames.all
    private var orientation = 1
    private var onAnswer: ((Result<[Answer], LibkdError>) -> Void)?

    // These belong to the main queue.
    private var coordinator: AVCaptureDevice.RotationCoordinator?
    private weak var layer: AVCaptureVideoPreviewLayer?
    private var observations: [NSKeyValueObservation] = []

    /// Loads the bundle and reports the largest difference from its golden answers; nil without golden images.
    func load(_ report: @escaping (Result<Double?, LibkdError>) -> Void) {
        worker.async {
            report(
                caught {
                    let classifier = try loadClassifier()
                    let difference = try classifier.selfTest()
                    self.classifier = classifier
                    return difference
                })
        }
    }

    /// Begins to classify frames, and reports each answer on the worker.
    func start(_ report: @escaping (Result<[Answer], LibkdError>) -> Void) {
        worker.async {
            self.onAnswer = report
            if case .failure(let fault) = caught(self.connect) { return report(.failure(fault)) }
            self.session.startRunning()
            DispatchQueue.main.async { self.levelPreview() }  // the view is connected only now
        }
    }

    func stop() {
        worker.async { self.session.stopRunning() }
    }

    func choose(_ frames: Frames) {
        worker.async { self.frames = frames }
    }

    /// Keeps the view of the camera, and the orientation of frames, as the device is held. Call it on the main queue.
    func follow(_ layer: AVCaptureVideoPreviewLayer) {
        guard let device else { return }
        let coordinator = AVCaptureDevice.RotationCoordinator(device: device, previewLayer: layer)
        (self.coordinator, self.layer) = (coordinator, layer)
        observations = [
            coordinator.observe(\.videoRotationAngleForHorizonLevelPreview) { [weak self] _, _ in
                self?.levelPreview()
            },
            coordinator.observe(\.videoRotationAngleForHorizonLevelCapture, options: .initial) { [weak self] it, _ in
                guard let self else { return }
                let orientation = exifOrientation(of: it.videoRotationAngleForHorizonLevelCapture)
                worker.async { self.orientation = orientation }
            },
        ]
    }

    private func levelPreview() {
        guard let coordinator else { return }
        layer?.connection?.videoRotationAngle = coordinator.videoRotationAngleForHorizonLevelPreview
    }

    /// Connects the camera to the worker, in BGRA: the system makes RGB of the camera's YUV.
    private func connect() throws {
        guard session.outputs.isEmpty else { return }
        guard let device, let input = try? AVCaptureDeviceInput(device: device), session.canAddInput(input) else {
            throw LibkdError(.imageUnreadable, "the camera can't be used; close other apps that use it")
        }
        let output = AVCaptureVideoDataOutput()
        output.videoSettings = [kCVPixelBufferPixelFormatTypeKey as String: kCVPixelFormatType_32BGRA]
        output.alwaysDiscardsLateVideoFrames = true
        output.setSampleBufferDelegate(self, queue: worker)
        session.beginConfiguration()
        session.sessionPreset = .vga640x480
        session.addInput(input)
        session.addOutput(output)
        output.connection(with: .video)?.videoRotationAngle = 0  // `pixels` turns the small image
        session.commitConfiguration()
    }
}

extension Camera: AVCaptureVideoDataOutputSampleBufferDelegate {
    func captureOutput(
        _ output: AVCaptureOutput, didOutput sampleBuffer: CMSampleBuffer, from connection: AVCaptureConnection
    ) {
        guard let classifier, frames != .none, let buffer = CMSampleBufferGetImageBuffer(sampleBuffer) else { return }
        if frames == .next { frames = .none }
        onAnswer?(caught { try classifier.classify(RgbImage(bgra: buffer), orientation: orientation) })
    }
}

/// Returns EXIF's orientation of a frame that has to be turned clockwise by this angle to be upright.
private func exifOrientation(of angle: CGFloat) -> Int {
    switch Int(angle.rounded()) {
    case 90: return 6
    case 180: return 3
    case 270: return 8
    default: return 1
    }
}

extension RgbImage {
    /// Copies a camera's frame in BGRA, as the sensor sees it.
    fileprivate init(bgra buffer: CVPixelBuffer) throws {
        CVPixelBufferLockBaseAddress(buffer, .readOnly)
        defer { CVPixelBufferUnlockBaseAddress(buffer, .readOnly) }
        let stride = CVPixelBufferGetBytesPerRow(buffer)
        let (width, height) = (CVPixelBufferGetWidth(buffer), CVPixelBufferGetHeight(buffer))
        let start = CVPixelBufferGetBaseAddress(buffer)?.assumingMemoryBound(to: UInt8.self)
        let bytes = UnsafeBufferPointer(start: start, count: start == nil ? 0 : stride * height)
        try self.init(width: width, height: height, rgba: bytes, stride: stride, order: [2, 1, 0, 3])
    }
}
