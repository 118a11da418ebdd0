import AVFoundation
import Combine
import LibkdCore

/// The state of the screen. It changes on the main queue; the model runs on that of the camera.
@MainActor
final class CameraModel: ObservableObject {
    @Published private(set) var answers: [Answer] = []
    @Published private(set) var status = "Checking the bundle…"
    @Published private(set) var isReady = false
    @Published private(set) var frames = Frames.all

    let camera = Camera()

    /// Checks the bundle and its answers, asks for the camera, and begins to classify.
    func start() {
        camera.load { [weak self] result in
            Task { @MainActor in self?.loaded(result) }
        }
    }

    func stop() {
        camera.stop()
    }

    /// Pauses, or goes on.
    func toggle() {
        choose(frames == .all ? .none : .all)
    }

    /// Classifies only the next frame.
    func takeOne() {
        choose(.next)
    }

    private func choose(_ frames: Frames) {
        self.frames = frames
        camera.choose(frames)
    }

    private func loaded(_ result: Result<Double?, LibkdError>) {
        switch result {
        case .failure(let fault): show(fault)
        case .success(let difference):
            status = "no golden images"
            if let difference { status = String(format: "golden answers reproduced to within %.2g", difference) }
            Task { await open() }
        }
    }

    private func open() async {
        guard await AVCaptureDevice.requestAccess(for: .video) else {
            status = "The camera is needed to classify what it sees. Allow it in Settings."
            return
        }
        isReady = true
        camera.start { [weak self] result in
            Task { @MainActor in self?.answered(result) }
        }
    }

    private func answered(_ result: Result<[Answer], LibkdError>) {
        switch result {
        case .failure(let fault): show(fault)
        case .success(let answers): self.answers = answers
        }
    }

    private func show(_ fault: LibkdError) {
        status = "\(fault.message) [\(fault.code.rawValue)]"
    }
}
