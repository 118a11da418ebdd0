package com.example.libkd.core

import java.security.MessageDigest

const val MANIFEST = "bundle.json"
const val MODEL = "model.pte"
const val GOLDEN = "golden.safetensors"
private const val SIGNATURE = "bundle.sig"
private const val MAX_MANIFEST_BYTES = 16L shl 20
private const val MAX_SIGNATURE_BYTES = 4096L
private const val MAGIC = "ET12"
private const val MAGIC_OFFSET = 4
private const val HEX = "0123456789abcdef"

/** The folder of a bundle, wherever the platform keeps it. */
interface Folder {
    /** Returns the names of all that lies in the folder. */
    fun names(): Set<String>

    /** Returns the content of a file, or its first `limit` + 1 bytes if it is longer; null if there is no such file. */
    fun read(name: String, limit: Long): ByteArray?
}

/**
 * A bundle for ExecuTorch whose files have exactly the content that its manifest lists.
 *
 * Every file was read once: what the engine gets are the bytes that were hashed. Signatures are not checked.
 */
class Bundle private constructor(val description: Description, private val contents: Map<String, ByteArray>) {
    val model: ByteArray get() = contents.getValue(MODEL)

    /** Returns the golden images, or null if the bundle was made without. */
    fun golden(): Golden? = contents[GOLDEN]?.let { readGolden(it, description) }

    /**
     * Fails unless the model file was made for this manifest.
     *
     * @param carried the JSON that its method `libkd_bundle` returns.
     */
    fun checkCarried(carried: String) {
        val own = try {
            Description.parse(carried) == description
        } catch (fault: BundleError) {
            false
        }
        if (!own) throw BundleError("$MODEL was made for another $MANIFEST; copy the whole folder, or export again")
    }

    companion object {
        /** Reads and checks a bundle, in the order of spec/bundle.md. The engine has seen nothing yet. */
        fun open(folder: Folder): Bundle {
            val text = folder.read(MANIFEST, MAX_MANIFEST_BYTES)
                ?: throw BundleError("there is no $MANIFEST; copy the folder that export wrote")
            if (text.size > MAX_MANIFEST_BYTES) throw BundleError("$MANIFEST is larger than 16 MB; it is no manifest")
            val manifest = Manifest.parse(text)
            checkNames(folder, manifest)
            val contents = manifest.files.mapValues { (name, entry) -> readFile(folder, name, entry) }
            if (!hasMagic(contents.getValue(MODEL))) {
                throw BundleError("$MODEL is not a file of ExecuTorch; copy or export the bundle again")
            }
            return Bundle(manifest.description, contents)
        }
    }
}

private fun checkNames(folder: Folder, manifest: Manifest) {
    val target = manifest.description.target
    if (target != "executorch") {
        throw EngineMissing("this app has no $target; export the model with --target executorch")
    }
    if (MODEL !in manifest.files) throw BundleError("$MANIFEST does not list $MODEL; export again")
    manifest.files.keys.find { !isFileName(it) }?.let {
        throw BundleError("$MANIFEST lists '$it', which is not a valid name for a file in a bundle; export again")
    }
    val stranger = (folder.names() - manifest.files.keys - MANIFEST - SIGNATURE).sorted().firstOrNull()
    if (stranger != null) throw BundleError("the folder holds '$stranger', which $MANIFEST does not list; remove it")
    val signature = folder.read(SIGNATURE, MAX_SIGNATURE_BYTES)
    if (signature != null && signature.size > MAX_SIGNATURE_BYTES) {
        throw BundleError("$SIGNATURE is larger than a signature; remove it, or sign again")
    }
}

private fun readFile(folder: Folder, name: String, entry: FileEntry): ByteArray {
    val content = folder.read(name, entry.bytes)
        ?: throw BundleError("$name is missing; copy or export the bundle again")
    if (content.size.toLong() != entry.bytes) {
        throw BundleError("$name does not have ${entry.bytes} bytes; copy or export the bundle again")
    }
    if (sha256(content) != entry.sha256) {
        throw BundleError("$name was changed since its export (SHA-256 differs); copy or export it again")
    }
    return content
}

/** Returns the SHA-256 of a content, as 64 hexadecimal digits in lower case. */
fun sha256(content: ByteArray): String =
    MessageDigest.getInstance("SHA-256").digest(content).joinToString("") { byte ->
        val value = byte.toInt() and 0xff
        "${HEX[value shr 4]}${HEX[value and 15]}"
    }

/** Returns whether a model file begins like one of ExecuTorch, whose loader ends the process on anything else. */
private fun hasMagic(model: ByteArray): Boolean =
    model.size >= MAGIC_OFFSET + MAGIC.length && String(model, MAGIC_OFFSET, MAGIC.length, Charsets.ISO_8859_1) == MAGIC

private fun isFileName(name: String): Boolean =
    name.isNotEmpty() && !name.startsWith(".") && name != MANIFEST && name != SIGNATURE &&
        name.none { it == '/' || it == '\\' } && isPrintable(name)

private val UNPRINTABLE = setOf(
    Character.CONTROL, Character.FORMAT, Character.SURROGATE, Character.PRIVATE_USE, Character.UNASSIGNED,
    Character.LINE_SEPARATOR, Character.PARAGRAPH_SEPARATOR, Character.SPACE_SEPARATOR
)

private fun isPrintable(text: String): Boolean {
    var at = 0
    while (at < text.length) {
        val point = text.codePointAt(at)
        if (point != 0x20 && Character.getType(point).toByte() in UNPRINTABLE) return false
        at += Character.charCount(point)
    }
    return true
}
