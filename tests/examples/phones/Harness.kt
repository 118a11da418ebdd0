package com.example.libkd.harness

import com.example.libkd.core.Bundle
import com.example.libkd.core.BundleError
import com.example.libkd.core.Classifier
import com.example.libkd.core.Folder
import com.example.libkd.core.Input
import com.example.libkd.core.LibkdError
import com.example.libkd.core.RgbImage
import com.example.libkd.core.Session
import com.example.libkd.core.pixels
import com.example.libkd.core.readSafetensors
import com.example.libkd.core.sha256
import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.file.Files

/** Runs the commands on standard input, one on a line, and answers each with one line. */
fun main() {
    System.`in`.bufferedReader().forEachLine { line ->
        val words = line.split('\t')
        println(
            try {
                run(words[0], words.drop(1))
            } catch (fault: LibkdError) {
                "${fault.code}\t${fault.message}"
            }
        )
    }
}

private fun run(command: String, words: List<String>): String = when (command) {
    "pixels" -> {
        val found = pixels(image(words, 2), Input.parse(File(words[0]).readBytes()), words[6].toInt())
        File(words[1]).writeBytes(found)
        "ok"
    }
    "open" -> "ok\t" + Bundle.open(Directory(File(words[0]))).description.labels.joinToString(",")
    "tensors" -> "ok\t" + readSafetensors(File(words[0]).readBytes(), "the file").toSortedMap().map { (name, tensor) ->
        "$name ${tensor.dtype} ${tensor.shape.joinToString("x")} ${sha256(tensor.toBytes())}"
    }.joinToString(",")
    "self-test" -> "ok\t" + classifier(words).selfTest()
    "classify" -> "ok\t" + classifier(words).classify(image(words, 2), words[6].toInt()).joinToString(",") {
        "${it.label}=${it.score}"
    }
    else -> throw IllegalArgumentException(command)
}

private fun classifier(words: List<String>) =
    Classifier(Bundle.open(Directory(File(words[0]))), Recorded(File(words[1])))

/** Reads an image from four words: its file, its width, its height and its number of channels. */
private fun image(words: List<String>, at: Int): RgbImage {
    val content = File(words[at]).readBytes()
    val width = words[at + 1].toInt()
    val height = words[at + 2].toInt()
    return if (words[at + 3] == "4") RgbImage.fromRgba(width, height, content) else RgbImage(width, height, content)
}

private class Directory(private val folder: File) : Folder {
    override fun names(): Set<String> = folder.list().orEmpty().toSet()

    override fun read(name: String, limit: Long): ByteArray? {
        val file = File(folder, name)
        if (Files.isSymbolicLink(file.toPath())) throw BundleError("$name is a link; copy the file itself")
        if (!file.isFile) return null
        return file.inputStream().use { it.readNBytes(minOf(limit + 1, Int.MAX_VALUE.toLong()).toInt()) }
    }
}

/** A session with the answers that the real engine gave before, in files called after the hash of the pixels. */
private class Recorded(private val folder: File) : Session {
    override val manifest: String = File(folder, "manifest.json").readText()

    override fun run(pixels: ByteArray): FloatArray {
        val bytes = File(folder, sha256(pixels)).readBytes()
        val floats = ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer()
        return FloatArray(floats.remaining()).also { floats.get(it) }
    }
}
