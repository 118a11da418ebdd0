package com.example.libkd.core

import kotlin.math.abs

/** A few images as the pixels that the model takes, with the probabilities that they should get. */
class Golden(val pixels: List<ByteArray>, val probabilities: List<FloatArray>) {
    /** Returns the largest distance of the answers of `run` from these probabilities; NaN if it answers with NaN. */
    fun maxAbsDifference(run: (ByteArray) -> FloatArray): Double {
        var largest = 0.0
        for ((image, expected) in pixels.zip(probabilities)) {
            val answer = run(image)
            for (index in expected.indices) {
                val difference = abs(answer[index].toDouble() - expected[index])
                if (difference.isNaN()) return difference
                largest = maxOf(largest, difference)
            }
        }
        return largest
    }
}

/** Returns the golden images that a file holds, or fails if it holds something else. */
internal fun readGolden(content: ByteArray, description: Description): Golden {
    val tensors = readSafetensors(content, GOLDEN)
    val pixels = tensors["pixels"]
    val probabilities = tensors["probabilities"]
    val input = description.input
    val count = pixels?.shape?.firstOrNull() ?: 0L
    val fits = pixels?.dtype == "U8" && probabilities?.dtype == "F32" && count > 0 &&
        pixels.shape == listOf(count, input.height.toLong(), input.width.toLong(), 3L) &&
        probabilities.shape == listOf(count, description.labels.size.toLong())
    if (pixels == null || probabilities == null || !fits) {
        throw BundleError("$GOLDEN does not fit $MANIFEST; export again")
    }
    val bytes = pixels.toBytes()
    val floats = probabilities.toFloats()
    val image = bytes.size / count.toInt()
    val classes = description.labels.size
    return Golden(
        List(count.toInt()) { bytes.copyOfRange(it * image, (it + 1) * image) },
        List(count.toInt()) { floats.copyOfRange(it * classes, (it + 1) * classes) }
    )
}
