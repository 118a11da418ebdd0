import LibkdCore
import SwiftUI

/// What the user sees: the camera, the answers, one line about the model, and two buttons.
struct CameraScreen: View {
    @ObservedObject var model: CameraModel

    var body: some View {
        VStack(alignment: .leading, spacing: 8) {
            CameraPreview(session: model.camera.session, onLayer: { model.camera.follow($0) })
                .frame(maxWidth: .infinity, maxHeight: .infinity)
            AnswersView(answers: model.answers)
            Text(model.status)
                .font(.footnote)
            if model.isReady {
                HStack {
                    Button(model.frames == .all ? "Pause" : "Go on") { model.toggle() }
                    Button("One image") { model.takeOne() }
                }
                .buttonStyle(.borderedProminent)
            }
        }
        .padding()
        .background(.black)
        .foregroundStyle(.white)
        .onDisappear { model.stop() }
    }
}

/// Labels with their probabilities, each on a bar as long as its probability.
private struct AnswersView: View {
    let answers: [Answer]

    var body: some View {
        VStack(alignment: .leading, spacing: 4) {
            ForEach(Array(answers.enumerated()), id: \.offset) { _, answer in
                Text("\(Double(answer.score), format: .percent.precision(.fractionLength(1)))  \(answer.label)")
                    .lineLimit(1)
                    .padding(4)
                    .frame(maxWidth: .infinity, alignment: .leading)
                    .background(alignment: .leading) { bar(answer.score) }
            }
        }
    }

    private func bar(_ score: Float) -> some View {
        GeometryReader { place in
            Color.green.opacity(0.6).frame(width: place.size.width * CGFloat(score))
        }
    }
}
