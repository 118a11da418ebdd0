package com.example.libkd.core

import java.nio.ByteBuffer
import java.nio.ByteOrder

private const val PREFIX = 8 // bytes of the length of the header
private val SIZES = mapOf(
    "BOOL" to 1L, "U8" to 1L, "I8" to 1L, "U16" to 2L, "I16" to 2L, "F16" to 2L, "BF16" to 2L,
    "U32" to 4L, "I32" to 4L, "F32" to 4L, "U64" to 8L, "I64" to 8L, "F64" to 8L
)

/** A tensor as it lies in a file: its dtype in the words of safetensors, its shape and its little-endian bytes. */
class Tensor internal constructor(val dtype: String, val shape: List<Long>, private val bytes: ByteBuffer) {
    fun toBytes(): ByteArray = ByteArray(bytes.remaining()).also { bytes.duplicate().get(it) }

    fun toFloats(): FloatArray {
        check(dtype == "F32")
        val floats = bytes.duplicate().order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer()
        return FloatArray(floats.remaining()).also { floats.get(it) }
    }
}

/**
 * Returns the tensors of a safetensors file by name.
 *
 * As in the format's own reader, the tensors fill the file without a gap.
 */
fun readSafetensors(content: ByteArray, place: String): Map<String, Tensor> {
    try {
        return tensorsOf(content)
    } catch (fault: JsonError) {
        throw BundleError("$place can't be read (${fault.message}); export again")
    }
}

private fun tensorsOf(content: ByteArray): Map<String, Tensor> {
    if (content.size < PREFIX) throw JsonError("it is too short")
    val headerLength = ByteBuffer.wrap(content).order(ByteOrder.LITTLE_ENDIAN).long
    if (headerLength < 2 || headerLength > content.size - PREFIX) throw JsonError("its header is longer than the file")
    val start = PREFIX + headerLength.toInt()
    val header = parseJson(content.copyOfRange(PREFIX, start)) as? Map<*, *> ?: throw misfit("the header", "an object")
    val entries = header.filterKeys { it != "__metadata__" }.map { (name, value) ->
        readEntry(name as String, Fields(name, value))
    }
    var end = 0L
    for (entry in entries.sortedWith(compareBy({ it.begin }, { it.end }))) {
        if (entry.begin != end) throw JsonError("${entry.name} does not follow the tensor before it")
        end = entry.end
    }
    if (end != content.size.toLong() - start) throw JsonError("the tensors do not fill the file")
    return entries.associate {
        val bytes = ByteBuffer.wrap(content, start + it.begin.toInt(), (it.end - it.begin).toInt()).slice()
        Pair(it.name, Tensor(it.dtype, it.shape, bytes))
    }
}

private class Entry(val name: String, val dtype: String, val shape: List<Long>, val begin: Long, val end: Long)

private fun readEntry(name: String, fields: Fields): Entry {
    val dtype = fields.oneOf("dtype", *SIZES.keys.toTypedArray())
    val shape = fields.integers("shape", 0..Int.MAX_VALUE.toLong())
    val offsets = fields.integers("data_offsets", 0..Int.MAX_VALUE.toLong())
    if (offsets.size != 2) throw misfit("$name.data_offsets", "two numbers")
    var size = SIZES.getValue(dtype)
    for (length in shape) {
        size *= length
        if (size > Int.MAX_VALUE) throw JsonError("$name is larger than 2 GB")
    }
    if (offsets[1] - offsets[0] != size) throw JsonError("$name has another size than its shape")
    return Entry(name, dtype, shape, offsets[0], offsets[1])
}
