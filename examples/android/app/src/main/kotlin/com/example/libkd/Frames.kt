package com.example.libkd

import androidx.camera.core.ImageProxy
import com.example.libkd.core.RgbImage

/** Returns a camera's frame in RGBA, as the sensor sees it. */
fun ImageProxy.toRgbImage(): RgbImage {
    val plane = planes[0]
    val rgba = ByteArray(plane.buffer.remaining()).also { plane.buffer.get(it) }
    return RgbImage.fromRgba(width, height, rgba, plane.rowStride)
}

/** Returns EXIF's orientation of a frame that has to be turned clockwise by these degrees to be upright. */
fun orientationOf(rotationDegrees: Int): Int = when (rotationDegrees) {
    90 -> 6
    180 -> 3
    270 -> 8
    else -> 1
}
