package com.example.libkd

import android.content.res.AssetManager
import com.example.libkd.core.Folder
import java.io.FileNotFoundException
import java.io.InputStream

/** A folder among the assets of this app. */
class AssetFolder(private val assets: AssetManager, private val path: String) : Folder {
    override fun names(): Set<String> = assets.list(path).orEmpty().toSet()

    override fun read(name: String, limit: Long): ByteArray? =
        try {
            assets.open("$path/$name").use { readAtMost(it, limit + 1) }
        } catch (_: FileNotFoundException) {
            null
        }
}

private fun readAtMost(stream: InputStream, most: Long): ByteArray {
    val content = ByteArray(minOf(most, stream.available().toLong()).toInt()) // assets know their whole length
    var length = 0
    while (length < content.size) {
        val count = stream.read(content, length, content.size - length)
        if (count < 0) return content.copyOf(length)
        length += count
    }
    return content
}
