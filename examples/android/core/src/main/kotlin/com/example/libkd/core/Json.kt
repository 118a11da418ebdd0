package com.example.libkd.core

import java.nio.ByteBuffer
import java.nio.charset.CharacterCodingException
import java.nio.charset.Charset
import java.nio.charset.CodingErrorAction

/** The text is no JSON, or its values are not those that belong there. */
internal class JsonError(message: String) : Exception(message)

/** A number as it was written, because only its reader knows whether it has to be an integer. */
internal class JsonNumber(val text: String)

/**
 * Returns the value that UTF-8 bytes hold: a `Map`, a `List`, a `String`, a [JsonNumber], a `Boolean` or null.
 *
 * It takes exactly the JSON of RFC 8259: no comments, no trailing commas, no NaN. Of a repeated key, the last value
 * counts.
 */
internal fun parseJson(bytes: ByteArray): Any? = JsonParser(decodeUtf8(bytes)).document()

private fun decodeUtf8(bytes: ByteArray): String {
    val decoder = Charset.forName("UTF-8").newDecoder()
    decoder.onMalformedInput(CodingErrorAction.REPORT).onUnmappableCharacter(CodingErrorAction.REPORT)
    try {
        return decoder.decode(ByteBuffer.wrap(bytes)).toString()
    } catch (fault: CharacterCodingException) {
        throw JsonError("it is not UTF-8")
    }
}

private const val DEEPEST = 64 // a manifest nests four levels
private val NUMBER = Regex("-?(0|[1-9][0-9]*)(\\.[0-9]+)?([eE][+-]?[0-9]+)?")
private val ESCAPES =
    mapOf('"' to '"', '\\' to '\\', '/' to '/', 'b' to '\b', 'f' to '\u000c', 'n' to '\n', 'r' to '\r', 't' to '\t')

private class JsonParser(private val text: String) {
    private var at = 0

    fun document(): Any? {
        val value = value(0)
        skipSpace()
        if (at < text.length) throw wrong()
        return value
    }

    private fun value(depth: Int): Any? {
        if (depth > DEEPEST) throw JsonError("it nests too deep")
        skipSpace()
        return when (peek()) {
            '{' -> members(depth)
            '[' -> items(depth)
            '"' -> string()
            't' -> word("true", true)
            'f' -> word("false", false)
            'n' -> word("null", null)
            else -> number()
        }
    }

    private fun members(depth: Int): Map<String, Any?> {
        val members = LinkedHashMap<String, Any?>()
        at++
        skipSpace()
        if (taken('}')) return members
        do {
            skipSpace()
            if (peek() != '"') throw wrong()
            val key = string()
            skipSpace()
            if (!taken(':')) throw wrong()
            members[key] = value(depth + 1)
            skipSpace()
        } while (taken(','))
        if (!taken('}')) throw wrong()
        return members
    }

    private fun items(depth: Int): List<Any?> {
        val items = ArrayList<Any?>()
        at++
        skipSpace()
        if (taken(']')) return items
        do {
            items.add(value(depth + 1))
            skipSpace()
        } while (taken(','))
        if (!taken(']')) throw wrong()
        return items
    }

    private fun string(): String {
        val found = StringBuilder()
        at++
        while (peek() != '"') {
            val next = text[at++]
            if (next < ' ') throw wrong()
            found.append(if (next == '\\') escaped() else next)
        }
        at++
        return found.toString().also { if (!isWellFormed(it)) throw wrong() }
    }

    private fun escaped(): Char {
        val kind = peek()
        at++
        if (kind != 'u') return ESCAPES[kind] ?: throw wrong()
        val digits = text.substring(at, minOf(at + 4, text.length))
        if (!digits.matches(Regex("[0-9a-fA-F]{4}"))) throw wrong()
        at += 4
        return Character.toChars(digits.toInt(16))[0]
    }

    private fun number(): JsonNumber {
        val start = at
        while (at < text.length && text[at] in "+-.0123456789eE") at++
        val written = text.substring(start, at)
        if (!NUMBER.matches(written)) throw wrong()
        return JsonNumber(written)
    }

    private fun word(word: String, value: Any?): Any? {
        if (!text.startsWith(word, at)) throw wrong()
        at += word.length
        return value
    }

    private fun peek(): Char = if (at < text.length) text[at] else throw JsonError("it ends too early")

    private fun taken(wanted: Char): Boolean = (peek() == wanted).also { if (it) at++ }

    private fun skipSpace() {
        while (at < text.length && text[at] in " \t\n\r") at++
    }

    private fun wrong() = JsonError("it is malformed at character $at")
}

/** Returns whether each surrogate has its other half, which an escape can leave out. */
private fun isWellFormed(text: String): Boolean {
    var at = 0
    while (at < text.length) {
        val point = text.codePointAt(at)
        if (point in 0xd800..0xdfff) return false
        at += Character.charCount(point)
    }
    return true
}

/** Reads the values of an object by their keys. What is missing, of another kind, or was not asked for is an error. */
internal class Fields(private val path: String, value: Any?) {
    private val values = value as? Map<*, *> ?: throw misfit(path, "an object")
    private val asked = HashSet<String>()

    fun has(key: String): Boolean = key in values.keys

    /** Returns the value of a key that has to be there. */
    fun value(key: String): Any? {
        asked.add(key)
        if (!has(key)) throw JsonError("$path.$key is missing")
        return values[key]
    }

    fun isNull(key: String): Boolean = value(key) == null

    /** Returns the value of a key that may be absent, or null, which means the same. */
    fun <T> optional(key: String, read: (String) -> T): T? {
        asked.add(key)
        return if (values[key] == null) null else read(key)
    }

    /** Returns the value of a key that may be absent. */
    fun <T> withDefault(key: String, default: T, read: (String) -> T): T {
        asked.add(key)
        return if (has(key)) read(key) else default
    }

    fun inner(key: String): Fields = Fields("$path.$key", value(key))

    fun text(key: String): String = value(key) as? String ?: throw misfit("$path.$key", "a string")

    fun oneOf(key: String, vararg known: String): String =
        text(key).also { if (it !in known) throw misfit("$path.$key", "one of " + known.joinToString()) }

    fun integer(key: String, range: LongRange): Long =
        integerOf(value(key), range) ?: throw misfit("$path.$key", "an integer from ${range.first} to ${range.last}")

    fun number(key: String, allowed: (Double) -> Boolean): Double {
        val found = (value(key) as? JsonNumber)?.text?.toDouble()
        if (found == null || found.isNaN() || found.isInfinite() || !allowed(found)) {
            throw misfit("$path.$key", "a number in its range")
        }
        return found
    }

    fun integers(key: String, range: LongRange): List<Long> =
        list(key).map { integerOf(it, range) ?: throw misfit("$path.$key", "integers in their range") }

    fun texts(key: String): List<String> = list(key).map { it as? String ?: throw misfit("$path.$key", "strings") }

    private fun list(key: String): List<*> = value(key) as? List<*> ?: throw misfit("$path.$key", "an array")

    /** Returns what `read` makes of each member of an object whose keys are free. */
    fun <T> each(key: String, read: (Fields, String) -> T): Map<String, T> {
        val members = inner(key)
        return members.values.keys.map { it as String }.associateWith { read(members, it) }
    }

    /** Fails if the object has a key that was not asked for. */
    fun finish() {
        val unknown = values.keys.firstOrNull { it !in asked } ?: return
        throw JsonError("$path has the unknown key '$unknown'")
    }
}

internal fun misfit(path: String, wanted: String) = JsonError("$path has to be $wanted")

private fun integerOf(value: Any?, range: LongRange): Long? =
    (value as? JsonNumber)?.text?.toLongOrNull()?.takeIf { it in range }
