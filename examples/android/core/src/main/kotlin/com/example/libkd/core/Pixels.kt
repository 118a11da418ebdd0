package com.example.libkd.core

import kotlin.math.abs
import kotlin.math.max
import kotlin.math.min
import kotlin.math.sin

private const val WEIGHT_BITS = 22
private const val MAX_PIXELS = 80_000_000L

/** An image of RGB bytes, [height] rows of [width] pixels. */
class RgbImage(val width: Int, val height: Int, val rgb: ByteArray) {
    init {
        if (width < 1 || height < 1 || rgb.size != width * height * 3) {
            throw ImageError("an image of $width x $height pixels has not ${rgb.size} bytes; give RGB")
        }
    }

    companion object {
        /**
         * Returns RGBA pixels as an image on white.
         *
         * @param stride the number of bytes from the start of a row to that of the next one.
         */
        fun fromRgba(width: Int, height: Int, rgba: ByteArray, stride: Int = width * 4): RgbImage {
            if (stride < width * 4 || rgba.size < (height - 1) * stride + width * 4) {
                throw ImageError("an image of $width x $height pixels has not ${rgba.size} bytes; give RGBA")
            }
            val rgb = ByteArray(width * height * 3)
            var to = 0
            for (row in 0 until height) {
                for (from in row * stride until row * stride + width * 4 step 4) {
                    val alpha = rgba[from + 3].toInt() and 0xff
                    for (channel in 0 until 3) rgb[to++] = onWhite(rgba[from + channel].toInt() and 0xff, alpha)
                }
            }
            return RgbImage(width, height, rgb)
        }
    }
}

private fun onWhite(value: Int, alpha: Int): Byte {
    val mixed = 128 * (value * alpha + 255 * (255 - alpha)) + 16384
    return (((mixed shr 8) + mixed shr 8) shr 7).toByte()
}

/** A filter of Pillow: how far a pixel sees, and how much it takes from there. */
enum class Filter(val key: String, internal val support: Double) {
    NEAREST("nearest", 0.0) {
        override fun weight(x: Double) = 0.0
    },
    BOX("box", 0.5) {
        override fun weight(x: Double) = if (x > -0.5 && x <= 0.5) 1.0 else 0.0
    },
    BILINEAR("bilinear", 1.0) {
        override fun weight(x: Double) = max(0.0, 1 - abs(x))
    },
    BICUBIC("bicubic", 2.0) {
        override fun weight(x: Double): Double {
            val far = abs(x)
            return when {
                far < 1 -> (1.5 * far - 2.5) * far * far + 1
                far < 2 -> (((far - 5) * far + 8) * far - 4) * -0.5
                else -> 0.0
            }
        }
    },
    LANCZOS("lanczos", 3.0) {
        override fun weight(x: Double) = if (x >= -3 && x < 3) sinc(x) * sinc(x / 3) else 0.0
    };

    internal abstract fun weight(x: Double): Double
}

private fun sinc(x: Double): Double = if (x == 0.0) 1.0 else sin(x * Math.PI) / (x * Math.PI)

/**
 * Returns the pixels that a model takes, to the bit of spec/preprocessing.md.
 *
 * @param image as it is stored, before it is made upright.
 * @param orientation EXIF's: 1 is upright, 6 has to be turned by 90 degrees clockwise.
 */
fun pixels(image: RgbImage, input: Input, orientation: Int = 1): ByteArray {
    val sideways = orientation in 5..8
    val (height, width) =
        if (sideways) scaledSize(image.width, image.height, input.resize)
        else scaledSize(image.height, image.width, input.resize)
    if (height.toLong() * width > MAX_PIXELS) {
        throw ImageError("the image is too long and narrow, ${image.width} x ${image.height} pixels; crop it first")
    }
    val scaled =
        if (sideways) scale(image, width, height, input.resize.filter)
        else scale(image, height, width, input.resize.filter)
    return crop(upright(scaled, orientation), input.height, input.width)
}

/** Returns height and width after scaling, of an upright image. */
private fun scaledSize(height: Int, width: Int, resize: Resize): Pair<Int, Int> = when {
    resize.mode == Mode.SQUASH -> Pair(resize.height, resize.width)
    resize.width.toLong() * height >= resize.height.toLong() * width ->
        Pair((resize.width.toLong() * height / width.toDouble()).toInt(), resize.width)
    else -> Pair(resize.height, (resize.height.toLong() * width / height.toDouble()).toInt())
}

private fun scale(image: RgbImage, height: Int, width: Int, filter: Filter): RgbImage {
    val heightFirst = image.height > height && image.height - height > 2 * (image.width - width)
    return if (heightFirst) scaleWidth(scaleHeight(image, height, filter), width, filter)
    else scaleHeight(scaleWidth(image, width, filter), height, filter)
}

private fun scaleWidth(image: RgbImage, width: Int, filter: Filter): RgbImage {
    if (image.width == width) return image
    val rgb = ByteArray(width * image.height * 3)
    val taps = tapsOf(image.width, width, filter)
    for (row in 0 until image.height) {
        val from = row * image.width * 3
        for (column in 0 until width) {
            val to = (row * width + column) * 3
            for (channel in 0 until 3) rgb[to + channel] = taps[column].sum(image.rgb, from + channel, 3)
        }
    }
    return RgbImage(width, image.height, rgb)
}

private fun scaleHeight(image: RgbImage, height: Int, filter: Filter): RgbImage {
    if (image.height == height) return image
    val stride = image.width * 3
    val rgb = ByteArray(height * stride)
    val taps = tapsOf(image.height, height, filter)
    for (row in 0 until height) {
        for (at in 0 until stride) rgb[row * stride + at] = taps[row].sum(image.rgb, at, stride)
    }
    return RgbImage(image.width, height, rgb)
}

/** The places of the old axis that make one place of the new one, from `first` on, and their weights. */
private class Taps(private val first: Int, private val weights: IntArray) {
    fun sum(values: ByteArray, start: Int, step: Int): Byte {
        var sum = 1 shl (WEIGHT_BITS - 1)
        var at = start + first * step
        for (weight in weights) {
            sum += weight * (values[at].toInt() and 0xff)
            at += step
        }
        return min(255, max(0, sum shr WEIGHT_BITS)).toByte()
    }
}

private fun tapsOf(length: Int, newLength: Int, filter: Filter): List<Taps> {
    val scale = length / newLength.toDouble()
    if (filter == Filter.NEAREST) {
        var at = scale * 0.5
        return List(newLength) { Taps(at.toInt(), intArrayOf(1 shl WEIGHT_BITS)).also { at += scale } }
    }
    val stretch = max(scale, 1.0)
    val reach = filter.support * stretch
    return List(newLength) { place ->
        val centre = (place + 0.5) * scale
        val first = max(0, (centre - reach + 0.5).toInt())
        val last = min(length, (centre + reach + 0.5).toInt())
        val weights = DoubleArray(last - first) { filter.weight((first + it - centre + 0.5) * (1 / stretch)) }
        val whole = weights.sum()
        Taps(first, IntArray(weights.size) { fixed(weights[it] / whole) })
    }
}

private fun fixed(weight: Double): Int =
    (weight * (1 shl WEIGHT_BITS) + if (weight < 0) -0.5 else 0.5).toInt()

private fun upright(image: RgbImage, orientation: Int): RgbImage {
    val right = image.width - 1
    val bottom = image.height - 1
    return when (orientation) {
        2 -> moved(image, image.width, image.height) { row, column -> Pair(row, right - column) }
        3 -> moved(image, image.width, image.height) { row, column -> Pair(bottom - row, right - column) }
        4 -> moved(image, image.width, image.height) { row, column -> Pair(bottom - row, column) }
        5 -> moved(image, image.height, image.width) { row, column -> Pair(column, row) }
        6 -> moved(image, image.height, image.width) { row, column -> Pair(bottom - column, row) }
        7 -> moved(image, image.height, image.width) { row, column -> Pair(bottom - column, right - row) }
        8 -> moved(image, image.height, image.width) { row, column -> Pair(column, right - row) }
        else -> image
    }
}

/** Returns an image of this size whose pixels come from where `source` says, as row and column. */
private fun moved(image: RgbImage, width: Int, height: Int, source: (Int, Int) -> Pair<Int, Int>): RgbImage {
    val rgb = ByteArray(image.rgb.size)
    for (row in 0 until height) {
        for (column in 0 until width) {
            val (fromRow, fromColumn) = source(row, column)
            image.rgb.copyInto(rgb, (row * width + column) * 3, (fromRow * image.width + fromColumn) * 3,
                (fromRow * image.width + fromColumn) * 3 + 3)
        }
    }
    return RgbImage(width, height, rgb)
}

private fun crop(image: RgbImage, height: Int, width: Int): ByteArray {
    val top = halfToEven(image.height - height)
    val left = halfToEven(image.width - width)
    val rgb = ByteArray(height * width * 3)
    for (row in 0 until height) {
        val from = ((top + row) * image.width + left) * 3
        image.rgb.copyInto(rgb, row * width * 3, from, from + width * 3)
    }
    return rgb
}

/** Returns half of a number that is not negative, rounded to the nearest integer, and a half to the even one. */
private fun halfToEven(number: Int): Int = number / 2 + if (number % 4 == 3) 1 else 0
