import SwiftUI

@main
struct LibkdCameraApp: App {
    @StateObject private var model = CameraModel()

    var body: some Scene {
        WindowGroup {
            CameraScreen(model: model)
                .task { model.start() }
        }
    }
}
