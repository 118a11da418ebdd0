package com.example.libkd.core

import kotlin.math.abs

private const val SUM_TOLERANCE = 0.02

/** A model that an engine has loaded. It is used by one thread at a time. */
interface Session {
    /** The JSON that the model file carries. */
    val manifest: String

    /** Returns the probabilities of an image, uint8 RGB [1, height, width, 3]. */
    fun run(pixels: ByteArray): FloatArray
}

/** A label with its probability. */
data class Answer(val label: String, val score: Float)

/** A bundle and the session of its model: images in, labels out. */
class Classifier(private val bundle: Bundle, private val session: Session) {
    init {
        bundle.checkCarried(session.manifest)
    }

    /** Returns the best labels of an image, best first; see [pixels] for the orientation. */
    fun classify(image: RgbImage, orientation: Int = 1, count: Int = 5): List<Answer> =
        top(probabilities(pixels(image, bundle.description.input, orientation)), bundle.description.labels, count)

    /**
     * Returns the largest difference from the golden probabilities on this device; null without golden images.
     *
     * A difference that the precision does not allow is a [ProofError].
     */
    fun selfTest(): Double? {
        val golden = bundle.golden() ?: return null
        val difference = golden.maxAbsDifference(::probabilities)
        val tolerance = bundle.description.precision.tolerance
        if (!(difference <= tolerance)) {
            throw ProofError(
                "golden answers are off by $difference on this device, more than $tolerance; " +
                    "export again with this engine's version, or at fp32"
            )
        }
        return difference
    }

    private fun probabilities(pixels: ByteArray): FloatArray =
        session.run(pixels).also { checkProbabilities(it, bundle.description.labels.size) }
}

/** Fails unless an answer has a probability for each class. */
fun checkProbabilities(answer: FloatArray, classes: Int) {
    val fault = when {
        answer.size != classes -> "${answer.size} numbers instead of $classes"
        answer.any { it.isNaN() || it.isInfinite() } -> "NaN or infinity"
        answer.any { it < 0 } || abs(answer.fold(0.0) { sum, value -> sum + value } - 1) > SUM_TOLERANCE ->
            "numbers that are no probabilities"
        else -> return
    }
    throw EngineError("the model answers with $fault; export it again, if need be at fp32")
}

/** Returns the `count` best labels, best first; of equal ones the first. */
fun top(probabilities: FloatArray, labels: List<String>, count: Int): List<Answer> =
    labels.zip(probabilities.toList()) { label, score -> Answer(label, score) }
        .sortedByDescending { it.score }
        .take(count)
